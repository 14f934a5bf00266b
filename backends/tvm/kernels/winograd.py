"""Winograd convolution F(m x m, 3 x 3) over channel blocks: fewer multiplications for 3x3 kernels of stride 1.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), equation 8: a tile of m x m outputs is
``A^T [ (G g G^T) * (B^T d B) ] A``, where d is a patch of (m + 2) x (m + 2) inputs. Tiles are gathered into panels; for
each of the (m + 2)^2 positions, a panel is a matrix product of tiles x input channels x output channels. A tile that
would reach over the image is moved back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.kernels.fused import FusedKernel
from cospipe.backends.tvm.kernels.loops import Sums, add_products, last_moved_back, on_stack, shared_items
from cospipe.backends.tvm.tiling import Core

NAME = "winograd"

SIZES = (2, 4, 6)
"""The tiles there are transformations for."""

Transform = Callable[[Sequence[Expr]], list[Expr]]

_WEIGHT = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        *((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6)),
        *((1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1)),
    ),
    6: (
        *((1, 0, 0), (-2 / 9, -2 / 9, -2 / 9), (-2 / 9, 2 / 9, -2 / 9), (1 / 90, 1 / 45, 2 / 45)),
        *((1 / 90, -1 / 45, 2 / 45), (1 / 45, 1 / 90, 1 / 180), (1 / 45, -1 / 90, 1 / 180), (0, 0, 1)),
    ),
}
"""G for each m; the interpolation points are 0, 1, -1, then 2, -2, then 1/2, -1/2, and infinity."""


def _input_2(d: Sequence[Expr]) -> list[Expr]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _input_4(d: Sequence[Expr]) -> list[Expr]:
    even, odd = d[4] - _by(4, d[2]), d[3] - _by(4, d[1])
    even_2, odd_2 = d[4] - d[2], _by(2, d[3] - d[1])
    ends = _by(4, d[0]) - _by(5, d[2]) + d[4], _by(4, d[1]) - _by(5, d[3]) + d[5]
    return [ends[0], even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, ends[1]]


def _input_6(d: Sequence[Expr]) -> list[Expr]:
    even, odd = d[2] + d[6] - _by(4.25, d[4]), d[1] + d[5] - _by(4.25, d[3])
    even_2, odd_2 = d[6] + _by(0.25, d[2]) - _by(1.25, d[4]), _by(0.5, d[1]) - _by(2.5, d[3]) + _by(2, d[5])
    even_3, odd_3 = d[6] + _by(4, d[2]) - _by(5, d[4]), _by(2, d[1]) - _by(2.5, d[3]) + _by(0.5, d[5])
    ends = d[0] - d[6] + _by(5.25, d[4] - d[2]), d[7] - d[1] + _by(5.25, d[3] - d[5])
    pairs = [even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, even_3 + odd_3, even_3 - odd_3]
    return [ends[0], *pairs, ends[1]]


def _output_2(m: Sequence[Expr]) -> list[Expr]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _output_4(m: Sequence[Expr]) -> list[Expr]:
    sum_1, sum_2, difference_1, difference_2 = m[1] + m[2], m[3] + m[4], m[1] - m[2], m[3] - m[4]
    return [
        *(m[0] + sum_1 + sum_2, difference_1 + _by(2, difference_2)),
        *(sum_1 + _by(4, sum_2), difference_1 + _by(8, difference_2) + m[5]),
    ]


def _output_6(m: Sequence[Expr]) -> list[Expr]:
    sum_1, sum_2, sum_3 = m[1] + m[2], m[3] + m[4], m[5] + m[6]
    difference_1, difference_2, difference_3 = m[1] - m[2], m[3] - m[4], m[5] - m[6]
    return [
        m[0] + sum_1 + sum_2 + _by(32, sum_3),
        difference_1 + _by(2, difference_2) + _by(16, difference_3),
        sum_1 + _by(4, sum_2) + _by(8, sum_3),
        difference_1 + _by(8, difference_2) + _by(4, difference_3),
        sum_1 + _by(16, sum_2) + _by(2, sum_3),
        m[7] + difference_1 + _by(32, difference_2) + difference_3,
    ]


def _by(factor: float, value: Expr) -> Expr:
    return value * tirx.const(factor, "float32")


_INPUT: dict[int, Transform] = {2: _input_2, 4: _input_4, 6: _input_6}
_OUTPUT: dict[int, Transform] = {2: _output_2, 4: _output_4, 6: _output_6}


@dataclass(frozen=True)
class Winograd:
    """A 3x3 convolution of stride 1 by Winograd's method.

    Parameters
    ----------
    batch : int
        Images.
    input_blocks, output_blocks : int
        Channel blocks.
    input_block, output_block : int
        Channels stored side by side.
    input_rows, input_columns, output_rows, output_columns : int
        Sizes of the images.
    top, left : int
        Padding.
    size : int
        m: a tile has m x m outputs.
    panel : int
        Tiles that are transformed before they are multiplied.
    tile_pixels, tile_vectors : int
        The register tile of the products.
    """

    batch: int
    input_blocks: int
    output_blocks: int
    input_block: int
    output_block: int
    input_rows: int
    input_columns: int
    output_rows: int
    output_columns: int
    top: int
    left: int
    size: int
    panel: int
    tile_pixels: int
    tile_vectors: int

    @property
    def patch(self) -> int:
        """Side of the patch of inputs that a tile needs."""
        return self.size + 2

    @property
    def row_tiles(self) -> int:
        """Tiles from top to bottom."""
        return -(-self.output_rows // self.size)

    @property
    def column_tiles(self) -> int:
        """Tiles from left to right."""
        return -(-self.output_columns // self.size)

    @property
    def tiles(self) -> int:
        """Tiles of one image."""
        return self.row_tiles * self.column_tiles

    @property
    def panels(self) -> int:
        """Panels of one image."""
        return -(-self.tiles // self.panel)

    @property
    def channel_tiles(self) -> int:
        """Register tiles along the output channels."""
        return -(-self.output_blocks // self.tile_vectors)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.batch, self.output_blocks, self.output_rows, self.output_columns, self.output_block

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the transformed and packed weight."""
        width = self.tile_vectors * self.output_block
        return self.channel_tiles, self.patch**2, self.input_blocks, self.input_block, width


