"""Loop nests of elementwise computations, cut until conditions are decided and indices are sums.

Concatenation, padding and slices ask at every element where its value comes from; a reshaped tensor divides its
indices. A nest is cut in two where a condition changes, and a loop is split where an index divides, so that neither is
left to the inner loops. What no cut decides stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir import Call
from tvm_ffi import structural_map, structural_walk

from cospipe.backends.tvm.kernels.expressions import Expr

_MOST_NESTS = 64
_CHOICE = "prim.if_then_else"
_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE)


@dataclass(frozen=True)
class Loop:
    """A loop from zero."""

    variable: Any
    extent: int


@dataclass(frozen=True)
class Nest:
    """A box of results.

    Parameters
    ----------
    loops : tuple of Loop
        Outermost first; each result is computed on its own, in any order.
    index : tuple of Expr
        Where a result is stored.
    value : Expr
        What is stored.
    """

    loops: tuple[Loop, ...]
    index: tuple[Expr, ...]
    value: Expr

    def analyzer(self) -> sym.Analyzer:
        """Return TVM's simplifier, which knows the ranges of the loops."""
        analyzer = sym.Analyzer()
        for loop in self.loops:
            analyzer.bind(loop.variable, tvm.ir.Range(_like(loop.variable, 0), _like(loop.variable, loop.extent)))
        return analyzer

    def with_loops(self, loops: Sequence[Loop], variables: Mapping[Any, Expr]) -> Nest:
        """Return the nest with other loops; ``variables`` says what became of those that are gone."""
        index = [substitute(expression, variables) for expression in self.index]
        return Nest(tuple(loops), tuple(index), substitute(self.value, variables))

    def simplified(self) -> Nest:
        """Return the nest without loops of one step and without what its ranges decide."""
        single = {loop.variable: _like(loop.variable, 0) for loop in self.loops if loop.extent == 1}
        nest = self.with_loops([loop for loop in self.loops if loop.extent > 1], single)
        simplify = nest.analyzer().simplify
        return Nest(nest.loops, tuple(simplify(e) for e in nest.index), simplify(nest.value))

    def cut(self, loop: Loop, position: int) -> list[Nest]:
        """Return the parts of the nest before and from a step of a loop on."""
        first, second = Loop(loop.variable, position), Loop(loop.variable, loop.extent - position)
        moved = {loop.variable: loop.variable + _like(loop.variable, position)}
        parts = [self.with_loops(self._replaced(loop, [first]), {})]
        parts.append(self.with_loops(self._replaced(loop, [second]), moved))
        return [part.simplified() for part in parts]

    def split(self, loop: Loop, size: int) -> Nest:
        """Return the nest with a loop in two: steps of ``size``, and those between."""
        outer, inner = (_variable_like(loop.variable, name) for name in ("outer", "inner"))
        loops = self._replaced(loop, [Loop(outer, loop.extent // size), Loop(inner, size)])
        whole = {loop.variable: outer * _like(loop.variable, size) + inner}
        return self.with_loops(loops, whole).simplified()

    def _replaced(self, loop: Loop, others: Sequence[Loop]) -> list[Loop]:
        position = self.loops.index(loop)
        return [*self.loops[:position], *others, *self.loops[position + 1 :]]


def coefficients(expression: Expr, loops: Sequence[Loop]) -> tuple[list[int], int] | None:
    """Return an expression as factors of some loops and a constant, or None when it is no such sum."""
    terms = sym.detect_linear_equation(expression, [loop.variable for loop in loops])
    if not len(terms) or not all(isinstance(term, tirx.IntImm) for term in terms):
        return None
    *factors, constant = (int(term) for term in terms)
    return factors, constant


def cut_nest(nest: Nest) -> list[Nest]:
    """Return nests that together compute the same, cut as long as that decides a condition or a division."""
    waiting = [nest.simplified()]
    done: list[Nest] = []
    while waiting:
        current = waiting.pop()
        parts = _parts(current) if len(waiting) + len(done) < _MOST_NESTS else []
        waiting += parts[::-1]
        if not parts:
            done.append(current)
    return done


def _parts(nest: Nest) -> list[Nest]:
    for comparison in _comparisons(nest):
        if place := _change(nest, comparison):
            return nest.cut(*place)
    for division in _divisions(nest):
        if parts := _parts_of_division(nest, division):
            return parts
    return []


def is_choice(call: Call) -> bool:
    """Tell whether a call computes only one of two values, by a condition."""
    return isinstance(call.op, tvm.ir.Op) and str(call.op.name) == _CHOICE


def _comparisons(nest: Nest) -> Iterator[Expr]:
    """Find the comparisons of integers in conditions, and those that minima and maxima of integers make."""
    conditions: list[Expr] = []

    def note(node: Expr) -> None:
        if isinstance(node, tirx.Select):
            conditions.append(node.condition)
        elif is_choice(node):
            conditions.append(node.args[0])

    structural_walk(nest.value, ((Call, tirx.Select), note))
    found: list[Expr] = []
    for condition in conditions:
        structural_walk(condition, (_COMPARISONS, found.append))
    for expression in (*nest.index, nest.value):
        structural_walk(expression, ((tirx.Min, tirx.Max), lambda extreme: found.append(tirx.LT(extreme.a, extreme.b))))
    return (comparison for comparison in found if "int" in str(comparison.a.ty.dtype))


def _change(nest: Nest, comparison: Expr) -> tuple[Loop, int] | None:
    """Return the loop, and the step of it, from which on a comparison is decided, or no longer is, or is otherwise.

    None when the comparison takes turns with several loops: as for the entries on one side of a matrix's diagonal.
    """
    terms = coefficients(comparison.a - comparison.b, nest.loops)
    if terms is None or not any(terms[0]):
        return None
    spans = [(factor, loop) for factor, loop in zip(terms[0], nest.loops, strict=True) if factor]
    factor, loop = max(spans, key=lambda span: abs(span[0]))
    rest = [f * (other.extent - 1) for f, other in spans if other != loop]
    bounds = [terms[1] + sum(r for r in rest if (r > 0) == upwards) for upwards in (False, True)]
    near = {-bound // factor + nearby for bound in bounds for nearby in range(-1, 3)}
    starts = [0, *sorted(step for step in near if 0 < step < loop.extent)]
    results = [{_holds(comparison, factor * start + bound) for bound in bounds} for start in starts]
    lengths = [end - start for start, end in zip(starts, [*starts[1:], loop.extent], strict=True)]
    if 2 * sum(length for length, result in zip(lengths, results, strict=True) if len(result) == 1) < loop.extent:
        return None
    changes = (start for i, start in enumerate(starts) if i and results[i] != results[i - 1])
    return next(((loop, start) for start in changes), None)


def _holds(comparison: Expr, difference: int) -> bool:
    if isinstance(comparison, tirx.LT):
        return difference < 0
    if isinstance(comparison, tirx.LE):
        return difference <= 0
    return difference > 0 if isinstance(comparison, tirx.GT) else difference >= 0


def _divisions(nest: Nest) -> list[Expr]:
    found: list[Expr] = []
    for expression in (*nest.index, nest.value):
        structural_walk(expression, ((tirx.FloorDiv, tirx.FloorMod), found.append))
    return [division for division in found if isinstance(division.b, tirx.IntImm)]


def _parts_of_division(nest: Nest, division: Expr) -> list[Nest]:
    """Split the loop that carries a quotient from one value to the next."""
    divisor, terms = int(division.b), coefficients(division.a, nest.loops)
    if terms is None:
        return []
    factors, constant = terms
    for loop, factor in zip(nest.loops, factors, strict=True):
        if not 0 < factor < divisor or divisor % factor or factor * loop.extent <= divisor:
            continue
        size, is_alone = divisor // factor, sum(f != 0 for f in factors) == 1
        ahead = -constant % divisor // factor
        if is_alone and 0 < ahead < loop.extent:
            return nest.cut(loop, ahead)
        whole = loop.extent // size * size
        return [nest.split(loop, size)] if whole == loop.extent else nest.cut(loop, whole)
    return []


def substitute(expression: Expr, variables: Mapping[Any, Expr]) -> Expr:
    """Return an expression with variables replaced."""
    if not variables:
        return expression
    return structural_map(expression, (tirx.Var, lambda variable: variables.get(variable, variable)))


def _like(variable: Any, value: int) -> Expr:
    return tirx.const(value, str(variable.ty.dtype))


def _variable_like(variable: Any, name: str) -> Any:
    return tirx.Var(f"{variable.name}_{name}", str(variable.ty.dtype))
