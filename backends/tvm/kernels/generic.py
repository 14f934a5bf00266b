"""Loops of kernels nobody declared: elementwise computations and reductions, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import Call, TensorLoad
from tvm.s_tir import SBlock, Schedule, ScheduleError
from tvm.script.ir_builder import tirx as T
from tvm_ffi import structural_walk

from cospipe.backends.tvm.kernels.addressing import elements, flat_view
from cospipe.backends.tvm.kernels.elementwise import emit_nest
from cospipe.backends.tvm.kernels.fused import with_loops
from cospipe.backends.tvm.kernels.nests import Loop, Nest, cut_nest
from cospipe.backends.tvm.kernels.reductions import COMBINATIONS, can_emit, emit_reduction
from cospipe.backends.tvm.kernels.rows import Combination
from cospipe.backends.tvm.kernels.strides import Accesses, find_accesses, merged
from cospipe.backends.tvm.tiling import Core

_MOST_ELEMENTS = 2**31
"""Positions are counted in 32 bits."""


@dataclass(frozen=True)
class _Step:
    """One tensor computed: its nests, and how their numbers are combined if they are."""

    nests: tuple[Accesses, ...]
    combination: Combination | None


def emit_generic(function: tirx.PrimFunc, core: Core) -> tirx.PrimFunc | None:
    """Return a function with loops of these kinds; None when it does something else too.

    Parameters
    ----------
    function : PrimFunc
        As Relax fused it.
    core : Core
        Where it runs.
    """
    schedule = Schedule(function)
    root = schedule.get_sblock("root")
    _inline(schedule)
    steps = [_step(schedule.get(block)) for block in schedule.get_child_blocks(root)]
    known = [step for step in steps if step is not None]
    if len(known) < len(steps):
        return None
    own = list(schedule.get(root).alloc_buffers)
    return with_loops(schedule.mod["main"], lambda: _emit(known, own, core))


def _inline(schedule: Schedule) -> None:
    """Compute tensors where they are read, unless that means to compute functions several times."""
    root = schedule.get_sblock("root")
    outputs = {str(schedule.get(block).name_hint) for block in schedule.get_output_blocks(root)}
    for block in schedule.get_child_blocks(root):
        described = schedule.get(block)
        is_shared = len(schedule.get_consumers(block)) > 1 and _calls_functions(described)
        if str(described.name_hint) not in outputs and not is_shared:
            with suppress(ScheduleError):  # it stays a tensor of its own: a reduction, for example
                schedule.compute_inline(block)


def _calls_functions(block: SBlock) -> bool:
    calls: list[Any] = []
    structural_walk(block.body, (Call, calls.append))
    return bool(calls)


def _step(block: SBlock) -> _Step | None:
    """Return how a block is computed, or None for one of another kind."""
    kinds = {axis.iter_type for axis in block.iter_vars}
    if not isinstance(block.body, tirx.BufferStore) or not kinds <= {tirx.IterVar.DataPar, tirx.IterVar.CommReduce}:
        return None
    buffers = [region.source for region in (*block.reads, *block.writes)]
    if any(elements(buffer) >= _MOST_ELEMENTS for buffer in buffers):
        return None
    if block.init is not None:
        return _reduction(block)
    return _Step(_nests(block, block.body.value), None) if kinds <= {tirx.IterVar.DataPar} else None


def _reduction(block: SBlock) -> _Step | None:
    combined, combination = block.body.value, COMBINATIONS.get(type(block.body.value))
    if combination is None or not _starts_neutral(block, combination):
        return None
    sides = [combined.b, combined.a]
    added = [side for side in sides if not _reads(side, block.body.buffer)]
    if len(added) != 1:
        return None
    nests = _nests(block, added[0])
    return _Step(nests, combination) if len(nests) == 1 and can_emit(nests[0]) else None


def _starts_neutral(block: SBlock, combination: Combination) -> bool:
    start = block.init.value
    return isinstance(start, tirx.FloatImm) and str(start.ty.dtype) == "float32" and start.value == combination.neutral


def _reads(expression: Any, buffer: Any) -> bool:
    loads: list[Any] = []
    structural_walk(expression, (TensorLoad, loads.append))
    return any(load.source.same_as(buffer) for load in loads)


def _nests(block: SBlock, value: Any) -> tuple[Accesses, ...]:
    loops = tuple(Loop(axis.var, int(axis.dom.extent)) for axis in block.iter_vars)
    nests = cut_nest(Nest(loops, tuple(block.body.indices), value))
    return tuple(merged(find_accesses(nest, block.body.buffer)) for nest in nests)


def _emit(steps: Sequence[_Step], own: Sequence[Any], core: Core) -> None:
    """Emit the steps; ``own`` are the tensors that only the function itself reads."""
    views = {buffer: T.alloc_buffer((elements(buffer),), buffer.dtype, scope="global") for buffer in own}
    for step in steps:
        for nest in step.nests:
            for access in (nest.store, *nest.reads):
                if access.buffer not in views:
                    views[access.buffer] = flat_view(access.buffer)
    for step in steps:
        for nest in step.nests:
            if step.combination is None:
                emit_nest(nest, views, core)
            else:
                emit_reduction(nest, step.combination, views, core)
