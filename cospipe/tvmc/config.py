"""``--config``: defaults of options from a JSON file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cospipe.ir.errors import CospipeError, UsageError, nearest, several
from cospipe.ir.json_text import parse_json

DEFAULT_CONFIG = "default"
CONFIGS_VARIABLE = "TVM_CONFIGS_JSON_DIR"
"""Environment variable with the directory in which configurations are found by name."""


def read_config(name: str) -> dict[str, Any]:
    """Return the values of a configuration.

    Parameters
    ----------
    name : str
        Path of a JSON file, or the name of one in the directory ``TVM_CONFIGS_JSON_DIR`` or below it; ``.json`` may be
        left out. There need not be one with the name ``default``.

    Raises
    ------
    UsageError
        When there is none, or it holds no JSON object.
    """
    file = _find(name)
    if file is None:
        return {}
    try:
        values = parse_json(file.read_bytes())
    except (ValueError, OSError) as error:
        raise UsageError(f"The configuration {file} cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise UsageError(f"The configuration {file} must be a JSON object of options and their values.")
    return values


def _find(name: str) -> Path | None:
    wanted = name.strip() if name.strip().endswith(".json") else f"{name.strip()}.json"
    if name != DEFAULT_CONFIG and Path(wanted).is_file():
        return Path(wanted)
    folder = os.environ.get(CONFIGS_VARIABLE)
    found = sorted(Path(folder).rglob(Path(wanted).name)) if folder else []
    if found:
        return found[0]
    if name == DEFAULT_CONFIG:
        return None
    where = f"neither here nor in {folder}" if folder else f"not here, and {CONFIGS_VARIABLE} names no directory"
    raise UsageError(f"There is no configuration {wanted}: {where}.")


def option_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration by the name argparse has for them.

    ``targets`` is a list of objects with a ``kind``; everything else in them becomes an option of that kind. An object
    is a list of ``name=value``, as ``--pass-config`` takes it.

    Raises
    ------
    UsageError
        When ``targets`` has another form.
    """
    defaults: dict[str, Any] = {}
    for name, value in values.items():
        if name == "targets":
            defaults |= _target_defaults(value)
        elif isinstance(value, dict):
            defaults[name.replace("-", "_")] = [f"{key}={part}" for key, part in value.items()]
        else:
            defaults[name.replace("-", "_")] = value
    return defaults


def _target_defaults(targets: object) -> dict[str, Any]:
    if not isinstance(targets, list) or not all(
        isinstance(t, dict) and isinstance(t.get("kind"), str) for t in targets
    ):
        raise UsageError('"targets" in a configuration must be a list of objects with a "kind", [{"kind": "llvm"}].')
    defaults = {"target": ", ".join(target["kind"] for target in targets)}
    for target in targets:
        prefix = f"target_{target['kind']}_"
        options = {key: value for key, value in target.items() if key != "kind"}
        defaults |= {prefix + key.replace("-", "_"): value for key, value in options.items()}
    return defaults


def apply_config(parsers: Mapping[str, argparse.ArgumentParser], command: str, values: Mapping[str, Any]) -> None:
    """Make the values of a configuration the defaults of a command.

    A value that only other commands know is left to them.

    Raises
    ------
    UsageError
        When no command knows a value, or it is none that the option takes; all of them are listed.
    """
    if command not in parsers:
        return
    defaults = option_defaults(values)
    known = {name: {action.dest: action for action in parser._actions} for name, parser in parsers.items()}
    everywhere = set().union(*known.values())
    problems = [
        f"there is no option {name!r}. {nearest(name, everywhere)}" for name in defaults if name not in everywhere
    ]
    chosen = {}
    for name, value in defaults.items():
        if name in known[command]:
            try:
                chosen[name] = _typed(known[command][name], value)
            except (CospipeError, argparse.ArgumentTypeError, ValueError) as error:
                problems.append(f"{name!r} cannot be {value!r}: {error}")
    if problems:
        raise UsageError(several("The configuration has mistakes", problems))
    parsers[command].set_defaults(**chosen)


def _typed(action: argparse.Action, value: Any) -> Any:
    """Return a value as the option on the command line would give it."""
    if action.dest.startswith("removed_"):
        raise UsageError("it is no longer available")
    if isinstance(action, argparse._StoreTrueAction):
        if not isinstance(value, bool):
            raise ValueError("it must be true or false")
        return value
    is_list = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
    if is_list:
        return [_converted(action, part) for part in (value if isinstance(value, list) else [value])]
    return _converted(action, ",".join(map(str, value)) if isinstance(value, list) else value)


def _converted(action: argparse.Action, value: Any) -> Any:
    converted = action.type(str(value)) if callable(action.type) else value
    if action.choices is not None and converted not in action.choices:
        raise ValueError(f"it must be one of {', '.join(map(str, action.choices))}")
    return converted
