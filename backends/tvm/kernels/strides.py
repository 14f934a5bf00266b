"""How the reads and the store of a loop nest move through memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir import Call, TensorLoad
from tvm_ffi import structural_equal, structural_map, structural_walk

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.nests import Loop, Nest, coefficients, is_choice, substitute


@dataclass(frozen=True)
class Access:
    """Positions in the flat memory of a buffer.

    Parameters
    ----------
    buffer : Var
        What is read or stored to.
    base : Expr
        Position at the start of all loops with a step.
    steps : tuple of (int or None)
        How far each loop moves on; None for a loop that ``base`` depends on, of which the position is no sum.
    """

    buffer: Any
    base: Expr
    steps: tuple[int | None, ...]


@dataclass(frozen=True)
class Accesses:
    """A loop nest with its accesses apart from what it computes.

    Parameters
    ----------
    loops : tuple of Loop
        Outermost first.
    store : Access
        Where results go.
    reads : tuple of Access
        What is read, each once.
    value : Expr
        What is computed; the variable ``names[i]`` stands for ``reads[i]``.
    names : tuple of Var
        Of the reads.
    """

    loops: tuple[Loop, ...]
    store: Access
    reads: tuple[Access, ...]
    value: Expr
    names: tuple[Any, ...]

    @property
    def used_variables(self) -> set[Any]:
        """Loop variables that are computed with, beyond the steps of accesses."""
        variables: list[Any] = []
        for expression in (self.value, *(access.base for access in (self.store, *self.reads))):
            structural_walk(expression, (tirx.Var, variables.append))
        return set(variables) & {loop.variable for loop in self.loops}

    @property
    def conditional_reads(self) -> set[Any]:
        """Names of reads that depend on a condition; where it does not hold, they may lie outside their buffer."""
        choices: list[Any] = []
        structural_walk(self.value, (Call, lambda call: choices.append(call) if is_choice(call) else None))
        variables: list[Any] = []
        for choice in choices:
            for branch in choice.args[1:]:
                structural_walk(branch, (tirx.Var, variables.append))
        return set(variables) & set(self.names)


def find_accesses(nest: Nest, output: Any) -> Accesses:
    """Return the accesses of a nest that stores to a buffer."""
    analyzer = nest.analyzer()
    reads: list[Access] = []
    names: list[Any] = []

    def note(load: Any) -> Any:
        access = _access(load.source, load.indices, nest.loops, analyzer)
        for name, known in zip(names, reads, strict=True):
            if _are_equal(access, known):
                return name
        reads.append(access)
        names.append(tirx.Var("read", str(load.ty.dtype)))
        return names[-1]

    value = structural_map(nest.value, (TensorLoad, note), order="pre")
    return Accesses(nest.loops, _access(output, nest.index, nest.loops, analyzer), tuple(reads), value, tuple(names))


def _are_equal(one: Access, other: Access) -> bool:
    return (
        one.buffer.same_as(other.buffer) and one.steps == other.steps and bool(structural_equal(one.base, other.base))
    )


def _access(buffer: Any, index: Sequence[Expr], loops: Sequence[Loop], analyzer: sym.Analyzer) -> Access:
    shape = [int(extent) for extent in buffer.ty.shape]
    position: Expr = tirx.const(0, "int64")
    for axis, place in enumerate(index):
        position = position + place.astype("int64") * tirx.const(prod(shape[axis + 1 :]), "int64")
    position = analyzer.simplify(position)
    if terms := coefficients(position, loops):
        return Access(buffer, tirx.const(terms[1], "int64"), tuple(terms[0]))
    steps = tuple(_step(position, loop.variable, analyzer) for loop in loops)
    starts = {
        loop.variable: tirx.const(0, str(loop.variable.ty.dtype))
        for loop, step in zip(loops, steps, strict=True)
        if step is not None
    }
    return Access(buffer, analyzer.simplify(substitute(position, starts)), steps)


def _step(position: Expr, variable: Any, analyzer: sym.Analyzer) -> int | None:
    following = substitute(position, {variable: variable + tirx.const(1, str(variable.ty.dtype))})
    difference = analyzer.simplify(following - position)
    return int(difference) if isinstance(difference, tvm.tirx.IntImm) else None


def merged(accesses: Accesses) -> Accesses:
    """Return the nest with loops joined that every access runs through as if they were one."""
    kept: list[int] = []
    extents: list[int] = []
    for position, loop in enumerate(accesses.loops):
        if kept and _continue(accesses, kept[-1], position):
            extents[-1] *= loop.extent
            kept[-1] = position
        else:
            kept.append(position)
            extents.append(loop.extent)
    loops = tuple(Loop(accesses.loops[k].variable, extent) for k, extent in zip(kept, extents, strict=True))
    reads = tuple(_with_steps(read, kept) for read in accesses.reads)
    return Accesses(loops, _with_steps(accesses.store, kept), reads, accesses.value, accesses.names)


def _continue(accesses: Accesses, outer: int, inner: int) -> bool:
    """Tell whether all accesses go from the last step of the inner loop to the next of the outer as between steps."""
    loops = accesses.loops[outer], accesses.loops[inner]
    if accesses.used_variables & {loop.variable for loop in loops}:
        return False
    steps = ((access.steps[outer], access.steps[inner]) for access in (accesses.store, *accesses.reads))
    return all(far is not None and near is not None and far == near * loops[1].extent for far, near in steps)


def _with_steps(access: Access, kept: Sequence[int]) -> Access:
    return Access(access.buffer, access.base, tuple(access.steps[position] for position in kept))
