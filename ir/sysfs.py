"""What Linux tells of the CPUs of this machine: sysfs and ``/proc/cpuinfo``.

A container or an old kernel may hide any of it, so a file that is missing or makes no sense counts as silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ProcessorInfo = Mapping[str, str]
"""The lines of one processor in ``/proc/cpuinfo``."""


@dataclass(frozen=True)
class Cache:
    """A data or unified cache, and the CPUs that share it."""

    size_kib: int
    shared_by: frozenset[int]


@dataclass(frozen=True)
class HostCpu:
    """One CPU; ``None`` and empty tuples stand for what the machine does not tell.

    Parameters
    ----------
    cpu_id : int
        Linux's number.
    capacity : int or None
        ``cpu_capacity``, 1 to 1024.
    clock_mhz : tuple of float
        Clock levels, rising.
    caches : mapping of int to Cache
        By level.
    info : mapping of str to str
        Its lines in ``/proc/cpuinfo``.
    """

    cpu_id: int
    capacity: int | None
    clock_mhz: tuple[float, ...]
    caches: Mapping[int, Cache]
    info: ProcessorInfo


def read_cpus(sysfs: Path, cpuinfo: Path, allowed: Iterable[int]) -> list[HostCpu]:
    """Read these CPUs; of hardware threads that share a core, only the first.

    Parameters
    ----------
    sysfs, cpuinfo : Path
        ``/sys`` and ``/proc/cpuinfo``, or a copy of another machine's.
    allowed : iterable of int
        CPUs to read.
    """
    processors = parse_processors(_read_text(cpuinfo))
    some_processor: ProcessorInfo = next(iter(processors.values()), {})
    return [
        HostCpu(
            cpu_id=cpu,
            capacity=_read_number(_cpu_folder(sysfs, cpu) / "cpu_capacity"),
            clock_mhz=_read_clock_levels(_cpu_folder(sysfs, cpu) / "cpufreq"),
            caches=_read_caches(_cpu_folder(sysfs, cpu) / "cache"),
            info=processors.get(cpu, some_processor),
        )
        for cpu in _one_per_core(sysfs, sorted(set(allowed)))
    ]


def read_title(sysfs: Path, cpu: HostCpu) -> str:
    """Return what the machine calls itself: the board of the device tree, or the model of a CPU."""
    board = _read_text(sysfs / "firmware/devicetree/base/model")
    return board or cpu.info.get("model name") or "unnamed machine"


def parse_processors(text: str) -> dict[int, dict[str, str]]:
    """Return the lines of each processor in the text of ``/proc/cpuinfo``."""
    processors: dict[int, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "processor" and value.isdecimal():
            current = processors.setdefault(int(value), {})
        elif key:
            current[key] = value
    return processors


def _one_per_core(sysfs: Path, allowed: list[int]) -> list[int]:
    kept: list[int] = []
    for cpu in allowed:
        siblings = _read_cpu_list(_cpu_folder(sysfs, cpu) / "topology/thread_siblings_list")
        if siblings.isdisjoint(kept):
            kept.append(cpu)
    return kept


def _read_clock_levels(cpufreq: Path) -> tuple[float, ...]:
    text = _read_text(cpufreq / "scaling_available_frequencies") or _read_text(cpufreq / "cpuinfo_max_freq")
    return tuple(sorted({int(khz) / 1e3 for khz in text.split() if khz.isdecimal() and int(khz) > 0}))


def _read_caches(folder: Path) -> dict[int, Cache]:
    caches = {}
    for index in sorted(folder.glob("index*")):
        level, size_kib = _read_number(index / "level"), _read_size_kib(index / "size")
        if level and size_kib and _read_text(index / "type") != "Instruction":
            caches[level] = Cache(size_kib, _read_cpu_list(index / "shared_cpu_list"))
    return caches


def _read_size_kib(file: Path) -> int | None:
    text = _read_text(file)
    kib_of_unit = {"K": 1, "M": 1024, "G": 1024 * 1024}.get(text[-1:])
    return int(text[:-1]) * kib_of_unit if kib_of_unit and text[:-1].isdecimal() else None


def _read_cpu_list(file: Path) -> frozenset[int]:
    return parse_cpu_list(_read_text(file))


def parse_cpu_list(text: str) -> frozenset[int]:
    """Read ``0-3,6``; what makes no sense is left out."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def _read_number(file: Path) -> int | None:
    text = _read_text(file)
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _cpu_folder(sysfs: Path, cpu: int) -> Path:
    return sysfs / "devices/system/cpu" / f"cpu{cpu}"
