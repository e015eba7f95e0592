"""Statements of attention and its gradients in a line each, and the bounds that are found for them."""

from __future__ import annotations

from typing import Any

from flashc.iomodel.attention import attention_bounds
from flashc.iomodel.statements import Array, Cascade, Index, Reference, Statement
from flashc.ir.intexpr import Const, IntExpr, Sym
from flashc.ir.intparse import parse_int

SIZES = {"n": 512, "m": 768, "d": 64, "e": 32}
WORD = 2
EXTENTS = {"i": "n", "j": "m", "k": "d", "c": "e"}


def reference(text: str) -> Reference:
    """``a[i, j // 2]``."""
    name, _, rest = text.partition("[")
    return Reference(name, tuple(parse_int(x) for x in rest.rstrip("]").split(",") if x))


def statement(text: str, **ranges: tuple[IntExpr, IntExpr]) -> Statement:
    """``s[i,j] += q[i,k] k[j,k]`` with indices in order of appearance, 0 <= index < its extent by default."""
    target, update, *operands = text.split()
    parts = [reference(x) for x in (target, *operands)]
    names = dict.fromkeys(s for r in parts for x in r.subscripts for s in sorted(x.symbols()))
    default = {x: (Const(0), Sym(EXTENTS.get(x, x.upper()))) for x in names}
    indices = tuple(Index(x, *ranges.get(x, default[x])) for x in names)
    return Statement(target.split("[")[0], indices, parts[0], update, tuple(parts[1:]))  # type: ignore[arg-type]


def build(inputs: str, outputs: str, *statements: Statement, storage: dict[str, str] | None = None) -> Cascade:
    """A cascade of half-precision arrays; what is neither input nor output is a temp."""
    roles: dict[str, Any] = {**dict.fromkeys(inputs.split(), "in"), **dict.fromkeys(outputs.split(), "out")}
    named = dict.fromkeys(r.array for s in statements for r in (s.target, *s.operands))
    arrays = tuple(Array(x, WORD, roles.get(x, "temp"), (storage or {}).get(x, "")) for x in named)
    used = {s for x in statements for i in x.indices for s in i.upper.symbols()}
    return Cascade("test", tuple(x for x in SIZES if x in used), arrays, statements)


def plain(**more: Any) -> Cascade:
    return build("a b c", "out", statement("s[i,j] += a[i,k] b[j,k]"), statement("p[i,j] = s[i,j] top[i]"),
                 statement("out[i,c] += p[i,j] c[j,c]"), **more)


def backward(kept: str = "dq dk dv") -> Cascade:
    lines = {
        "dv": "dv[j,k] += p[i,j] g[i,k]", "dq": "dq[i,k] += ds[i,j] b[j,k]", "dk": "dk[j,k] += ds[i,j] a[i,k]",
    }
    return build("a b c g", kept, statement("s[i,j] += a[i,k] b[j,k]"), statement("p[i,j] = s[i,j] lse[i]"),
                 statement("dp[i,j] += g[i,k] c[j,k]"), statement("ds[i,j] = p[i,j] dp[i,j] delta[i]"),
                 *(statement(lines[x]) for x in kept.split()))


def bound(found: Cascade, rule: str = "attention A") -> Any:
    return next(b for b in attention_bounds(found) if b.rule == rule)


def words(found: Cascade, fast_words: float, rule: str = "attention A", **sizes: int) -> float:
    return bound(found, rule).at({**SIZES, **sizes}, WORD * fast_words).total / WORD  # type: ignore[no-any-return]
