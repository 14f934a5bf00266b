"""JSON from files that somebody else may have written: whatever two readers could read differently is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

MOST_DEPTH = 64
MOST_VALUES = 1 << 21


def parse_json(content: bytes | str) -> Any:
    """Return what a JSON text holds.

    Parameters
    ----------
    content : bytes or str
        The text; bytes are UTF-8.

    Raises
    ------
    ValueError
        When it is not valid JSON, names a key twice, begins with a byte order mark, holds numbers that are not finite,
        is nested deeper than ``MOST_DEPTH``, or has more than ``MOST_VALUES`` values. The message is a sentence without
        its full stop.
    """
    text = content if isinstance(content, str) else _decoded(content)
    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark")
    if _most_values(text) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES} values")
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep") from error
    _check_depth(value)
    return value


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not valid JSON: {error}") from error


def _most_values(text: str) -> int:
    """Return a bound on the values, keys and ends of lists and objects, without parsing: text may only look like some.

    Each list or object is a value and has an end, and holds at most one value more than commas.
    """
    return 1 + text.count(",") + text.count(":") + 2 * (text.count("[") + text.count("{"))


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"it names {key!r} twice")
        result[key] = value
    return result


def _float(text: str) -> float:
    if not isfinite(float(text)):
        raise ValueError(f"it is not valid JSON: the number {text[:40]} is too large")
    return float(text)


def _constant(text: str) -> Any:
    raise ValueError(f"it is not valid JSON: {text} is no number")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [part for parent in level for part in _parts(parent) if isinstance(part, (dict, list))]
    if level:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
