"""Generic CPU schedules: parallel outer loops, vectorised inner ones, accumulators in registers.

TVM 0.27 leaves CPU loops as they are: a convolution is a naive serial nest. Two rules cover every kernel. A kernel with
one reduction over an image or a matrix is tiled: a tile of outputs stays in registers while the reduction runs. All
other loop nests are vectorised along their last axis. Both run the outer loops on the cores of the stage.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import tvm
from tvm import tirx
from tvm.s_tir import Schedule, ScheduleError
from tvm.s_tir.schedule import LoopRV, SBlockRV

from cospipe.backends.tvm.kernels import (
    channel_gather,
    convolution,
    depthwise,
    dot_products,
    layer_norm,
    matrix_product,
    pooling,
    softmax,
    transposed_convolution,
    winograd,
)
from cospipe.backends.tvm.kernels.fused import FusedKernel, find_kernel
from cospipe.backends.tvm.kernels.generic import emit_generic
from cospipe.backends.tvm.tiling import Core, OutputTile, output_tile
from cospipe.ir.errors import first_line

log = logging.getLogger("cospipe")

EMITTERS: dict[str, Callable[[FusedKernel, Core], tirx.PrimFunc]] = {
    winograd.NAME: winograd.emit,
    layer_norm.NAME: layer_norm.emit,
    softmax.NAME: softmax.emit,
    convolution.NAME: convolution.emit,
    depthwise.NAME: depthwise.emit,
    matrix_product.NAME: matrix_product.emit,
    dot_products.NAME: dot_products.emit,
    pooling.NAME: pooling.emit,
    channel_gather.NAME: channel_gather.emit,
    transposed_convolution.NAME: transposed_convolution.emit,
}
"""What emits the loops of each kind of kernel."""

_PARALLEL_FROM_OPERATIONS = 16384
"""Below this many iterations, waking the other cores costs more than they save."""


TunedKernels = Callable[[tirx.PrimFunc], "tirx.PrimFunc | None"]
"""Returns a kernel with loops that tuning found to be faster than ours, or None where it found none."""


def schedule_module(module: tvm.IRModule, core: Core, tuned: TunedKernels | None = None) -> tvm.IRModule:
    """Schedule every kernel of a fused Relax module.

    Parameters
    ----------
    module : tvm.IRModule
        Relax functions and the PrimFuncs they call, after FuseTIR.
    core : Core
        The cores the module is compiled for.
    tuned : callable, optional
        Is asked for every kernel first.

    Returns
    -------
    tvm.IRModule
        The same functions with scheduled loops.
    """
    scheduled = tvm.IRModule(module.functions, attrs=module.attrs)
    for name, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            scheduled[name] = (tuned and tuned(function)) or schedule_kernel(function, core)
    return scheduled


def schedule_kernel(function: tirx.PrimFunc, core: Core) -> tirx.PrimFunc:
    """Return one kernel with scheduled loops; one that no tile fits keeps its loops in order, and that is logged."""
    if kernel := find_kernel(function):
        return EMITTERS[kernel.name](kernel, core)
    if generic := emit_generic(function, core):
        return generic
    try:
        return _scheduled(function, core, is_tiled=True)
    except ScheduleError as error:
        log.warning("A kernel could not be tiled and will be slow: %s", first_line(error))
        return _scheduled(function, core, is_tiled=False)


def _scheduled(function: tirx.PrimFunc, core: Core, is_tiled: bool) -> tirx.PrimFunc:
    kernel = _Kernel(Schedule(function), core)
    kernel.inline_spatial_blocks()
    reductions = [block for block in kernel.blocks() if "R" in kernel.axes(block)]
    if is_tiled and len(reductions) == 1 and kernel.is_tileable(reductions[0]):
        kernel.tile(reductions[0])
    for block in kernel.blocks():
        if kernel.name(block) not in kernel.done:
            kernel.spread(block)
    return kernel.schedule.mod["main"]


@dataclass
class _Kernel:
    """A schedule in the making; ``done`` holds the names of blocks whose loops are final."""

    schedule: Schedule
    core: Core

    def __post_init__(self) -> None:
        self.done: set[str] = set()

    def blocks(self) -> list[SBlockRV]:
        return list(self.schedule.get_child_blocks(self.schedule.get_sblock("root")))

    def name(self, block: SBlockRV) -> str:
        return str(self.schedule.get(block).name_hint)

    def extents(self, block: SBlockRV) -> list[int]:
        return [int(self.schedule.get(loop).extent) for loop in self.schedule.get_loops(block)]

    def axes(self, block: SBlockRV) -> str:
        """Kinds of the block's axes, one letter each: S spatial, R reduction, O anything else."""
        kinds = {tirx.IterVar.DataPar: "S", tirx.IterVar.CommReduce: "R"}
        return "".join(kinds.get(axis.iter_type, "O") for axis in self.schedule.get(block).iter_vars)

    def inline_spatial_blocks(self) -> None:
        """Inline elementwise blocks into their readers; a padded image is read often, so it is stored."""
        outputs = {self.name(block) for block in self.schedule.get_output_blocks(self.schedule.get_sblock("root"))}
        for block in self.blocks():
            if "R" in self.axes(block) or self.name(block) in outputs or self._feeds_reduction_with_work(block):
                continue
            try:
                self.schedule.compute_inline(block)
            except ScheduleError:
                continue  # not inlinable (several writes, say): it stays a loop nest of its own

    def _feeds_reduction_with_work(self, block: SBlockRV) -> bool:
        body = self.schedule.get(block).body
        is_copy = isinstance(body, tirx.BufferStore) and isinstance(body.value, tvm.ir.TensorLoad)
        readers = self.schedule.get_consumers(block)
        return not is_copy and any("R" in self.axes(reader) for reader in readers)

    def is_tileable(self, reduction: SBlockRV) -> bool:
        """Tell whether a reduction has one result, rows and columns of more than one element, and one loop an axis."""
        axes, extents = self.axes(reduction), self.extents(reduction)
        spatial = axes.count("S")
        in_order = axes == "S" * spatial + "R" * (len(axes) - spatial) and len(self.schedule.get(reduction).writes) == 1
        return in_order and len(axes) == len(extents) and spatial >= 2 and extents[spatial - 1] > 1

    def tile(self, reduction: SBlockRV) -> None:
        """Compute the reduction tile by tile, right before the block that stores the tile needs it."""
        schedule, spatial = self.schedule, self.axes(reduction).count("S")
        shape, operations = self.extents(reduction)[:spatial], prod(self.extents(reduction))
        tile = self._choose_tile(reduction, shape)
        store = self._storing_block(reduction, shape)
        outer, inner, columns = self._split_store(store, tile)
        schedule.compute_at(reduction, outer[-1], preserve_unit_loops=True)
        launch = schedule.fuse(*outer[:-1]) if len(outer) > 2 else outer[0]
        if operations >= _PARALLEL_FROM_OPERATIONS:
            schedule.parallel(launch)
        self._unroll_tile(inner, columns)
        loops = schedule.get_loops(reduction)[-len(self.axes(reduction)) :]
        tile_loops, reduce_loops = loops[:spatial], loops[spatial:]
        schedule.reorder(*reduce_loops, *tile_loops)
        self._unroll_tile(tile_loops[:-1], tile_loops[-1])
        start = schedule.decompose_reduction(reduction, reduce_loops[0])
        self.done |= {self.name(store), self.name(reduction), self.name(start)}

    def _choose_tile(self, reduction: SBlockRV, shape: list[int]) -> OutputTile:
        if len(shape) == 4:
            is_dense = self.axes(reduction).count("R") == 3
            return output_tile(shape[1], shape[2], shape[3], is_dense, self.core)
        return output_tile(shape[-2], 1, shape[-1], True, self.core)

    def _storing_block(self, reduction: SBlockRV, shape: list[int]) -> SBlockRV:
        """Return the block that stores finished tiles: the epilogue if it has the same loops, else a copy."""
        readers = self.schedule.get_consumers(reduction)
        if len(readers) == 1 and self.axes(readers[0]) == "S" * len(shape) and self.extents(readers[0]) == shape:
            return readers[0]
        self.schedule.cache_write(reduction, 0, "global")
        return self.schedule.get_consumers(reduction)[0]

    def _split_store(self, store: SBlockRV, tile: OutputTile) -> tuple[list[LoopRV], list[LoopRV], LoopRV]:
        """Split the loops of the storing block; return outer loops, inner loops but the last, the last."""
        loops = self.schedule.get_loops(store)
        sizes = [1] * (len(loops) - 3) + [tile.channels, tile.rows, tile.columns]
        if len(loops) != 4:
            sizes = [1] * (len(loops) - 2) + [tile.channels, tile.columns]
        pairs = [self.schedule.split(loop, [None, size]) for loop, size in zip(loops, sizes, strict=True)]
        outer, inner = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        self.schedule.reorder(*outer, *inner)
        return outer, inner[:-1], inner[-1]

    def _unroll_tile(self, loops: list[LoopRV], columns: LoopRV) -> None:
        self.schedule.vectorize(columns)
        for loop in loops:
            self.schedule.unroll(loop)

    def spread(self, block: SBlockRV) -> None:
        """Vectorise a block along its last axis and share its outer loops among the cores."""
        schedule, axes, loops = self.schedule, self.axes(block), self.schedule.get_loops(block)
        if not loops or len(axes) != len(loops) or "O" in axes or "S" not in axes:
            return
        operations = prod(self.extents(block))
        spatial = [loop for loop, axis in zip(loops, axes, strict=True) if axis == "S"]
        schedule.reorder(*spatial, *[loop for loop, axis in zip(loops, axes, strict=True) if axis == "R"])
        if "R" not in axes:
            outer, vector = schedule.split(spatial.pop(), [None, self._vector(int(schedule.get(loops[-1]).extent))])
            schedule.vectorize(vector)
            spatial.append(outer)
        if operations >= _PARALLEL_FROM_OPERATIONS:
            schedule.parallel(schedule.fuse(*spatial))

    def _vector(self, extent: int) -> int:
        return min(extent, 4 * self.core.lanes)
