"""Sympy expressions as a report sets them: text, LaTeX, and MathML that browsers draw without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashc.iomodel.named_sums import pieces
from flashc.report.facts import Formula, Term

Sums = Mapping[Any, Any]  # sympy sums and the symbols that stand for them


def formula(expression: Any, sums: Sums) -> Formula:
    """The expression three ways, its sums by name; ``Lq``, ``Ti`` and ``N1`` get a subscript in the typeset ones."""
    import sympy

    short = expression.xreplace(sums)
    text = "; ".join(f"{value} {when}".rstrip() for value, when in pieces(short))
    typeset = short.subs({s: sympy.Symbol(_subscripted(s.name)) for s in short.free_symbols})
    return Formula(text, sympy.latex(typeset), f'<math display="block">{_mathml(typeset)}</math>')


def definitions(expressions: Sequence[Any], sums: Sums) -> tuple[Term, ...]:
    """What the names in these expressions stand for."""
    used = {symbol for e in expressions for symbol in e.xreplace(sums).free_symbols}
    return tuple(Term(name.name, formula(total, {})) for total, name in sums.items() if name in used)


def _mathml(expression: Any) -> str:
    """Presentation MathML; sympy's printer has none for cases, which become rows behind a brace."""
    import sympy
    from sympy.printing.mathml import mathml

    def printed(part: Any) -> str:
        return str(mathml(part, printer="presentation")).replace("<mo><</mo>", "<mo>&lt;</mo>")  # sympy leaves it bare

    if not isinstance(expression, sympy.Piecewise):
        return printed(expression)
    rows = []
    for value, condition in expression.args:
        when = "<mtext>otherwise</mtext>" if condition == sympy.true else f"<mtext>if\u00a0</mtext>{printed(condition)}"
        rows.append(f"<mtr><mtd>{printed(value)}</mtd><mtd>{when}</mtd></mtr>")
    table = f'<mtable displaystyle="true" columnalign="left left" rowspacing="1.2ex">{"".join(rows)}</mtable>'
    return f'<mrow><mo fence="true" stretchy="true">{{</mo>{table}</mrow>'


def _subscripted(name: str) -> str:
    plain = len(name) > 1 and name[0].isupper() and name[1:].islower()
    return f"{name[0]}_{name[1:]}" if plain else name
