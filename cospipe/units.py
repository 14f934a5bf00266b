"""Amounts with units as people write them: ``50ms``, ``2.5 W``, ``200MB``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from cospipe.ir.errors import UsageError

MICROSECONDS: Mapping[str, float] = {"ns": 1e-3, "us": 1, "µs": 1, "μs": 1, "ms": 1e3, "s": 1e6, "min": 60e6}
MILLIWATTS: Mapping[str, float] = {"uW": 1e-3, "mW": 1, "W": 1e3, "kW": 1e6}
BYTES: Mapping[str, float] = {
    "B": 1,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}

_AMOUNT = re.compile(
    r"\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf(?:inity)?))\s*(?P<unit>\S*)\s*", re.I
)


def time_us(option: str, text: str) -> float:
    """Read a time, ``80us``, ``50ms`` or ``1.5s``; return microseconds.

    Raises
    ------
    UsageError
        When it is no positive finite time; ``option`` is named.
    """
    return _amount(option, text, MICROSECONDS, "a time", "50ms")


def power_mw(option: str, text: str) -> float:
    """Read a power, ``2500mW`` or ``5W``; return milliwatts.

    Raises
    ------
    UsageError
        When it is no positive finite power; ``option`` is named.
    """
    return _amount(option, text, MILLIWATTS, "a power", "5W")


def memory_bytes(option: str, text: str) -> int:
    """Read a size, ``200MB`` (millions) or ``200MiB``; return bytes, rounded down.

    Raises
    ------
    UsageError
        When it is not at least one byte, or not finite; ``option`` is named.
    """
    size = int(_amount(option, text, BYTES, "a size", "200MB"))
    if not size:
        raise UsageError(f"{option} must be at least one byte, not {text!r}.")
    return size


def _amount(option: str, text: str, units: Mapping[str, float], what: str, example: str) -> float:
    found = _AMOUNT.fullmatch(text)
    if not found:
        raise UsageError(f"{option} takes {what} such as {example}, not {text!r}.")
    unit = found["unit"]
    if unit not in units:
        known = ", ".join(unit for unit in units if unit.isascii())
        wrong = f"{unit!r} is none of its units" if unit else f"{text!r} has no unit"
        raise UsageError(f"{option} takes {what} such as {example}: {wrong} ({known}).")
    amount = float(found["number"]) * units[unit]
    if not (math.isfinite(amount) and amount > 0):
        raise UsageError(f"{option} must be {what} above zero, such as {example}, not {text!r}.")
    return amount
