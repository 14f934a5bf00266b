"""Rules of quantised operations: computed with whole numbers held in floating point, rounded as ONNX says.

A product of two 8-bit numbers fits 16 bits, so the sums of a convolution are exact in single precision up to 258
products. ConvInteger, whose result is such a sum, changes to double precision beyond; QLinearConv and QLinearMatMul
round to 8 bits next, and stay with single precision: a result that lies nearly half-way between two steps may then
come out one step off.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from cospipe.backends.onnx.element_types import element_type_name, torch_dtype
from cospipe.backends.onnx.node import Computation, OnnxNode, Rule
from cospipe.backends.onnx.rules_convolution import convolution

_EXACT_PRODUCTS = 2**24 // (255 * 255)


def _quantize(node: OnnxNode) -> Computation:
    target = _target(node)
    limits = torch.iinfo(target)

    def compute(data: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        scale, zero_point = _along_data(node, scale, zero_point)
        steps = torch.round(data.to(scale.dtype) / scale)
        shifted = steps if zero_point is None else steps + zero_point.to(steps.dtype)
        return shifted.clamp(limits.min, limits.max).to(target)

    return compute


def _target(node: OnnxNode) -> torch.dtype:
    """Return the type of the result: the zero point's, the attribute's, or bytes."""
    given = int(node.attribute("output_dtype", 0))
    target = torch_dtype(given) if given else node.dtype(2) if node.has(2) else torch.uint8
    if target is None or target.is_floating_point:
        raise node.unsupported(f"quantising to {element_type_name(given) if given else target}")
    return target


def _dequantize(node: OnnxNode) -> Computation:
    if node.dtype(0).is_floating_point:
        raise node.unsupported("8-bit floating point")

    def compute(data: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        scale, zero_point = _along_data(node, scale, zero_point)
        return (_centred(data, zero_point) * scale.to(torch.float32)).to(scale.dtype)

    return compute


def _centred(data: Tensor, zero_point: Tensor | None) -> Tensor:
    """Return the distance from the zero point, in single precision."""
    numbers = data.to(torch.float32)
    return numbers if zero_point is None else numbers - zero_point.to(torch.float32)


def _along_data(node: OnnxNode, scale: Tensor, zero_point: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Shape scale and zero point so that they spread over the data: of all of it, of each slice, or of each block."""
    shape, rank = node.shape(0), node.rank(0)
    if prod(node.shape(1)) == 1 and len(node.shape(1)) < 2:
        return scale.reshape([]), zero_point if zero_point is None else zero_point.reshape([])
    axis, block = node.axis(1), int(node.attribute("block_size", 0))

    def aligned(parameter: Tensor) -> Tensor:
        if block:
            return parameter.repeat_interleave(block, dim=axis).narrow(axis, 0, shape[axis])
        return parameter.reshape([-1 if dimension == axis else 1 for dimension in range(rank)])

    return aligned(scale), None if zero_point is None else aligned(zero_point)


def _dynamic_quantize(data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Spread the range of the data, zero included, over the 256 bytes; the scale is one when all are zero."""
    high, low = data.amax().clamp(min=0.0), data.amin().clamp(max=0.0)
    step = (high - low) / 255
    scale = torch.where(step == 0, torch.ones_like(step), step)
    zero_point = torch.round(-low / scale).clamp(0, 255)
    quantised = (torch.round(data / scale) + zero_point).clamp(0, 255)
    return quantised.to(torch.uint8), scale, zero_point.to(torch.uint8)


def _requantized(accumulated: Tensor, factor: Tensor, zero_point: Tensor) -> Tensor:
    limits = torch.iinfo(zero_point.dtype)
    shifted = torch.round(accumulated * factor) + zero_point.to(torch.float32)
    return shifted.clamp(limits.min, limits.max).to(zero_point.dtype)


def _quantized_convolution(node: OnnxNode) -> Computation:
    convolve = convolution(node, weight_position=3)
    per_channel = [-1] + [1] * (node.rank(3) - 1)  # first axis of the weight, second of the result

    def compute(
        data: Tensor,
        data_scale: Tensor,
        data_zero: Tensor,
        weight: Tensor,
        weight_scale: Tensor,
        weight_zero: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        centred = _centred(weight, weight_zero.reshape(per_channel))
        shift = None if bias is None else bias.to(torch.float32)
        accumulated = convolve(_centred(data, data_zero), centred, shift)
        assert isinstance(accumulated, Tensor)
        factor = (data_scale * weight_scale / scale).reshape(per_channel[:-1])
        return _requantized(accumulated, factor, zero_point)

    return compute


def _quantized_matmul(node: OnnxNode) -> Computation:
    has_row_scales = node.rank(1) == 1 and node.rank(0) > 1
    has_row_zeros = node.rank(2) == 1 and node.rank(0) > 1

    def compute(
        left: Tensor,
        left_scale: Tensor,
        left_zero: Tensor,
        right: Tensor,
        right_scale: Tensor,
        right_zero: Tensor,
        scale: Tensor,
        zero_point: Tensor,
    ) -> Tensor:
        rows = left_zero.unsqueeze(-1) if has_row_zeros else left_zero
        accumulated = torch.matmul(_centred(left, rows), _centred(right, right_zero))
        left_factor = left_scale.unsqueeze(-1) if has_row_scales else left_scale
        factor = left_factor.to(torch.float32) * right_scale.to(torch.float32) / scale.to(torch.float32)
        return _requantized(accumulated, factor, zero_point)

    return compute


def _integer_convolution(node: OnnxNode) -> Computation:
    convolve = convolution(node)
    is_exact = prod(node.shape(1)[1:]) <= _EXACT_PRODUCTS
    dtype = torch.float32 if is_exact else torch.float64
    per_channel = [-1] + [1] * (node.rank(1) - 1)

    def compute(
        data: Tensor, weight: Tensor, data_zero: Tensor | None = None, weight_zero: Tensor | None = None
    ) -> Tensor:
        zeros = None if weight_zero is None else weight_zero.reshape(per_channel)
        result = convolve(_centred(data, data_zero).to(dtype), _centred(weight, zeros).to(dtype))
        assert isinstance(result, Tensor)
        return result.to(torch.int32)

    return compute


def _integer_matmul(node: OnnxNode) -> Computation:
    has_row_zeros = node.has(2) and node.rank(2) == 1 and node.rank(0) > 1

    def compute(
        left: Tensor, right: Tensor, left_zero: Tensor | None = None, right_zero: Tensor | None = None
    ) -> Tensor:
        if left_zero is not None and has_row_zeros:
            left_zero = left_zero.unsqueeze(-1)
        factors = (
            data.to(torch.int32) if zero is None else data.to(torch.int32) - zero.to(torch.int32)
            for data, zero in ((left, left_zero), (right, right_zero))
        )
        return torch.matmul(*factors)

    return compute


RULES: dict[str, Rule] = {
    "ConvInteger": _integer_convolution,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": lambda _: _dynamic_quantize,
    "MatMulInteger": _integer_matmul,
    "QLinearConv": _quantized_convolution,
    "QLinearMatMul": _quantized_matmul,
    "QuantizeLinear": _quantize,
}
