"""All operations of ONNX that can be translated, with the rule of each.

The table is put together from the ``rules_*`` modules; each has a dictionary ``RULES`` from operation to rule. ONNX's
own operations are under their plain name, others as ``domain:name``.
"""

from __future__ import annotations

from cospipe.backends.onnx import (
    linear_layers,
    rules_activation,
    rules_blocks,
    rules_convolution,
    rules_elementwise,
    rules_index,
    rules_matrix,
    rules_normalisation,
    rules_pooling,
    rules_quantised,
    rules_recurrent,
    rules_reduce,
    rules_regions,
    rules_resize,
    rules_shape,
    rules_signal,
)
from cospipe.backends.onnx.node import Rule

OPERATIONS: dict[str, Rule] = {
    **linear_layers.RULES,
    **rules_activation.RULES,
    **rules_blocks.RULES,
    **rules_convolution.RULES,
    **rules_elementwise.RULES,
    **rules_index.RULES,
    **rules_matrix.RULES,
    **rules_normalisation.RULES,
    **rules_pooling.RULES,
    **rules_quantised.RULES,
    **rules_recurrent.RULES,
    **rules_reduce.RULES,
    **rules_regions.RULES,
    **rules_resize.RULES,
    **rules_shape.RULES,
    **rules_signal.RULES,
}


def operation_key(domain: str, op_type: str) -> str:
    """Return the key of an operation in :data:`OPERATIONS`."""
    return op_type if domain in ("", "ai.onnx") else f"{domain}:{op_type}"


def find_rule(domain: str, op_type: str) -> Rule | None:
    """Return the rule of an operation, None when there is none."""
    return OPERATIONS.get(operation_key(domain, op_type))
