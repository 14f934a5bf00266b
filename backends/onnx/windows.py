"""Sliding windows of convolutions and pooling: where ONNX puts them, and how much of the border they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from cospipe.backends.onnx.node import OnnxNode

MOST_AXES = 3
"""PyTorch convolves and pools sequences, images and volumes."""


@dataclass(frozen=True)
class Windows:
    """The windows of one operation; every field has one number for each spatial axis.

    Parameters
    ----------
    sizes : tuple of int
        Of the input, in elements.
    kernel, strides, dilations : tuple of int
        Of the window, in elements.
    begins, ends : tuple of int
        How many elements of padding come before and behind the input.
    outputs : tuple of int
        How many windows there are.
    """

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """How many elements there are from the first to the last of a window."""
        return tuple(extent(taps, step) for taps, step in zip(self.kernel, self.dilations, strict=True))

    @property
    def behind(self) -> tuple[int, ...]:
        """How many elements of padding the last window needs behind the input; negative when it ends before."""
        last = ((count - 1) * stride for count, stride in zip(self.outputs, self.strides, strict=True))
        return tuple(
            start + reach - begin - size
            for start, reach, begin, size in zip(last, self.extents, self.begins, self.sizes, strict=True)
        )

    @property
    def is_symmetric(self) -> bool:
        """Whether as much padding is before the input as behind it."""
        return self.begins == self.ends


def extent(taps: int, dilation: int) -> int:
    """Return how many elements there are from the first to the last of a window."""
    return dilation * (taps - 1) + 1


def find_windows(node: OnnxNode, kernel: Sequence[int], has_ceil_mode: bool = False) -> Windows:
    """Read strides, dilations and padding of a convolution or a pooling.

    Parameters
    ----------
    node : OnnxNode
        Its first input has the shape (batch, channels, spatial axes...).
    kernel : sequence of int
        Size of the window on each spatial axis.
    has_ceil_mode : bool, optional
        Whether the operation has the attribute ``ceil_mode``.

    Raises
    ------
    OnnxRuleError
        When there are not one to three spatial axes, or an attribute is not of as many numbers.
    """
    sizes = spatial_sizes(node)
    taps = numbers(node, "kernel_shape", kernel, len(sizes))
    strides, dilations = (numbers(node, name, [1] * len(sizes), len(sizes)) for name in ("strides", "dilations"))
    extents = tuple(extent(k, d) for k, d in zip(taps, dilations, strict=True))
    begins, ends = _padding(node, sizes, extents, strides)
    is_ceil = has_ceil_mode and bool(node.attribute("ceil_mode", 0))
    outputs = tuple(
        _count(begin + size + end - reach, stride, is_ceil, begin + size)
        for size, reach, stride, begin, end in zip(sizes, extents, strides, begins, ends, strict=True)
    )
    if min(outputs) < 1:
        raise node.unsupported(f"a window of {extents} elements on an input of {sizes} elements, padding included,")
    return Windows(sizes, taps, strides, dilations, begins, ends, outputs)


def spatial_sizes(node: OnnxNode) -> tuple[int, ...]:
    """Return the sizes of an image without batch and channels; there must be one to three."""
    sizes = node.shape(0)[2:]
    if not 1 <= len(sizes) <= MOST_AXES:
        raise node.unsupported(f"an input with {node.rank(0)} dimension(s)")
    return sizes


def numbers(node: OnnxNode, name: str, default: Sequence[int], count: int) -> tuple[int, ...]:
    """Return an attribute of so many integers."""
    values = tuple(int(value) for value in node.attribute(name, None) or default)
    if len(values) != count:
        raise node.unsupported(f"{len(values)} number(s) in {name!r} for {count} axes")
    return values


def split_same(total: int, mode: str) -> tuple[int, int]:
    """Return what of a padding is before and behind: SAME_UPPER puts the odd element behind, SAME_LOWER before."""
    smaller = total // 2
    return (smaller, total - smaller) if mode == "SAME_UPPER" else (total - smaller, smaller)


def padding_mode(node: OnnxNode) -> str:
    """Return the attribute ``auto_pad``, which must be one that ONNX knows."""
    mode = str(node.attribute("auto_pad", "NOTSET"))
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise node.unsupported(f"auto_pad {mode!r}")
    return mode


def explicit_padding(node: OnnxNode, axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the attribute ``pads``: before and behind each axis."""
    pads = numbers(node, "pads", [0] * (2 * axes), 2 * axes)
    return pads[:axes], pads[axes:]


def pad_image(image: torch.Tensor, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> torch.Tensor:
    """Pad the spatial axes of an image with a value; what is negative is cut off."""
    edges = [edge for pair in zip(reversed(begins), reversed(ends), strict=True) for edge in pair]
    return functional.pad(image, edges, value=value) if any(edges) else image


def _padding(
    node: OnnxNode, sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    mode = padding_mode(node)
    if mode == "NOTSET":
        return explicit_padding(node, len(sizes))
    if mode == "VALID":
        return (0,) * len(sizes), (0,) * len(sizes)
    totals = (
        max((-(-size // stride) - 1) * stride + reach - size, 0)
        for size, reach, stride in zip(sizes, extents, strides, strict=True)
    )
    begins, ends = zip(*(split_same(total, mode) for total in totals), strict=True)
    return begins, ends


def _count(room: int, stride: int, is_ceil: bool, behind_input: int) -> int:
    """Return how many windows fit; rounded up, one that would start in the padding behind the input is left out."""
    if not is_ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= behind_input else count
