"""Rules of matrices: products, triangles, determinants."""

from __future__ import annotations

import torch
from torch import Tensor

from cospipe.backends.onnx.element_types import element_type_name, torch_dtype
from cospipe.backends.onnx.node import Computation, OnnxNode, Rule


def _matmul(_: OnnxNode) -> Computation:
    return torch.matmul


def _gemm(node: OnnxNode) -> Computation:
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    is_left_turned, is_right_turned = bool(node.attribute("transA", 0)), bool(node.attribute("transB", 0))

    def compute(left: Tensor, right: Tensor, added: Tensor | None = None) -> Tensor:
        result = torch.matmul(left.t() if is_left_turned else left, right.t() if is_right_turned else right)
        scaled = _times(result, alpha)
        return scaled if added is None else scaled + _times(added, beta)

    return compute


def _times(data: Tensor, factor: float) -> Tensor:
    """Multiply, in the type of the data: a product of integers stays one."""
    return data if factor == 1 else (data * factor).to(data.dtype)


def _fused_matmul(node: OnnxNode) -> Computation:
    """Multiply by turned matrices, and a number: one operation for ONNX Runtime."""
    if node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
        raise node.unsupported("transBatchA and transBatchB")
    alpha = float(node.attribute("alpha", 1.0))
    turned = [bool(node.attribute(name, 0)) and node.rank(i) > 1 for i, name in enumerate(("transA", "transB"))]

    def compute(*factors: Tensor) -> Tensor:
        left, right = (data.mT if is_turned else data for data, is_turned in zip(factors, turned, strict=True))
        return _times(torch.matmul(left, right), alpha)

    return compute


def _einsum(node: OnnxNode) -> Computation:
    equation = str(node.attribute("equation", "")).replace(" ", "")
    return lambda *factors: torch.einsum(equation, *factors)


def _determinant(_: OnnxNode) -> Computation:
    determinant: Computation = torch.linalg.det
    return determinant


def _triangle(node: OnnxNode) -> Computation:
    diagonal = int(node.static(1).item()) if node.has(1) else 0
    if node.attribute("upper", 1):
        return lambda data, *_: torch.triu(data, diagonal)
    return lambda data, *_: torch.tril(data, diagonal)


def _identity_matrix(node: OnnxNode) -> Computation:
    """Make a matrix of the shape of the input, whose values do not matter."""
    shape, diagonal = node.shape(0), int(node.attribute("k", 0))
    if len(shape) != 2:
        raise node.unsupported(f"an input with {len(shape)} dimension(s)")
    given = node.attribute("dtype", None)
    dtype = node.dtype(0) if given is None else torch_dtype(int(given))
    if dtype is None:
        raise node.unsupported(f"the element type {element_type_name(int(given))}")

    def compute(*_: Tensor) -> Tensor:
        columns, rows = torch.arange(shape[1]), torch.arange(shape[0]).unsqueeze(1)
        return (columns - rows == diagonal).to(dtype)

    return compute


RULES: dict[str, Rule] = {
    "Det": _determinant,
    "Einsum": _einsum,
    "EyeLike": _identity_matrix,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Trilu": _triangle,
    "com.microsoft:FusedMatMul": _fused_matmul,
}
