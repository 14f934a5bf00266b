"""Rules of operations on single elements: arithmetic, comparisons, logic, bits, and conversions of numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import onnx
import torch
from torch import Tensor

from cospipe.backends.onnx.element_types import torch_dtype
from cospipe.backends.onnx.node import Computation, OnnxNode, Rule

Binary = Callable[[Any, Any], Tensor]


def _unary(function: Callable[[Tensor], Tensor]) -> Rule:
    return lambda _node: function


def _binary(function: Binary) -> Rule:
    """Return the rule of an operation with two operands; a constant with one element stays a number of Python."""

    def rule(node: OnnxNode) -> Computation:
        number = _scalar(node, 1)
        if number is not None and node.rank(1) <= node.rank(0):
            return lambda left, _right: function(left, number)
        return function

    return rule


def _scalar(node: OnnxNode, position: int) -> float | int | bool | None:
    if not node.is_static(position) or node.is_static(0) or node.static(position).size != 1:
        return None
    value: float | int | bool = node.static(position).item()
    return value


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    return lambda _node: lambda *tensors: reduce(function, tensors)


def _mean(node: OnnxNode) -> Computation:
    return lambda *tensors: reduce(torch.add, tensors) / len(node.inputs)


def _divide(node: OnnxNode) -> Computation:
    if node.dtype(0).is_floating_point:
        return _binary(torch.div)(node)
    return _binary(lambda left, right: torch.div(left, right, rounding_mode="trunc"))(node)


def _modulo(node: OnnxNode) -> Computation:
    if node.attribute("fmod", 0):
        return _binary(torch.fmod)(node)
    return _binary(torch.remainder)(node)


def _power(node: OnnxNode) -> Computation:
    # the result has the type of the base, whatever the exponent's is
    base_type = node.dtype(0)
    power = _binary(torch.pow)(node)
    if node.dtype(1) == base_type:
        return power
    return lambda base, exponent: torch.as_tensor(power(base, exponent)).to(base_type)


def _shift(node: OnnxNode) -> Computation:
    if node.attribute("direction", "") == "RIGHT":
        return torch.bitwise_right_shift
    return torch.bitwise_left_shift


def _is_infinite(node: OnnxNode) -> Computation:
    negative, positive = node.attribute("detect_negative", 1), node.attribute("detect_positive", 1)
    if negative and positive:
        return torch.isinf
    if negative or positive:
        return lambda data: data == (float("inf") if positive else float("-inf"))
    return lambda data: torch.zeros_like(data, dtype=torch.bool)


def _cast(node: OnnxNode) -> Computation:
    number = int(node.attribute("to", 0))
    dtype = torch_dtype(number)
    if dtype is None:
        raise node.unsupported(f"a conversion to {onnx.TensorProto.DataType.Name(number)}")
    return lambda data, *_: data.to(dtype)


def _cast_like(node: OnnxNode) -> Computation:
    dtype = node.dtype(1)
    return lambda data, _like: data.to(dtype)


def _identity(_node: OnnxNode) -> Computation:
    return lambda data: data


RULES: dict[str, Rule] = {
    "Abs": _unary(torch.abs),
    "Acos": _unary(torch.acos),
    "Acosh": _unary(torch.acosh),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Asin": _unary(torch.asin),
    "Asinh": _unary(torch.asinh),
    "Atan": _unary(torch.atan),
    "Atanh": _unary(torch.atanh),
    "BitShift": _shift,
    "BitwiseAnd": _binary(torch.bitwise_and),
    "BitwiseNot": _unary(torch.bitwise_not),
    "BitwiseOr": _binary(torch.bitwise_or),
    "BitwiseXor": _binary(torch.bitwise_xor),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary(torch.ceil),
    "Cos": _unary(torch.cos),
    "Cosh": _unary(torch.cosh),
    "Div": _divide,
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Identity": _identity,
    "IsInf": _is_infinite,
    "IsNaN": _unary(torch.isnan),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "Max": _variadic(torch.maximum),
    "Mean": _mean,
    "Min": _variadic(torch.minimum),
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "Pow": _power,
    "Reciprocal": _unary(torch.reciprocal),
    "Round": _unary(torch.round),  # halves go to the even number, in both
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sinh": _unary(torch.sinh),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Tan": _unary(torch.tan),
    "Where": lambda _node: torch.where,
    "Xor": _binary(torch.logical_xor),
}
