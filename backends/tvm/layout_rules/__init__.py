"""How each operation of Relax is carried out on channel blocks: one file a family of operations."""

from __future__ import annotations

from cospipe.backends.tvm.layout import Rule
from cospipe.backends.tvm.layout_rules import (
    batch_norm,
    channels,
    convolution,
    elementwise,
    extremes,
    normalisation,
    pooling,
    products,
    sequences,
    spatial,
    transposed_convolution,
)

RULES: dict[str, Rule] = {
    **batch_norm.RULES,
    **channels.RULES,
    **convolution.RULES,
    **elementwise.RULES,
    **extremes.RULES,
    **normalisation.RULES,
    **pooling.RULES,
    **products.RULES,
    **sequences.RULES,
    **spatial.RULES,
    **transposed_convolution.RULES,
}
"""The rule of each operation, by its name in Relax."""
