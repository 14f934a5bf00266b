"""Rules that move pixels: blocks to channels and back, columns to images, crops, sampling grids."""

from __future__ import annotations

from itertools import product
from math import prod

from torch import Tensor
from torch.nn import functional

from cospipe.backends.onnx.node import Computation, OnnxNode, Rule
from cospipe.backends.onnx.windows import explicit_padding, numbers


def _depth_to_space(node: OnnxNode) -> Computation:
    block, mode = int(node.attribute("blocksize", 0)), str(node.attribute("mode", "DCR"))
    batch, channels, rows, columns = node.shape(0)
    if block < 1 or channels % (block * block):
        raise node.unsupported(f"blocksize {block} for {channels} channels")
    if mode == "CRD":
        return lambda image: functional.pixel_shuffle(image, block)
    if mode != "DCR":
        raise node.unsupported(f"mode {mode!r}")
    depth = channels // (block * block)

    def compute(image: Tensor) -> Tensor:
        blocks = image.reshape(batch, block, block, depth, rows, columns).permute(0, 3, 4, 1, 5, 2)
        return blocks.reshape(batch, depth, rows * block, columns * block)

    return compute


def _space_to_depth(node: OnnxNode) -> Computation:
    block, mode = int(node.attribute("blocksize", 0)), str(node.attribute("mode", "DCR"))
    batch, channels, rows, columns = node.shape(0)
    if block < 1 or rows % block or columns % block:
        raise node.unsupported(f"blocksize {block} for an image of {rows}x{columns}")
    order = {"DCR": (0, 3, 5, 1, 2, 4), "CRD": (0, 1, 3, 5, 2, 4)}.get(mode)
    if order is None:
        raise node.unsupported(f"mode {mode!r}")

    def compute(image: Tensor) -> Tensor:
        blocks = image.reshape(batch, channels, rows // block, block, columns // block, block).permute(order)
        return blocks.reshape(batch, channels * block * block, rows // block, columns // block)

    return compute


def _columns_to_image(node: OnnxNode) -> Computation:
    """Add every column's elements to where the window saw them."""
    sizes, taps = ([int(size) for size in node.static(position)] for position in (1, 2))
    axes = len(sizes)
    strides, dilations = (numbers(node, name, [1] * axes, axes) for name in ("strides", "dilations"))
    begins, ends = explicit_padding(node, axes)
    wholes = [begin + size + end for begin, size, end in zip(begins, sizes, ends, strict=True)]
    counts = [
        (whole - dilation * (k - 1) - 1) // stride + 1
        for whole, dilation, k, stride in zip(wholes, dilations, taps, strides, strict=True)
    ]
    batch, depth = node.shape(0)[0], node.shape(0)[1] // prod(taps)

    def compute(columns: Tensor, *_: Tensor) -> Tensor:
        parts = columns.reshape(batch, depth, prod(taps), *counts)
        whole = columns.new_zeros(batch, depth, *wholes)
        for number, position in enumerate(product(*(range(k) for k in taps))):
            starts = [tap * dilation for tap, dilation in zip(position, dilations, strict=True)]
            whole = whole + _spread(parts[:, :, number], starts, strides, wholes)
        for axis, (begin, size) in enumerate(zip(begins, sizes, strict=True), start=2):
            whole = whole.narrow(axis, begin, size)
        return whole

    return compute


def _spread(data: Tensor, starts: list[int], strides: tuple[int, ...], sizes: list[int]) -> Tensor:
    """Place elements so many steps apart, with zeros between, before and behind."""
    for axis, (start, stride, size) in enumerate(zip(starts, strides, sizes, strict=True), start=2):
        count = data.shape[axis]
        apart = functional.pad(data.unsqueeze(axis + 1), [0, 0] * (data.dim() - axis - 1) + [0, stride - 1])
        whole = apart.flatten(axis, axis + 1).narrow(axis, 0, (count - 1) * stride + 1)
        behind = size - start - (count - 1) * stride - 1
        data = functional.pad(whole, [0, 0] * (data.dim() - axis - 1) + [start, behind])
    return data


def _center_crop_pad(node: OnnxNode) -> Computation:
    """Cut or fill up both ends of an axis; of an odd number of elements, one more at the end."""
    rank = node.rank(0)
    axes = [node.positive_axis(axis, rank) for axis in node.integers("axes", default=range(rank)) or ()]
    sizes = dict(zip(axes, (int(size) for size in node.static(1)), strict=True))
    edges: list[int] = []
    for axis in reversed(range(rank)):
        have = node.shape(0)[axis]
        more = sizes.get(axis, have) - have
        before = more // 2 if more > 0 else -(-more // 2)
        edges += [before, more - before]
    return lambda data, *_: functional.pad(data, edges)


def _grid_sample(node: OnnxNode) -> Computation:
    mode = str(node.attribute("mode", "linear"))
    names = {"linear": "bilinear", "cubic": "bicubic"}
    method, border = names.get(mode, mode), str(node.attribute("padding_mode", "zeros"))
    if method not in ("bilinear", "bicubic", "nearest") or border not in ("zeros", "border", "reflection"):
        raise node.unsupported(f"mode {mode!r} with padding_mode {border!r}")
    if node.rank(0) not in (4, 5) or (method == "bicubic" and node.rank(0) != 4):
        raise node.unsupported(f"mode {mode!r} on an input with {node.rank(0)} dimensions")
    are_corners_aligned = bool(node.attribute("align_corners", 0))
    return lambda image, grid: functional.grid_sample(image, grid, method, border, are_corners_aligned)


def _affine_grid(node: OnnxNode) -> Computation:
    size, are_corners_aligned = [int(number) for number in node.static(1)], bool(node.attribute("align_corners", 0))
    return lambda theta, *_: functional.affine_grid(theta, size, are_corners_aligned)


RULES: dict[str, Rule] = {
    "AffineGrid": _affine_grid,
    "CenterCropPad": _center_crop_pad,
    "Col2Im": _columns_to_image,
    "DepthToSpace": _depth_to_space,
    "GridSample": _grid_sample,
    "SpaceToDepth": _space_to_depth,
}
