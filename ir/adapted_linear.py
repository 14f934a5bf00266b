"""The forward pass of an adapted linear layer that keeps no merged weight for its backward pass.

``F.linear(x, W + dW)`` alone would keep the merged weight of every layer until the backward pass, and multiply all of
x with all of the output's gradient to get the weight's gradient, of which n numbers are wanted. Here the merged weight
is made again, and where it is cheaper the inputs are first projected onto the frequencies that have coefficients: with
u of them ``2 t u (M + N)`` operations instead of ``2 t M N`` for t rows of x. Then the projection is kept instead of x.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from cospipe.ir.errors import UsageError
from cospipe.ir.sparse_dct import SparseDct
from cospipe.ir.spectral_delta import SpectralDelta

_NARROW_PRODUCT = 1.25
"""A product with few columns takes so much longer for each operation, measured on two x86 cores with 190 of 384."""

_is_plain = ContextVar("is_plain", default=False)


@contextmanager
def plain_forward() -> Iterator[None]:
    """Let adapted layers run as ``F.linear(x, W + dW)`` meanwhile; that has derivatives of any order."""
    token = _is_plain.set(True)
    try:
        yield
    finally:
        _is_plain.reset(token)


def install(module: nn.Module) -> None:
    """Give an adapted layer this forward pass, when it is a plain linear layer or Hugging Face's ``Conv1D``.

    The layer's class is the one that ``parametrize`` made for it alone.
    """
    own_class = type(module)
    if own_class.forward is nn.Linear.forward:
        own_class.forward = _forward_linear
    elif own_class.__mro__[1].__name__ == "Conv1D" and hasattr(module, "nf"):
        own_class.forward = _forward_transposed


def _forward_linear(self: Any, input: torch.Tensor) -> torch.Tensor:
    delta = _single_delta(self, input)
    if delta is None:
        return functional.linear(input, self.weight, self.bias)
    original = self.parametrizations.weight.original
    result: torch.Tensor = _Linear.apply(input, original, self.bias, delta.coefficients, delta, False)
    return result


def _forward_transposed(self: Any, x: torch.Tensor) -> torch.Tensor:
    delta = _single_delta(self, x)
    if delta is None:
        return functional.linear(x, self.weight.T, self.bias)
    original = self.parametrizations.weight.original
    result: torch.Tensor = _Linear.apply(x, original, self.bias, delta.coefficients, delta, True)
    return result


def _single_delta(module: Any, input: torch.Tensor) -> SpectralDelta | None:
    """Return the one delta at work on the weight; None where the general way must be taken."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or _is_plain.get():
        return None
    if input.is_meta or torch.is_autocast_enabled(input.device.type):
        return None
    chain: parametrize.ParametrizationList = module.parametrizations.weight
    if not all(isinstance(step, SpectralDelta) for step in chain):
        return None
    active = [step for step in chain if step.strength != 0]
    if len(active) != 1 or not active[0].coefficients.requires_grad or input.dtype != chain.original.dtype:
        return None
    return active[0]  # type: ignore[return-value]


class _Linear(torch.autograd.Function):
    """``x W'^T + b`` with ``W' = W + dW(c)``; ``x W' + b`` where the weight is stored transposed."""

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        coefficients: torch.Tensor,
        delta: SpectralDelta,
        is_transposed: bool,
    ) -> torch.Tensor:
        """Return the layer's result; keep x, or its projection where that is all the backward pass needs."""
        merged = delta.merged(weight, coefficients, delta.alpha * delta.strength)
        ctx.delta, ctx.is_transposed, ctx.input_shape = delta, is_transposed, input.shape
        ctx.scale = delta.alpha * delta.strength
        ctx.is_projected = _keeps_projection(delta.transform(), input, is_transposed) and not weight.requires_grad
        rows = input.reshape(-1, input.shape[-1])
        kept = rows @ delta.transform().line_rows(rows.dtype).T if ctx.is_projected else input
        ctx.save_for_backward(kept, weight, coefficients)
        return functional.linear(input, merged.T if is_transposed else merged, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, W (when wanted), b and the coefficients."""
        if torch.is_grad_enabled():
            raise UsageError(
                "Second derivatives (create_graph=True) need the layers' plain form: run the forward pass"
                " under cospipe.ir.adapted_linear.plain_forward()."
            )
        kept, weight, coefficients = ctx.saved_tensors
        (gradient,) = gradients
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_input = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            merged = ctx.delta.merged(weight, coefficients, ctx.scale)
            of_input = (gradient @ (merged.T if ctx.is_transposed else merged)).reshape(ctx.input_shape)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        if ctx.is_projected:
            spectrum = ctx.delta.transform().finish(_product(kept, rows, coefficients.dtype))
        else:
            inputs = kept.reshape(-1, kept.shape[-1])
            left, right = (inputs, rows) if ctx.is_transposed else (rows, inputs)
            if ctx.needs_input_grad[1]:
                of_weight = left.T @ right
            spectrum = _spectrum(ctx.delta.transform(), left, right, of_weight, coefficients.dtype)
        of_coefficients = (spectrum * ctx.scale).to(coefficients.dtype)
        return of_input, of_weight, of_bias, of_coefficients, None, None


def _keeps_projection(transform: SparseDct, input: torch.Tensor, is_transposed: bool) -> bool:
    """Tell whether the densely transformed axis is that of x, and the projection smaller and cheaper to multiply."""
    is_axis_of_input = transform.is_swapped == is_transposed
    return is_axis_of_input and _is_projection_cheaper(transform)


def _is_projection_cheaper(transform: SparseDct) -> bool:
    lines, height, width = len(transform.lines), transform.height, transform.width
    return _NARROW_PRODUCT * lines * (height + width) < height * width


def _spectrum(
    transform: SparseDct, left: torch.Tensor, right: torch.Tensor, product: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Return the spectrum of ``left^T right`` at the places."""
    if product is None and _is_projection_cheaper(transform):
        transformed, added = (left, right) if transform.is_swapped else (right, left)
        projection = transformed @ transform.line_rows(transformed.dtype).T
        return transform.finish(_product(projection, added, dtype))
    return transform.forward((left.T @ right if product is None else product).to(_at_least_single(dtype)))


def _product(projection: torch.Tensor, added: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (projection.T @ added).to(_at_least_single(dtype))


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
