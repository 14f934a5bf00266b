"""Copies channels of several images on channel blocks together, in any order: shuffles, and parts that fill no blocks.

Which lane comes from where is known when the code is written, so every output vector is put together from the vectors
its channels lie in, by the shuffles of the core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import FusedKernel
from cospipe.backends.tvm.kernels.loops import shared_items
from cospipe.backends.tvm.kernels.window_tiles import register
from cospipe.backends.tvm.tiling import Core

NAME = "channel_gather"


@dataclass(frozen=True)
class ChannelGather:
    """Where each channel of the result comes from.

    Parameters
    ----------
    batch, rows, columns : int
        Images and their pixels.
    block : int
        Channels of the result stored side by side.
    channels : tuple of (int, int)
        For each channel of the result: the number of an image, and the channel there.
    """

    batch: int
    rows: int
    columns: int
    block: int
    channels: tuple[tuple[int, int], ...]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.batch, ceil(len(self.channels) / self.block), self.rows, self.columns, self.block

    def vectors(self) -> Iterator[tuple[tuple[int, int], ...]]:
        """Yield the sources of each vector of the result; of the last, only those that exist."""
        for first in range(0, len(self.channels), self.block):
            yield self.channels[first : first + self.block]


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the copy with its loops."""
    options = {**kernel.options, "channels": tuple((image, channel) for image, channel in kernel.options["channels"])}
    return kernel.emitted(lambda: _Emitter(kernel, ChannelGather(**options), core).emit())


class _Emitter:
    def __init__(self, kernel: FusedKernel, gather: ChannelGather, core: Core) -> None:
        self.inputs, self.epilogue, self.gather, self.core = kernel.inputs, kernel.epilogue, gather, core

    def emit(self) -> None:
        g = self.gather
        vectors = list(g.vectors())
        cycles = 4 * g.batch * g.rows * g.columns * len(vectors)
        with shared_items([g.batch, g.rows], cycles, self.core) as (image, row):
            for number, sources in enumerate(vectors):
                with T.serial(g.columns) as column:
                    self._vector([image, row, column], number, sources)

    def _vector(self, pixel: list[Expr], number: int, sources: tuple[tuple[int, int], ...]) -> None:
        image, row, column = pixel
        read = self._read(pixel, sources)
        result = register(self.gather.block)
        for lane in range(self.gather.block):
            value = tirx.const(0.0, "float32")
            if lane < len(sources):
                source, channel = sources[lane]
                width = self._width(source)
                value = read[source, channel // width][channel % width]
            T.buffer_store(result, value, [lane])
        with T.vectorized(self.gather.block) as lane:
            self.epilogue.store([image, number, row, column, lane], result[lane])

    def _read(self, pixel: list[Expr], sources: tuple[tuple[int, int], ...]) -> dict[tuple[int, int], Any]:
        """Read every vector that holds one of these channels."""
        image, row, column = pixel
        wanted = dict.fromkeys((source, channel // self._width(source)) for source, channel in sources)
        vectors = {(source, block): register(self._width(source)) for source, block in wanted}
        for width in sorted({self._width(source) for source, _ in wanted}):
            with T.vectorized(width) as lane:
                for source, block in wanted:
                    if self._width(source) == width:
                        value = self.inputs[source][image, block, row, column, lane]
                        T.buffer_store(vectors[source, block], value, [lane])
        return vectors

    def _width(self, source: int) -> int:
        return int(self.inputs[source].ty.shape[-1])
