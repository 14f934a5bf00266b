"""The time of each kernel of a package, measured where it runs, and a table of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import Any, cast

from cospipe.backends.tvm.tvmc.loaded_library import LoadedLibrary
from cospipe.backends.tvm.tvmc.package_metadata import PackagedKernel, PackageMetadata
from cospipe.backends.tvm.tvmc.run_sessions import RunSession
from cospipe.backends.tvm.tvmc.text_table import text_table
from cospipe.ir.errors import StageError

_RUNS = 10
_NODES_SHOWN = 4
_NUMBERS = (0, 1, 2)
"""Columns of the table."""
_MACHINE = "(virtual machine)"


@dataclass(frozen=True)
class KernelTime:
    """What one kernel takes in a run, all of its calls together.

    Parameters
    ----------
    kernel, kind : str
        What the virtual machine calls, and what it is.
    nodes : tuple of str
        The nodes of the network that it computes.
    calls : int
        How often it is called in a run.
    time_us : float
        Microseconds in a run; the sum of the medians of its calls over several runs.
    """

    kernel: str
    kind: str
    nodes: tuple[str, ...]
    calls: int
    time_us: float


def kernel_times(
    loaded: LoadedLibrary, session: RunSession, metadata: PackageMetadata, folder: Path
) -> list[KernelTime]:
    """Measure the kernels of a network; the slowest comes first.

    Parameters
    ----------
    loaded : LoadedLibrary
        The network with its inputs.
    session : RunSession
        Where it is loaded.
    metadata : PackageMetadata
        Of its package.
    folder : Path
        Directory for the compiled clock.

    Raises
    ------
    LoweringError
        When the clock cannot be compiled.
    """
    from cospipe.backends.tvm.kernel_clock import INSTRUMENT, KernelClock, build_clock

    clock = KernelClock(cast(Any, session), build_clock(folder, metadata.architecture))
    machine = loaded.new_machine()
    loaded.set_inputs(machine)
    loaded.invoke(machine)
    machine.get_function("set_instrument")(INSTRUMENT)
    clock.start(notes_names=True)
    loaded.invoke(machine)
    names, runs = clock.names(), []
    for _ in range(_RUNS):
        clock.start()
        loaded.invoke(machine)
        runs.append([abs(time_ns) / 1e3 for time_ns in clock.times_ns()])
    if any(len(run) != len(names) for run in runs):
        raise StageError(metadata.model, f"{metadata.model} calls other kernels in each run and cannot be profiled.")
    calls_us = [median(times_us) for times_us in zip(*runs, strict=True)]
    return _by_kernel(names, calls_us, metadata.kernels)


def _by_kernel(names: Sequence[str], calls_us: Sequence[float], known: Sequence[PackagedKernel]) -> list[KernelTime]:
    """Put together the calls of each kernel, and all other calls of the virtual machine."""
    kinds = {kernel.name: kernel.kind for kernel in known}
    times_us: dict[str, list[float]] = {}
    for name, time_us in zip(names, calls_us, strict=True):
        times_us.setdefault(name if name in kinds else _MACHINE, []).append(time_us)
    found = [
        KernelTime(name, kinds.get(name, ""), _nodes(name, known), len(each_us), sum(each_us))
        for name, each_us in times_us.items()
    ]
    return sorted(found, key=lambda kernel: kernel.time_us, reverse=True)


def _nodes(name: str, known: Iterable[PackagedKernel]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain(*(kernel.nodes for kernel in known if kernel.name == name))))


def kernel_table(kernels: Sequence[KernelTime]) -> str:
    """Return a table of kernels for a terminal, with their sum."""
    total_us = sum(kernel.time_us for kernel in kernels)
    rows = [
        [f"{k.time_us:.1f}", _percent(k.time_us, total_us), str(k.calls), k.kind, k.kernel, _shortened(k.nodes)]
        for k in kernels
    ]
    calls = sum(kernel.calls for kernel in kernels)
    total = [f"{total_us:.1f}", _percent(total_us, total_us), str(calls), "", "Total", ""]
    titles = ["Time (us)", "Share", "Calls", "Kind", "Kernel", "Nodes"]
    return text_table([titles, *rows, total], _NUMBERS, has_total=True)


def _percent(part_us: float, total_us: float) -> str:
    return f"{100 * part_us / total_us:.1f} %" if total_us else ""


def _shortened(nodes: Sequence[str]) -> str:
    further = len(nodes) - _NODES_SHOWN
    return ", ".join([*islice(nodes, _NODES_SHOWN), *([f"{further} more"] if further > 0 else [])])
