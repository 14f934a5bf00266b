"""Attributes of ONNX nodes as plain values."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import AttributeProto, helper, numpy_helper

_TEXTS = {AttributeProto.STRING, AttributeProto.STRINGS}


def attribute_values(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name: numbers, text, lists of these, arrays for tensors, graphs as they are."""
    return {attribute.name: _value(attribute) for attribute in node.attribute}


def _value(attribute: AttributeProto) -> Any:
    if attribute.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(attribute.t)
    value = helper.get_attribute_value(attribute)
    if attribute.type not in _TEXTS:
        return list(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value
    return _text(value) if attribute.type == AttributeProto.STRING else [_text(part) for part in value]


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
