"""Loops of elementwise computations, copies and changes of layout, at the speed of memory.

Each nest of loops runs through the result as it lies in memory, a vector at a time, over as few and as long loops as
the accesses allow. A vector that would reach over the end starts earlier and overlaps the one before. Where an input
lies across the result, blocks as wide as a vector are transposed in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from tvm import tirx
from tvm.ir import Call
from tvm.s_tir import SBlock, Schedule, ScheduleError
from tvm.script.ir_builder import tirx as T
from tvm_ffi import structural_walk

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import with_loops
from cospipe.backends.tvm.kernels.loops import last_moved_back, shared_items
from cospipe.backends.tvm.kernels.nests import Loop, Nest, cut_nest, substitute
from cospipe.backends.tvm.kernels.strides import Access, Accesses, find_accesses, merged
from cospipe.backends.tvm.kernels.transposition import transposed
from cospipe.backends.tvm.tiling import Core, tile_starts

_ITEM_ELEMENTS = 2048
"""Elements one core computes before it asks which come next."""
_SMALLEST_BLOCK = 4
"""Rows and columns from which a block is transposed in registers."""
_MOST_ELEMENTS = 2**31
"""Positions are counted in 32 bits."""
_FEW_VECTORS = 4
"""Up to here, the vectors of a row are written out instead of looped over."""
_CYCLES_OF_ACCESS, _CYCLES_OF_FUNCTION = 2, 16


def emit_elementwise(function: tirx.PrimFunc, core: Core) -> tirx.PrimFunc | None:
    """Return a function with loops of this kind; None when it does more than compute one tensor element by element.

    Parameters
    ----------
    function : PrimFunc
        As Relax fused it.
    core : Core
        Where it runs.
    """
    schedule = Schedule(function)
    blocks = _without_copies(schedule)
    if len(blocks) != 1 or not _is_elementwise(blocks[0]):
        return None
    (block,) = blocks
    loops = tuple(Loop(axis.var, int(axis.dom.extent)) for axis in block.iter_vars)
    nest = Nest(loops, tuple(block.body.indices), block.body.value)
    return with_loops(schedule.mod["main"], lambda: _emit(nest, block.writes[0].source, core))


def _without_copies(schedule: Schedule) -> list[SBlock]:
    """Inline what is computed on the way to the result."""
    root = schedule.get_sblock("root")
    outputs = {str(schedule.get(block).name_hint) for block in schedule.get_output_blocks(root)}
    for block in schedule.get_child_blocks(root):
        if str(schedule.get(block).name_hint) not in outputs:
            try:
                schedule.compute_inline(block)
            except ScheduleError:
                return []
    return [schedule.get(block) for block in schedule.get_child_blocks(root)]


def _is_elementwise(block: SBlock) -> bool:
    is_parallel = all(axis.iter_type == tirx.IterVar.DataPar for axis in block.iter_vars)
    if not is_parallel or not isinstance(block.body, tirx.BufferStore):
        return False
    shapes = [[int(extent) for extent in region.source.ty.shape] for region in (*block.reads, *block.writes)]
    return all(prod(shape) < _MOST_ELEMENTS for shape in shapes)


def _emit(nest: Nest, output: Any, core: Core) -> None:
    parts = [merged(find_accesses(part, output)) for part in cut_nest(nest)]
    views = flat_views(access.buffer for part in parts for access in (part.store, *part.reads))
    for part in parts:
        _Emitter(part, core, views).emit()


def flat_views(buffers: Any) -> dict[Any, Any]:
    """Return each buffer as one row of elements."""
    return {
        buffer: T.decl_buffer((prod(int(extent) for extent in buffer.ty.shape),), buffer.dtype, data=buffer.data)
        for buffer in dict.fromkeys(buffers)
    }


@dataclass(frozen=True)
class _Emitter:
    accesses: Accesses
    core: Core
    views: Mapping[Any, Any]

    def emit(self) -> None:
        along = self._vector_loop()
        if along is None:
            self._emit_elements()
            return
        across = self._crossing_loop(along)
        if across is None:
            self._emit_vectors(along)
        else:
            self._emit_blocks(along, across)

    @property
    def _extents(self) -> list[int]:
        return [loop.extent for loop in self.accesses.loops]

    def _vector_loop(self) -> int | None:
        """Return the loop along which results are neighbours."""
        found = [i for i, step in enumerate(self.accesses.store.steps) if step == 1]
        return found[-1] if found and self._extents[found[-1]] > 1 else None

    def _crossing_loop(self, along: int) -> int | None:
        """Return the loop along which the elements of an input are neighbours that lies across the result."""
        for read in self.accesses.reads:
            if read.steps[along] in (0, 1, None) or 1 not in read.steps:
                continue
            across = read.steps.index(1)
            if min(self._extents[along], self._extents[across], self.core.lanes) >= _SMALLEST_BLOCK:
                return across
        return None

    def _emit_elements(self) -> None:
        with shared_items(self._extents, self._cycles(1), self.core) as positions:
            self._store(positions, self._loads(positions))

    def _emit_vectors(self, along: int) -> None:
        extent = self._extents[along]
        lanes = _largest_power_of_two(min(extent, self.core.lanes))
        outer = [i for i in range(len(self._extents)) if i != along]
        shared, inner = self._shared_loops(outer, extent)
        whole, cycles = extent // lanes, self._cycles(lanes)
        if prod(self._extents[i] for i in shared) < 2 * self.core.cores:
            with shared_items([*(self._extents[i] for i in outer), whole], cycles, self.core) as (*positions, step):
                self._vector(outer, positions, along, step * lanes, lanes)
            if extent % lanes:
                with shared_items([self._extents[i] for i in outer], cycles / whole, self.core) as positions:
                    self._vector(outer, positions, along, extent - lanes, lanes)
            return
        with shared_items([self._extents[i] for i in shared], cycles, self.core) as positions:
            self._nested(inner, lambda rest: self._row([*shared, *inner], [*positions, *rest], along, lanes))

    def _shared_loops(self, outer: Sequence[int], elements: int) -> tuple[list[int], list[int]]:
        """Divide loops into those whose turns are shared among cores, and inner ones with enough work for a turn."""
        first = len(outer)
        while first and elements < _ITEM_ELEMENTS:
            first -= 1
            elements *= self._extents[outer[first]]
        return list(outer[:first]), list(outer[first:])

    def _nested(self, loops: Sequence[int], body: Callable[[list[Expr]], None]) -> None:
        """Emit one loop in the other."""
        if not loops:
            body([])
            return
        with T.serial(self._extents[loops[0]]) as position:
            self._nested(loops[1:], lambda rest: body([position, *rest]))

    def _row(self, outer: Sequence[int], positions: Sequence[Expr], along: int, lanes: int) -> None:
        extent = self._extents[along]
        if extent <= _FEW_VECTORS * lanes:
            for start in tile_starts(extent, lanes):
                self._vector(outer, positions, along, start, lanes)
            return
        with T.serial(extent // lanes) as step:
            self._vector(outer, positions, along, step * lanes, lanes)
        if extent % lanes:
            self._vector(outer, positions, along, extent - lanes, lanes)

    def _vector(self, outer: Sequence[int], positions: Sequence[Expr], along: int, start: Expr, lanes: int) -> None:
        with T.vectorized(lanes) as lane:
            placed = self._placed({**dict(zip(outer, positions, strict=True)), along: start + lane})
            self._store(placed, self._loads(placed))

    def _emit_blocks(self, along: int, across: int) -> None:
        """Compute blocks of the two loops; inputs across the result are read along theirs and transposed."""
        outer = [i for i in range(len(self._extents)) if i not in (along, across)]
        size = _largest_power_of_two(min(self._extents[along], self._extents[across], self.core.lanes))
        blocks = [ceil(self._extents[i] / size) for i in (across, along)]
        shared = [*(self._extents[i] for i in outer), blocks[0]]
        with shared_items(shared, self._cycles(size), self.core) as (*positions, column), T.serial(blocks[1]) as row:
            starts = {
                across: last_moved_back(column, size, self._extents[across]),
                along: last_moved_back(row, size, self._extents[along]),
            }
            self._block({**dict(zip(outer, positions, strict=True)), **starts}, along, across, size)

    def _block(self, starts: Mapping[int, Expr], along: int, across: int, size: int) -> None:
        turned = {
            name: transposed(self._source(read, starts, along, across), size)
            for name, read in zip(self.accesses.names, self.accesses.reads, strict=True)
            if read.steps[across] == 1 and read.steps[along] not in (0, 1, None)
        }
        with T.vectorized(size) as lane:  # one loop: TVM's FlattenBuffer takes time with the square of their number
            for i in range(size):
                placed = self._placed({**starts, across: starts[across] + i, along: starts[along] + lane})
                loads = self._loads(placed) | {name: vectors[i][lane] for name, vectors in turned.items()}
                self._store(placed, loads)

    def _source(self, read: Access, starts: Mapping[int, Expr], along: int, across: int) -> Callable[..., Expr]:
        def element(row: Expr, column: Expr) -> Expr:
            placed = self._placed({**starts, along: starts[along] + row, across: starts[across] + column})
            return self._load(read, placed)

        return element

    def _placed(self, positions: Mapping[int, Expr]) -> list[Expr]:
        return [positions[i] for i in range(len(self._extents))]

    def _loads(self, positions: Sequence[Expr]) -> dict[Any, Expr]:
        reads = zip(self.accesses.names, self.accesses.reads, strict=True)
        return {name: self._load(read, positions) for name, read in reads}

    def _load(self, read: Access, positions: Sequence[Expr]) -> Expr:
        return self.views[read.buffer][self._position(read, positions)]

    def _store(self, positions: Sequence[Expr], loads: Mapping[Any, Expr]) -> None:
        value = substitute(self.accesses.value, {**self._variables(positions), **loads})
        T.buffer_store(self.views[self.accesses.store.buffer], value, [self._position(self.accesses.store, positions)])

    def _position(self, access: Access, positions: Sequence[Expr]) -> Expr:
        base = substitute(access.base, self._variables(positions))
        start = int(base) if isinstance(base, tirx.IntImm) else base.astype("int32")
        steps = zip(positions, access.steps, strict=True)
        return sum((position * step for position, step in steps if step), start)

    def _variables(self, positions: Sequence[Expr]) -> dict[Any, Expr]:
        loops = zip(self.accesses.loops, positions, strict=True)
        return {loop.variable: _as_variable(loop, position) for loop, position in loops}

    def _cycles(self, lanes: int) -> float:
        return prod(self._extents) / lanes * _cycles_of_one(self.accesses)


def _as_variable(loop: Loop, position: Expr) -> Expr:
    dtype = str(loop.variable.ty.dtype)
    return tirx.const(position, dtype) if isinstance(position, int) else position.astype(dtype)


def _cycles_of_one(accesses: Accesses) -> int:
    nodes: list[Any] = []
    structural_walk(accesses.value, (Call, nodes.append))
    return _CYCLES_OF_ACCESS * (1 + len(accesses.reads)) + _CYCLES_OF_FUNCTION * len(nodes)


def _largest_power_of_two(limit: int) -> int:
    return 1 << (limit.bit_length() - 1)
