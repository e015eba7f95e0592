"""What a constraint problem is made of: variables, named conditions, an objective and an order for ties.

Nothing here knows of kernels. The numbers of a constraint are ``left`` (needed) and ``right`` (the limit).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from flashc.errors import ConstraintError
from flashc.ir.intexpr import Const, IntExpr, IntLike, Mod, check_name, imax, imin

if TYPE_CHECKING:
    from typing_extensions import Self

Op = Literal["<=", "==", "!=", "%==0"]
Assignment = Mapping[str, int]
Mask = npt.NDArray[np.bool_]
LARGEST = 2**40
OPS = ("<=", "==", "!=", "%==0")


@dataclass(frozen=True, slots=True)
class Interval:
    """Every integer from ``lo`` to ``hi``, both included."""

    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class Variable:
    """A finite integer variable; a tuple lists its values, in any order."""

    name: str
    domain: tuple[int, ...] | Interval

    def __post_init__(self) -> None:
        check_name(self.name)
        if isinstance(self.domain, Interval) and self.domain.lo > self.domain.hi:
            raise ConstraintError(f"variable {self.name}: {self.domain.lo}..{self.domain.hi} is empty")
        if not isinstance(self.domain, Interval) and not self.domain:
            raise ConstraintError(f"variable {self.name}: its list of values is empty")
        ends = (self.domain.lo, self.domain.hi) if isinstance(self.domain, Interval) else self.domain
        if max(map(abs, ends)) > LARGEST:
            raise ConstraintError(f"variable {self.name}: values must be within +-2^40; use a coarser unit")

    def allows(self, value: int) -> bool:
        if isinstance(self.domain, Interval):
            return self.domain.lo <= value <= self.domain.hi
        return value in self.domain


@dataclass(frozen=True, slots=True)
class Constraint:
    """``left op right``; the op ``%==0`` means that left is a multiple of right.

    ``unit`` (such as ``B``) follows the numbers in messages; ``knob`` says what to change when it fails.
    """

    name: str
    left: IntExpr
    op: Op
    right: IntExpr = Const(0)
    unit: str = ""
    knob: str = ""

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ConstraintError(f"constraint {self.name}: op {self.op!r} is not one of {', '.join(OPS)}")

    def symbols(self) -> frozenset[str]:
        return self.left.symbols() | self.right.symbols()

    def expressions(self) -> tuple[IntExpr, ...]:
        return (self.left, self.right)

    def subs(self, mapping: Mapping[str, IntLike]) -> Constraint:
        return replace(self, left=self.left.subs(mapping), right=self.right.subs(mapping))

    def holds(self, env: Mapping[str, Any]) -> bool:
        """Whether it holds at one point; exact. ``env`` also gives the tables."""
        left, right = self.left.evaluate(env), self.right.evaluate(env)
        if self.op == "%==0":
            return right != 0 and left % right == 0
        return left <= right if self.op == "<=" else (left == right) == (self.op == "==")

    def holds_array(self, env: Mapping[str, Any]) -> Mask:
        """Whether it holds, for all candidates of ``env`` (arrays that broadcast)."""
        left, right = self.left.evaluate_array(env), self.right.evaluate_array(env)
        if self.op == "%==0":
            return np.asarray((right != 0) & (left % np.where(right == 0, 1, right) == 0))
        if self.op == "<=":
            return np.asarray(left <= right)
        return np.asarray((left == right) == (self.op == "=="))

    def violation(self) -> IntExpr:
        """How far the condition is from holding: 0 where it holds, positive elsewhere."""
        excess = self.left - self.right
        if self.op == "<=":
            return imax(excess, 0)
        if self.op == "%==0":
            return self.left % self.right
        return imax(excess, -excess) if self.op == "==" else imax(0, 1 - imax(excess, -excess))

    def __str__(self) -> str:
        if self.op == "%==0":
            return f"{Mod(self.left, self.right)} == 0"
        return f"{self.left} {self.op} {self.right}"


@dataclass(frozen=True, slots=True)
class Group:
    """Several conditions under one name (at least one); ``knob`` as in Constraint."""

    name: str
    conditions: tuple[Condition, ...]
    knob: str = ""

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ConstraintError(f"{self.name}: a group needs at least one condition")

    def symbols(self) -> frozenset[str]:
        return frozenset().union(*(part.symbols() for part in self.conditions))

    def expressions(self) -> tuple[IntExpr, ...]:
        return tuple(expr for part in self.conditions for expr in part.expressions())

    def subs(self, mapping: Mapping[str, IntLike]) -> Self:
        return replace(self, conditions=tuple(part.subs(mapping) for part in self.conditions))


class AnyOf(Group):
    """At least one of the conditions."""

    __slots__ = ()

    def holds(self, env: Mapping[str, Any]) -> bool:
        return any(part.holds(env) for part in self.conditions)

    def holds_array(self, env: Mapping[str, Any]) -> Mask:
        mask = np.asarray(False)
        for part in self.conditions:
            mask = mask | part.holds_array(env)
        return mask

    def violation(self) -> IntExpr:
        return imin(*(part.violation() for part in self.conditions))

    def __str__(self) -> str:
        return " | ".join(f"({part})" for part in self.conditions)


class AllOf(Group):
    """Every one of the conditions (a branch of an AnyOf that has several lines)."""

    __slots__ = ()

    def holds(self, env: Mapping[str, Any]) -> bool:
        return all(part.holds(env) for part in self.conditions)

    def holds_array(self, env: Mapping[str, Any]) -> Mask:
        mask = np.asarray(True)
        for part in self.conditions:
            mask = mask & part.holds_array(env)
        return mask

    def violation(self) -> IntExpr:
        return sum((part.violation() for part in self.conditions), Const(0))

    def __str__(self) -> str:
        return "; ".join(f"({part})" for part in self.conditions)


Condition: TypeAlias = "Constraint | AnyOf | AllOf"


@dataclass(frozen=True, slots=True)
class Problem:
    """Find the k points of least ``objective`` among those where every condition holds.

    Equal objectives (or none) are ordered by ``tie_break``, pairs of a variable and "smallest" or "largest"
    first, then by the variables as declared, smallest first. ``tables`` holds the integer arrays that
    ``Item`` reads. Raises ConstraintError for unknown or repeated names.
    """

    variables: tuple[Variable, ...]
    constraints: tuple[Condition, ...] = ()
    objective: IntExpr | None = None
    tie_break: tuple[tuple[str, Literal["smallest", "largest"]], ...] = ()
    tables: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        names = [variable.name for variable in self.variables]
        for kind, seen in (("variable", names), ("constraint", [part.name for part in self.constraints])):
            repeated = sorted({name for name in seen if seen.count(name) > 1})
            if repeated:
                raise ConstraintError(f"{kind} {repeated[0]!r} is declared twice; rename one")
        for part in self.constraints:
            self._check_names(f"constraint {part.name!r}", part.expressions(), names)
        if self.objective is not None:
            self._check_names("the objective", (self.objective,), names)
        for name, direction in self.tie_break:
            if name not in names or direction not in ("smallest", "largest"):
                raise ConstraintError(f"tie_break ({name!r}, {direction!r}): need a variable and a direction")

    def _check_names(self, where: str, expressions: tuple[IntExpr, ...], names: list[str]) -> None:
        for expr in expressions:
            unknown = sorted(expr.symbols() - set(names)) + sorted(expr.tables() - set(self.tables))
            if unknown:
                known = ", ".join([*names, *self.tables])
                raise ConstraintError(f"{where}: {unknown[0]!r} is not declared; known: {known}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(variable.name for variable in self.variables)

    def ranking(self) -> tuple[tuple[str, int], ...]:
        """The order among equal objectives: (variable, +1 for smallest first or -1 for largest first)."""
        asked = [(name, 1 if direction == "smallest" else -1) for name, direction in self.tie_break]
        return (*asked, *((name, 1) for name in self.names if name not in dict(asked)))