def pack_weight(weight: te.Tensor, winograd: Winograd) -> te.Tensor:
    """Return ``G g G^T`` of every kernel in the order the products read it.

    Parameters
    ----------
    weight : te.Tensor
        Shape (output channels, input channels, 3, 3).
    winograd : Winograd
        What it is packed for.
    """
    outputs, inputs = (int(extent) for extent in weight.shape[:2])
    factors = np.asarray(_WEIGHT[winograd.size])

    def transformed(*index: Expr) -> Expr:
        tile, position, block, lane, channel = index
        first = last_moved_back(tile, winograd.tile_vectors, winograd.output_blocks)
        output, source = first * winograd.output_block + channel, block * winograd.input_block + lane
        total = _transformed_weight(weight, output, source, position, factors)
        exists = tirx.all(output < outputs, source < inputs)
        return tirx.if_then_else(exists, total, tirx.const(0.0, "float32"))

    return te.compute(winograd.weight_shape, transformed, name="transformed_weight")


def _transformed_weight(weight: te.Tensor, output: Expr, source: Expr, position: Expr, factors: Any) -> Expr:
    patch = len(factors)
    rows = [_chosen(position // patch, factors[:, tap]) for tap in range(3)]
    columns = [_chosen(position % patch, factors[:, tap]) for tap in range(3)]
    total = tirx.const(0.0, "float32")
    for row in range(3):
        inner = tirx.const(0.0, "float32")
        for column in range(3):
            inner = inner + columns[column] * weight(output, source, row, column)
        total = total + rows[row] * inner
    return total


def _chosen(position: Expr, values: Sequence[float]) -> Expr:
    """One of a few constants, by a position that is known only when the loop runs."""
    chosen = tirx.const(float(values[-1]), "float32")
    for number, value in enumerate(values[:-1]):
        chosen = tirx.Select(tirx.EQ(position, number), tirx.const(float(value), "float32"), chosen)
    return chosen


def emit(kernel: FusedKernel, core: Core) -> tirx.PrimFunc:
    """Return the convolution with its loops."""
    return kernel.emitted(lambda: _Emitter(kernel, Winograd(**kernel.options), core).emit())


class _Emitter:
    def __init__(self, kernel: FusedKernel, winograd: Winograd, core: Core) -> None:
        self.data, self.weight = kernel.inputs
        self.epilogue, self.winograd, self.core = kernel.epilogue, winograd, core

    def emit(self) -> None:
        """Share panels among the cores where there are plenty, else the work inside each panel."""
        w = self.winograd
        alone = replace(self.core, cores=1)
        across = w.batch * w.panels >= 4 * self.core.cores
        with shared_items([w.batch, w.panels], float("inf"), self.core if across else alone) as (image, panel):
            self._panel(image, last_moved_back(panel, w.panel, w.tiles), alone if across else self.core)

    def _panel(self, image: Expr, first: Expr, core: Core) -> None:
        w = self.winograd
        shape = (w.patch**2, w.input_blocks, w.panel, w.input_block)
        transformed = T.alloc_buffer(shape, "float32", scope="global")
        with shared_items([w.input_blocks, w.panel], float("inf"), core) as (block, tile):
            self._transform_input(transformed, image, block, first, tile)
        with shared_items([w.channel_tiles], float("inf"), core) as (channel_tile,):
            width = w.tile_vectors * w.output_block
            products = T.alloc_buffer((w.patch**2, w.panel, width), "float32", scope="global")
            with T.serial(w.patch**2) as position:
                self._multiply(products, transformed, channel_tile, position)
            with T.serial(w.panel) as tile:
                self._transform_output(products, image, channel_tile, first, tile)

    def _origin(self, first: Expr, tile: Expr) -> tuple[Expr, Expr]:
        w = self.winograd
        number = first + tile
        row = last_moved_back(number // w.column_tiles, w.size, w.output_rows)
        return row, last_moved_back(number % w.column_tiles, w.size, w.output_columns)

    def _transform_input(self, transformed: Any, image: Expr, block: Expr, first: Expr, tile: Expr) -> None:
        w = self.winograd
        row, column = self._origin(first, tile)
        top, left = row - w.top, column - w.left
        half = on_stack((w.patch, w.patch, w.input_block))
        inside = tirx.all(top >= 0, top + w.patch <= w.input_rows, left >= 0, left + w.patch <= w.input_columns)
        with T.If(inside):
            with T.Then():
                self._half_transform(half, lambda i, j, lane: self.data[image, block, top + i, left + j, lane])
            with T.Else():
                padded = self._padded_patch(image, block, top, left)
                self._half_transform(half, lambda i, j, lane: padded[i, j, lane])
        with T.serial(w.patch) as j, T.vectorized(w.input_block) as lane:
            for i, value in enumerate(_INPUT[w.size]([half[i, j, lane] for i in range(w.patch)])):
                T.buffer_store(transformed, value, [i * w.patch + j, block, tile, lane])

    def _half_transform(self, half: Any, load: Callable[[Expr, int, Expr], Expr]) -> None:
        w = self.winograd
        with T.serial(w.patch) as i, T.vectorized(w.input_block) as lane:
            for j, value in enumerate(_INPUT[w.size]([load(i, j, lane) for j in range(w.patch)])):
                T.buffer_store(half, value, [i, j, lane])

    def _padded_patch(self, image: Expr, block: Expr, top: Expr, left: Expr) -> Any:
        """Copy a patch that reaches over the image, with zeros there."""
        w = self.winograd
        patch = on_stack((w.patch, w.patch, w.input_block))
        with T.serial(w.patch) as i, T.serial(w.patch) as j, T.vectorized(w.input_block) as lane:
            T.buffer_store(patch, tirx.const(0.0, "float32"), [i, j, lane])
        rows = T.max(0, -top), T.min(w.patch, w.input_rows - top)
        columns = T.max(0, -left), T.min(w.patch, w.input_columns - left)
        with T.serial(*rows) as i, T.serial(*columns) as j, T.vectorized(w.input_block) as lane:
            T.buffer_store(patch, self.data[image, block, top + i, left + j, lane], [i, j, lane])
        return patch

    def _multiply(self, products: Any, transformed: Any, channel_tile: Expr, position: Expr) -> None:
        w = self.winograd
        with T.serial(-(-w.panel // w.tile_pixels)) as pixel_tile:
            start = last_moved_back(pixel_tile, w.tile_pixels, w.panel)
            sums = Sums(w.tile_pixels, w.tile_vectors, w.output_block)
            with T.serial(w.input_blocks) as block:
                add_products(
                    sums,
                    {pixel: self._pixel(transformed, position, block, start + pixel) for pixel in range(sums.rows)},
                    lambda channel, lane: self.weight[channel_tile, position, block, channel, lane],
                    w.input_block,
                    self.core,
                )
            with T.vectorized(sums.lanes) as lane:
                for pixel in range(sums.rows):
                    for vector in range(sums.vectors):
                        value = sums.get(pixel, vector, lane)
                        T.buffer_store(products, value, [position, start + pixel, vector * sums.lanes + lane])

    def _pixel(self, transformed: Any, position: Expr, block: Expr, tile: Expr) -> Callable[[Expr], Expr]:
        return lambda channel: transformed[position, block, tile, channel]

    def _transform_output(self, products: Any, image: Expr, channel_tile: Expr, first: Expr, tile: Expr) -> None:
        w = self.winograd
        row, column = self._origin(first, tile)
        with T.serial(w.tile_vectors) as vector:
            half = on_stack((w.patch, w.size, w.output_block))
            with T.serial(w.patch) as i, T.vectorized(w.output_block) as lane:
                at = vector * w.output_block + lane
                values = _OUTPUT[w.size]([products[i * w.patch + j, tile, at] for j in range(w.patch)])
                for j, value in enumerate(values):
                    T.buffer_store(half, value, [i, j, lane])
            block = last_moved_back(channel_tile, w.tile_vectors, w.output_blocks) + vector
            with T.serial(w.size) as j, T.vectorized(w.output_block) as lane:
                values = _OUTPUT[w.size]([half[i, j, lane] for i in range(w.patch)])
                for i, value in enumerate(values):
                    self.epilogue.store([image, block, row + i, column + j, lane], value)
