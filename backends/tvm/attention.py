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
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    products = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        visible = torch.ones(query.shape[-2], key.shape[-2], dtype=products.dtype, device=query.device).tril()
        products = products.masked_fill(visible == 0, -math.inf)
    if attn_mask is None:
        return products.softmax(-1) @ value
    products = products.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else products + attn_mask
    sees_nothing = products.amax(-1, keepdim=True) == -math.inf
    return products.softmax(-1).masked_fill(sees_nothing, 0.0) @ value
