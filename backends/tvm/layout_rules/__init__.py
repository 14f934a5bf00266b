"""How each operation of Relax is carried out on channel blocks: one file a family of operations."""

from __future__ import annotations

from cospipe.backends.tvm.layout import Rule
from cospipe.backends.tvm.layout_rules import convolution, elementwise

RULES: dict[str, Rule] = {**convolution.RULES, **elementwise.RULES}
"""The rule of each operation, by its name in Relax."""
