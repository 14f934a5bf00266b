"""The text of ``--target``: kinds with options as older TVM wrote them, or JSON, here or in a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cospipe.ir.errors import UsageError
from cospipe.ir.json_text import parse_json

_QUOTED = r"\"[^\"]*\"|'[^']*'"
_PLAIN = r"[^\s,\"']+(?:,[^\s,\"']+)*"
_TOKEN = re.compile(
    rf"\s*(?:(?P<comma>,)|--?(?P<option>[\w-]+)(?:=(?P<value>{_QUOTED}|{_PLAIN}))?(?=[\s,]|$)|(?P<kind>[\w.-]+)(?=[\s,]|$))\s*"
)


@dataclass
class TargetText:
    """A target as it was written: its kind, and its options by name, True for one without a value."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)


def read_targets(text: str) -> list[TargetText]:
    """Return the targets in a text.

    Parameters
    ----------
    text : str
        ``"llvm -mcpu=cortex-a72 -mattr=+neon,+crc"``, several with a comma and a space between them, quotes where a
        value has spaces; a JSON object with ``kind``; or the path of a file with one of these.

    Raises
    ------
    UsageError
        When it has another form.
    """
    if Path(text).is_file():
        text = Path(text).read_text(encoding="utf-8", errors="replace")
    if text.lstrip().startswith("{"):
        return _from_json(text)
    return _from_words(text)


def _from_json(text: str) -> list[TargetText]:
    try:
        values = parse_json(text)
    except ValueError as error:
        raise UsageError(f"The target cannot be read as JSON: {error}.") from error
    host = values.pop("host", None)
    targets = [_from_object(values)]
    return targets if host is None else [*targets, _from_object(host)]


def _from_object(values: object) -> TargetText:
    if not isinstance(values, Mapping) or not isinstance(values.get("kind"), str):
        raise UsageError('A target as JSON must be an object with a "kind", {"kind": "llvm", "mcpu": "cortex-a72"}.')
    return TargetText(values["kind"], {name: value for name, value in values.items() if name != "kind"})


def _from_words(text: str) -> list[TargetText]:
    targets: list[TargetText] = []
    is_new, place = True, 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None or is_new != (token["kind"] is not None):
            raise UsageError(
                f"The target {text!r} cannot be read from {text[place:].strip()!r} on; write it like"
                ' "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72 -mattr=+neon,+crc".'
            )
        is_new = token["comma"] is not None
        if token["kind"]:
            targets.append(TargetText(token["kind"]))
        elif token["option"]:
            targets[-1].options[token["option"]] = True if token["value"] is None else token["value"].strip("\"'")
        place = token.end()
    if is_new:
        raise UsageError(f"The target {text!r} names no target kind" + (" behind its last comma." if targets else "."))
    return targets
