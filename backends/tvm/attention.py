"""Attention as two matrix products and a softmax, which are scheduled one by one.

TVM's importer makes one kernel of it, which no schedule fits, and takes no note of ``is_causal``.
"""

from __future__ import annotations

import math

import torch


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Compute ``torch.nn.functional.scaled_dot_product_attention`` of a network in eval mode.

    Parameters
    ----------
    query, key, value : Tensor
        Shapes (..., L, E), (..., S, E) and (..., S, V).
    attn_mask : Tensor, optional
        Broadcastable to (..., L, S): False, or minus infinity, where a key must not be seen.
    dropout_p : float
        Ignored: nothing is dropped in eval mode.
    is_causal : bool
        Query i sees keys 0 to i only.
    scale : float, optional
        Factor of the products; 1/√E by default.
    enable_gqa : bool
        Several query heads (third dimension from the end) share a key head.

    Returns
    -------
    Tensor
        Shape (..., L, V); zero for a query that sees no key.
    """
    if enable_gqa:
        key, value = _repeat_heads(key, query.shape[-3]), _repeat_heads(value, query.shape[-3])
    # Scaled behind the product, where it costs nothing; the query is then read as it lies.
    products = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        rows = torch.arange(query.shape[-2], device=query.device).unsqueeze(-1)
        columns = torch.arange(key.shape[-2], device=query.device).unsqueeze(0)
        products = _blocked(columns > rows, products)
    if attn_mask is None:
        return products.softmax(-1) @ value
    is_boolean = attn_mask.dtype == torch.bool
    products = _blocked(attn_mask.logical_not(), products) if is_boolean else products + attn_mask
    is_visible = attn_mask if is_boolean else attn_mask > torch.finfo(products.dtype).min
    shares = products.softmax(-1)
    return torch.where(is_visible.any(-1, keepdim=True), shares, torch.zeros_like(shares)) @ value


def _blocked(where: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    # TVM's ``full`` fails on infinity; beside any real product the lowest number has the share zero as well.
    return torch.where(where, torch.full_like(products, torch.finfo(products.dtype).min), products)


def _repeat_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat each head of (..., H, S, E) so that there are ``heads``, those of a group beside each other."""
    shared = tensor.shape[-3]
    repeated = tensor.unsqueeze(-3).expand(*tensor.shape[:-2], heads // shared, *tensor.shape[-2:])
    return repeated.reshape(*tensor.shape[:-3], heads, *tensor.shape[-2:])
