"""Rules of normalisation: by stored or own statistics, along channels, groups or the last axes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cospipe.backends.onnx.node import Computation, OnnxNode, Rule

_GROUP_NORM_PER_CHANNEL = 21
"""Before this opset GroupNormalization has one scale for each group."""


def _batch_norm(node: OnnxNode) -> Computation:
    """Normalise by stored statistics, as a network does that is not in training; there is no gradient of these."""
    if node.attribute("training_mode", 0) or any(node.has_output(position) for position in (1, 2, 3, 4)):
        raise node.unsupported("training mode (export the network in inference mode)")
    if not node.attribute("spatial", 1):
        raise node.unsupported("spatial=0")
    epsilon = float(node.attribute("epsilon", 1e-5))

    def compute(data: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return functional.batch_norm(data, mean.detach(), variance.detach(), scale, shift, False, 0.0, epsilon)

    return compute


def _instance_norm(node: OnnxNode) -> Computation:
    """Normalise every channel by itself: as many groups as channels, which has no trouble with one element."""
    channels, epsilon = node.shape(0)[1], float(node.attribute("epsilon", 1e-5))
    return lambda data, scale, shift: functional.group_norm(data, channels, scale, shift, epsilon)


def _group_norm(node: OnnxNode) -> Computation:
    groups, epsilon = int(node.attribute("num_groups", 0)), float(node.attribute("epsilon", 1e-5))
    channels = node.shape(0)[1]
    if groups < 1 or channels % groups:
        raise node.unsupported(f"num_groups {groups} for {channels} channels")
    repeats = 1 if node.opset >= _GROUP_NORM_PER_CHANNEL else channels // groups

    def compute(data: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if repeats > 1:
            scale, shift = (_repeated(weight, repeats) for weight in (scale, shift))
        return functional.group_norm(data, groups, scale, shift, epsilon)

    return compute


def _repeated(weight: Tensor, repeats: int) -> Tensor:
    return weight.unsqueeze(1).expand(-1, repeats).reshape(-1)


def _layer_norm(node: OnnxNode) -> Computation:
    """Use PyTorch's operation unless the statistics are wanted, too, or the scale is spread over the axes."""
    first, epsilon = node.axis(-1), float(node.attribute("epsilon", 1e-5))
    normalised = node.shape(0)[first:]
    weights = [node.shape(position) for position in (1, 2) if node.has(position)]
    has_statistics = node.has_output(1) or node.has_output(2)
    if not has_statistics and all(shape == normalised for shape in weights):
        return lambda data, scale, shift=None: functional.layer_norm(data, normalised, scale, shift, epsilon)
    axes = list(range(first, node.rank(0)))

    def compute(data: Tensor, scale: Tensor, shift: Tensor | None = None) -> tuple[Tensor, ...]:
        precise = data.to(torch.promote_types(data.dtype, torch.float32))
        mean = precise.mean(axes, keepdim=True)
        deviations = precise - mean
        inverse = torch.rsqrt((deviations * deviations).mean(axes, keepdim=True) + epsilon)
        scaled = (deviations * inverse).to(data.dtype) * scale
        return scaled if shift is None else scaled + shift, mean, inverse

    return compute


def _response_norm(node: OnnxNode) -> Computation:
    """Divide by the squares of neighbouring channels; of an even number of neighbours, one more comes behind."""
    size, channels = int(node.attribute("size", 0)), node.shape(0)[1]
    if size < 1:
        raise node.unsupported("the attribute 'size' below one")
    alpha, beta = float(node.attribute("alpha", 1e-4)), float(node.attribute("beta", 0.75))
    bias = float(node.attribute("bias", 1.0))
    before = (size - 1) // 2
    edges = [0, 0] * (node.rank(0) - 2) + [before, size - 1 - before]

    def compute(data: Tensor) -> Tensor:
        squares = functional.pad(data * data, edges)
        total = squares.narrow(1, 0, channels)
        for neighbour in range(1, size):
            total = total + squares.narrow(1, neighbour, channels)
        return data / (total * (alpha / size) + bias) ** beta

    return compute


def _norm_along(node: OnnxNode) -> Computation:
    """Divide by the norm along an axis; what has the norm zero stays zero."""
    axis, power = node.axis(-1), int(node.attribute("p", 2))
    if power not in (1, 2):
        raise node.unsupported(f"p={power}")

    def compute(data: Tensor) -> Tensor:
        total = (data.abs() if power == 1 else data * data).sum(axis, keepdim=True)
        norm = total if power == 1 else total.sqrt()
        return data / torch.where(norm == 0, torch.ones_like(norm), norm)

    return compute


def _mean_variance_norm(node: OnnxNode) -> Computation:
    axes = [node.positive_axis(axis, node.rank(0)) for axis in node.integers("axes", default=(0, 2, 3)) or ()]

    def compute(data: Tensor) -> Tensor:
        deviations = data - data.mean(axes, keepdim=True)
        return deviations / ((deviations * deviations).mean(axes, keepdim=True).sqrt() + 1e-9)

    return compute


def _residual_layer_norm(node: OnnxNode) -> Computation:
    """Add two tensors (and a bias), then normalise the last axis: one operation for ONNX Runtime."""
    if any(node.has_output(position) for position in (1, 2)):
        raise node.unsupported("the mean or the deviation as an output")
    size, epsilon = node.shape(0)[-1:], float(node.attribute("epsilon", 1e-5))

    def compute(
        data: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        total = data + skip if bias is None else data + skip + bias
        normal = functional.layer_norm(total, size, scale, shift, epsilon)
        return normal, normal, normal, total

    return compute


RULES: dict[str, Rule] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _response_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _norm_along,
    "MeanVarianceNormalization": _mean_variance_norm,
    "com.microsoft:SkipLayerNormalization": _residual_layer_norm,
}
