"""Constraint problems as text.

    problem   := statement (";" statement)* [";"]
    statement := [name ":"] condition
    condition := branch ("|" branch)*                     # any of the branches
    branch    := relation | "(" statement (";" statement)* ")"
    relation  := expression ("<=" | ">=" | "<" | ">" | "==" | "!=") expression
               | expression "%" expression "==" "0"       # is a multiple of
               | name "in" "[" integer ("," integer)* "]" | name "in" integer ".." integer

Expressions are those of :mod:`flashc.ir.intparse`; ``#`` starts a comment. ``name in ...`` at the outer level
declares a variable. A statement without a name is named by its own text.

    >>> problem = parse_problem("a in 1..9; b in [2, 4]; sum: a + b <= 10; a % b == 0 | a == 7")
    >>> [part.name for part in problem.constraints]
    ['sum', 'a % b == 0 | a == 7']
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from flashc.autotune.problem import AllOf, AnyOf, Condition, Constraint, Interval, Op, Problem, Variable
from flashc.errors import ConstraintError
from flashc.ir.intexpr import RESERVED, Const, IntExpr, Mod, Sym
from flashc.ir.intparse import Reader, Token

RELATIONS = ("<=", ">=", "<", ">", "==", "!=")


@dataclass(frozen=True, slots=True)
class Membership:
    """``name in domain``: a declaration at the outer level, a condition inside a disjunction."""

    variable: Variable
    at: int

    def condition(self, name: str) -> Condition:
        value, domain = Sym(self.variable.name), self.variable.domain
        if isinstance(domain, Interval):
            ends = (
                Constraint(name, Const(domain.lo), "<=", value),
                Constraint(name, value, "<=", Const(domain.hi)),
            )
            return AllOf(name, ends)
        return AnyOf(name, tuple(Constraint(name, value, "==", Const(choice)) for choice in domain))


def parse_problem(
    text: str,
    *,
    given: Mapping[str, int] | None = None,
    objective: str | None = None,
    tie_break: tuple[tuple[str, Literal["smallest", "largest"]], ...] = (),
) -> Problem:
    """The problem that ``text`` states; names in ``given`` become their values and need no declaration.

    ``objective`` is an expression to minimise. Raises ConstraintError with line, column and what is allowed.
    """
    known = dict(given or {})
    variables, conditions = _Language(text, ConstraintError).problem()
    for variable in variables:
        if variable.name in known and not variable.allows(known[variable.name]):
            raise ConstraintError(
                f"given {variable.name} = {known[variable.name]} is outside its declared domain"
            )
    goal = None
    if objective is not None:
        reader = Reader(objective, ConstraintError)
        goal = reader.expression().subs(known)
        reader.expect_end()
    return Problem(
        tuple(variable for variable in variables if variable.name not in known),
        tuple(condition.subs(known) for condition in conditions),
        goal,
        tie_break,
    )


def parse_constraints(text: str) -> tuple[Condition, ...]:
    """The conditions that ``text`` states, for a problem whose variables come from elsewhere.

    Raises ConstraintError with line, column and what is allowed; declarations (``x in ...``) are refused.
    """
    variables, conditions = _Language(text, ConstraintError).problem()
    if variables:
        raise ConstraintError(f"{variables[0].name!r} is declared in text that may hold conditions only")
    return conditions


class _Language(Reader):
    def problem(self) -> tuple[list[Variable], tuple[Condition, ...]]:
        variables: list[Variable] = []
        conditions: list[Condition] = []
        while self.token.kind != "end":
            parsed = self.statement()
            if isinstance(parsed, Membership):
                self._refuse_repeat(parsed, variables)
                variables.append(parsed.variable)
            else:
                conditions.append(_renamed(parsed, [part.name for part in conditions]))
            if self.accept(";") is None:
                self.expect_end()
        return variables, tuple(conditions)

    def _refuse_repeat(self, found: Membership, variables: list[Variable]) -> None:
        if found.variable.name in [variable.name for variable in variables]:
            raise self.complaint(found.at, f"variable {found.variable.name!r} is declared twice")

    def statement(self) -> Condition | Membership:
        """One statement; a lone ``name in ...`` comes back as a Membership."""
        label = None
        if self.token.kind == "name" and self.tokens[self.position + 1].text == ":":
            label = self.next().text
            self.next()
        start = self.token.at
        branches = [self.branch()]
        while self.accept("|"):
            branches.append(self.branch())
        name = label or _one_line(self.text[start : self._end_of_last_token()])
        if len(branches) == 1:
            only = branches[0]
            return only if isinstance(only, Membership) else replace(only, name=name)
        return AnyOf(name, tuple(_as_condition(branch) for branch in branches))

    def branch(self) -> Condition | Membership:
        """A relation or a bracketed group; ``(`` may open either, so the group is tried first."""
        if self.token.text != "(":
            return self.relation()
        start = self.position
        try:
            group = self.group()
            if self.token.kind == "end" or self.token.text in (";", "|", ")"):
                return group
            failure = self.complaint(
                self.token.at, f"expected ';', '|' or the end, found {self.token.text!r}"
            )
        except ConstraintError as error:
            failure = error
        reached = self.position
        self.position = start
        try:
            return self.relation()
        except ConstraintError as error:
            raise (failure if reached > self.position else error) from None

    def group(self) -> Condition:
        start = self.token.at
        self.expect("(")
        parts = [_as_condition(self.statement())]
        while self.accept(";"):
            parts.append(_as_condition(self.statement()))
        self.expect(")")
        name = _one_line(self.text[start : self._end_of_last_token()])
        return AllOf(name, tuple(parts)) if len(parts) > 1 else parts[0]

    def relation(self) -> Constraint | Membership:
        following = self.tokens[min(self.position + 1, len(self.tokens) - 1)]
        if self.token.kind == "name" and following.text == "in":
            return self.membership()
        start = self.token.at
        left = self.expression()
        at = self.token.at
        sign = self.accept(*RELATIONS)
        if sign is None:
            raise self.complaint(at, f"expected one of {' '.join(RELATIONS)}, found {self.token.text!r}")
        right = self.expression()
        if self.token.text in RELATIONS:
            raise self.complaint(
                self.token.at, "comparisons do not chain; write two statements joined by ';'"
            )
        return _constraint(_one_line(self.text[start : self._end_of_last_token()]), left, sign, right)

    def membership(self) -> Membership:
        name = self.next()
        if name.text in RESERVED:
            raise self.complaint(name.at, f"{name.text!r} cannot be a variable")
        self.expect("in")
        if self.accept("["):
            values = [self.integer()]
            while self.accept(","):
                values.append(self.integer())
            self.expect("]")
            return Membership(Variable(name.text, tuple(values)), name.at)
        lo = self.integer()
        self.expect("..", "; a domain is written [1, 2, 4] or 1..64")
        return Membership(Variable(name.text, Interval(lo, self.integer())), name.at)

    def integer(self) -> int:
        token: Token = self.token
        value = self.unary()
        if not isinstance(value, Const):
            raise self.complaint(token.at, f"expected an integer, found {token.text!r}")
        return value.value

    def _end_of_last_token(self) -> int:
        last = self.tokens[self.position - 1]
        return last.at + len(last.text)


def _constraint(name: str, left: IntExpr, sign: str, right: IntExpr) -> Constraint:
    if sign in (">=", ">"):
        left, right, sign = right, left, {">=": "<=", ">": "<"}[sign]
    if sign == "<":
        return Constraint(name, left + 1, "<=", right)
    if sign == "==" and isinstance(left, Mod) and right == Const(0):
        return Constraint(name, left.num, "%==0", left.den)
    op: Op = "<=" if sign == "<=" else "==" if sign == "==" else "!="
    return Constraint(name, left, op, right)


def _as_condition(parsed: Condition | Membership) -> Condition:
    if isinstance(parsed, Membership):
        return parsed.condition(f"{parsed.variable.name} in its list")
    return parsed


def _renamed(condition: Condition, taken: list[str]) -> Condition:
    """The condition under a name that is not taken: repeated text gets a number."""
    name, number = condition.name, 2
    while name in taken:
        name = f"{condition.name} ({number})"
        number += 1
    return replace(condition, name=name)


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"#[^\n]*", "", text)).strip()
