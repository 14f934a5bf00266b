"""Rules of activations: what is applied to every element, and the softmax family."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from cospipe.backends.onnx.node import Computation, OnnxNode, Rule

_SOFTMAX_ALONG_ONE_AXIS = 13
"""Before this opset the axes from ``axis`` on were taken as one."""
_CLIP_BY_INPUTS = 11
_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
"""ONNX's defaults, which are PyTorch's constants in single precision."""


def _plain(function: Callable[[Tensor], Tensor]) -> Rule:
    """Return the rule of an activation without options."""
    return lambda _: function


def _leaky_relu(node: OnnxNode) -> Computation:
    slope = float(node.attribute("alpha", 0.01))
    return lambda data: functional.leaky_relu(data, slope)


def _parametric_relu(node: OnnxNode) -> Computation:
    """Use PyTorch's operation when there is one slope, or one for each channel."""
    shape, slopes = node.shape(0), node.shape(1)
    aligned = (1,) * (len(shape) - len(slopes)) + slopes
    per_channel = (1, *shape[1:2], *[1] * (len(shape) - 2))
    if node.dtype(0).is_floating_point and (prod(slopes) == 1 or (len(shape) > 1 and aligned == per_channel)):
        return lambda data, slope: functional.prelu(data, slope.reshape(-1))
    return lambda data, slope: torch.where(data < 0, data * slope, data)


def _elu(node: OnnxNode) -> Computation:
    alpha = float(node.attribute("alpha", 1.0))
    return lambda data: functional.elu(data, alpha)


def _selu(node: OnnxNode) -> Computation:
    alpha, gamma = float(node.attribute("alpha", _SELU_ALPHA)), float(node.attribute("gamma", _SELU_GAMMA))
    if abs(alpha - _SELU_ALPHA) < 1e-6 and abs(gamma - _SELU_GAMMA) < 1e-6:
        return functional.selu
    return lambda data: functional.elu(data, alpha) * gamma


def _celu(node: OnnxNode) -> Computation:
    alpha = float(node.attribute("alpha", 1.0))
    return lambda data: functional.celu(data, alpha)


def _gelu(node: OnnxNode) -> Computation:
    approximate = str(node.attribute("approximate", "none"))
    if approximate not in ("none", "tanh"):
        raise node.unsupported(f"approximate {approximate!r}")
    return lambda data: functional.gelu(data, approximate=approximate)


def _quick_gelu(node: OnnxNode) -> Computation:
    alpha = float(node.attribute("alpha", 1.702))
    return lambda data: data * torch.sigmoid(data * alpha)


def _hard_sigmoid(node: OnnxNode) -> Computation:
    alpha, beta = float(node.attribute("alpha", 0.2)), float(node.attribute("beta", 0.5))
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return functional.hardsigmoid
    return lambda data: (data * alpha + beta).clamp(0.0, 1.0)


def _thresholded_relu(node: OnnxNode) -> Computation:
    threshold = float(node.attribute("alpha", 1.0))
    return lambda data: torch.where(data > threshold, data, torch.zeros_like(data))


def _shrink(node: OnnxNode) -> Computation:
    bias, threshold = float(node.attribute("bias", 0.0)), float(node.attribute("lambd", 0.5))

    def compute(data: Tensor) -> Tensor:
        inner = torch.where(data > threshold, (data - bias).to(data.dtype), torch.zeros_like(data))
        return torch.where(data < -threshold, (data + bias).to(data.dtype), inner)

    return compute


def _clip(node: OnnxNode) -> Computation:
    """Take the bounds as numbers when they are known, so that this is one operation."""
    if node.opset < _CLIP_BY_INPUTS:
        bounds = [node.attribute(name, None) for name in ("min", "max")]
        return lambda data: _between(data, *bounds)
    if any(node.has(position) and not node.is_static(position) for position in (1, 2)):
        return _clip_by_tensors
    low, high = (node.static(position).item() if node.has(position) else None for position in (1, 2))
    return lambda data, *_: _between(data, low, high)


def _between(data: Tensor, low: float | None, high: float | None) -> Tensor:
    return data if low is None and high is None else data.clamp(low, high)


def _clip_by_tensors(data: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    above = data if low is None else torch.maximum(data, low)
    return above if high is None else torch.minimum(above, high)


def _along_axis(function: Callable[[Tensor, int], Tensor]) -> Rule:
    """Return the rule of a function along one axis, or before opset 13 along all from that axis on."""

    def rule(node: OnnxNode) -> Computation:
        if node.opset >= _SOFTMAX_ALONG_ONE_AXIS:
            axis = node.axis(-1)
            return lambda data: function(data, axis)
        first = node.axis(1)
        if first == node.rank(0) - 1:
            return lambda data: function(data, first)
        return lambda data: function(data.flatten(first), first).reshape(data.shape)

    return rule


def _softmax(data: Tensor, axis: int) -> Tensor:
    return torch.softmax(data, axis)


def _log_softmax(data: Tensor, axis: int) -> Tensor:
    return torch.log_softmax(data, axis)


def _hardmax(data: Tensor, axis: int) -> Tensor:
    """Set the first of the largest elements to one."""
    first = data.argmax(axis, keepdim=True)
    positions = torch.arange(data.shape[axis]).reshape([-1] + [1] * (data.dim() - 1 - axis))
    return (positions == first).to(data.dtype)


def _dropout(node: OnnxNode) -> Computation:
    """Pass the data through: a compiled network does not train."""
    is_training = node.has(2) and bool(node.static(2))
    ratio = float(node.static(1)) if is_training and node.has(1) else 0.5
    if is_training and ratio > 0:
        raise node.unsupported("training_mode (export the network in inference mode)")
    if not node.has_output(1):
        return lambda data, *_: data
    return lambda data, *_: (data, torch.ones_like(data, dtype=torch.bool))


RULES: dict[str, Rule] = {
    "Celu": _celu,
    "Clip": _clip,
    "Dropout": _dropout,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(functional.hardswish),
    "Hardmax": _along_axis(_hardmax),
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _along_axis(_log_softmax),
    "Mish": _plain(functional.mish),
    "PRelu": _parametric_relu,
    "Relu": _plain(torch.relu),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _plain(torch.sigmoid),
    "Softmax": _along_axis(_softmax),
    "Softplus": _plain(functional.softplus),
    "Softsign": _plain(functional.softsign),
    "Tanh": _plain(torch.tanh),
    "ThresholdedRelu": _thresholded_relu,
    "com.microsoft:Gelu": _gelu,
    "com.microsoft:QuickGelu": _quick_gelu,
}
