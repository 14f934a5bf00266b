"""Whether cores run, at which clock, and who decides that: what every measurement must say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cospipe.ir.sysfs import parse_cpu_list

_ONLINE = "/sys/devices/system/cpu/online"
_HIGHEST_CLOCK = "/sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq"
_CLOCK = "/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"
_GOVERNOR = "/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"

ReadText = Callable[[str], str]
"""Returns a text file of the machine that is measured; empty when it cannot be read."""


def read_here(file: str) -> str:
    """Return a text file of this machine; empty when it cannot be read."""
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def clocks_mhz(cpu_ids: Sequence[int], read: ReadText = read_here) -> tuple[float, ...]:
    """Return the clock of each core at this moment; empty where the machine does not tell."""
    texts = [read(_CLOCK.format(cpu=cpu)).strip() for cpu in cpu_ids]
    if not all(text.isdecimal() and int(text) > 0 for text in texts):
        return ()
    return tuple(int(text) / 1e3 for text in texts)


def highest_clock_mhz(cpu: int, read: ReadText = read_here) -> float | None:
    """Return the highest clock a core can have; None where the machine does not tell."""
    text = read(_HIGHEST_CLOCK.format(cpu=cpu)).strip()
    return int(text) / 1e3 if text.isdecimal() and int(text) > 0 else None


def online_cpus(read: ReadText = read_here) -> frozenset[int] | None:
    """Return the cores that are switched on; None where the machine does not tell."""
    return parse_cpu_list(read(_ONLINE)) or None


def governor(cpu_ids: Sequence[int], read: ReadText = read_here) -> str | None:
    """Return what decides the clocks of these cores; several are separated by commas."""
    found = dict.fromkeys(read(_GOVERNOR.format(cpu=cpu)).strip() for cpu in cpu_ids)
    return ", ".join(filter(None, found)) or None


def mean_clocks_mhz(before: Sequence[float], after: Sequence[float]) -> tuple[float, ...]:
    """Return the mean of two readings of each core's clock; empty when the machine did not tell one of them."""
    if len(before) != len(after):
        return ()
    return tuple((early + late) / 2 for early, late in zip(before, after, strict=True))
