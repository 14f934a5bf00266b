"""Rules of convolutions, transposed ones included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from cospipe.backends.onnx.node import Computation, OnnxNode, Rule
from cospipe.backends.onnx.windows import (
    explicit_padding,
    extent,
    find_windows,
    numbers,
    pad_image,
    padding_mode,
    spatial_sizes,
    split_same,
)

_CONVOLUTIONS: tuple[Any, ...] = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED: tuple[Any, ...] = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


def convolution(node: OnnxNode, weight_position: int = 1) -> Computation:
    """Convolve; padding that differs between the two ends of an axis becomes an operation of its own.

    Parameters
    ----------
    node : OnnxNode
        Conv, or one of its relatives on integers.
    weight_position : int, optional
        Where the weight (output channels, input channels of a group, kernel...) is among the inputs.
    """
    windows = find_windows(node, node.shape(weight_position)[2:])
    convolve = _CONVOLUTIONS[len(windows.sizes) - 1]
    groups = int(node.attribute("group", 1))
    outer, inner = (windows.begins, windows.ends), windows.begins
    if windows.is_symmetric:
        outer = ((0,) * len(inner), (0,) * len(inner))
    else:
        inner = (0,) * len(inner)

    def compute(image: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        padded = pad_image(image, *outer)
        result: Tensor = convolve(padded, weight, bias, windows.strides, inner, windows.dilations, groups)
        return result

    return compute


@dataclass(frozen=True)
class _Spread:
    """What becomes of the whole result of a transposed convolution: cut at both ends, zeros behind."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    more: tuple[int, ...]

    @property
    def inner(self) -> tuple[int, ...]:
        """What can be cut at both ends alike, by the convolution itself."""
        return tuple(max(min(pair), 0) for pair in zip(self.begins, self.ends, strict=True))

    @property
    def is_within_pytorch(self) -> bool:
        """Whether PyTorch takes the output padding: it must be smaller than stride or dilation."""
        return all(m < max(s, d) for m, s, d in zip(self.more, self.strides, self.dilations, strict=True))


def _transposed(node: OnnxNode) -> Computation:
    spread = _spread(node)
    axes, groups = len(spread.strides), int(node.attribute("group", 1))
    convolve = _TRANSPOSED[axes - 1]
    inner, nothing = spread.inner, (0,) * axes
    before, behind = (
        [i - edge for i, edge in zip(inner, edges, strict=True)] for edges in (spread.begins, spread.ends)
    )

    def compute(image: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if spread.is_within_pytorch:
            result = convolve(image, weight, bias, spread.strides, inner, spread.more, groups, spread.dilations)
            return pad_image(result, before, behind)
        whole = convolve(image, weight, None, spread.strides, nothing, nothing, groups, spread.dilations)
        filling = [more - end for more, end in zip(spread.more, spread.ends, strict=True)]
        placed = pad_image(whole, [-begin for begin in spread.begins], filling)
        return placed if bias is None else placed + bias.reshape(-1, *[1] * axes)

    return compute


def _spread(node: OnnxNode) -> _Spread:
    sizes, taps = spatial_sizes(node), node.shape(1)[2:]
    axes = len(sizes)
    strides, dilations = (numbers(node, name, [1] * axes, axes) for name in ("strides", "dilations"))
    more = numbers(node, "output_padding", [0] * axes, axes)
    wholes = tuple(
        (size - 1) * stride + extent(k, dilation) + behind
        for size, stride, k, dilation, behind in zip(sizes, strides, taps, dilations, more, strict=True)
    )
    wanted = _wanted_sizes(node, sizes, strides)
    if wanted is None:
        begins, ends = explicit_padding(node, axes) if padding_mode(node) == "NOTSET" else ((0,) * axes,) * 2
        return _Spread(strides, dilations, begins, ends, more)
    totals = [whole - size for whole, size in zip(wholes, wanted, strict=True)]
    begins, ends = zip(*(split_same(max(total, 0), padding_mode(node)) for total in totals), strict=True)
    lacking = tuple(behind + max(-total, 0) for behind, total in zip(more, totals, strict=True))
    return _Spread(strides, dilations, begins, ends, lacking)


def _wanted_sizes(node: OnnxNode, sizes: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    given = node.attribute("output_shape", None)
    if given:
        return tuple(int(size) for size in given)[-len(sizes) :]
    if not padding_mode(node).startswith("SAME"):
        return None
    return tuple(size * stride for size, stride in zip(sizes, strides, strict=True))


RULES: dict[str, Rule] = {
    "Conv": convolution,
    "ConvTranspose": _transposed,
}
