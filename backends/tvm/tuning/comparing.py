"""Our kernels and tuned ones by turns, inside the network they belong to.

A kernel alone finds its weights in the cache, in the network it may not: only there it shows which one is faster. The
network is compiled twice, once with a tuned kernel wherever there is one, and both run frame by frame in turn.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import tvm
from tvm import tirx
from tvm.target import Target

from cospipe.backends.profiling.pinned_thread import run_on_cores
from cospipe.backends.profiling.rounds import WARM_UP_ROUNDS, counting_times, without_garbage_collection
from cospipe.backends.tvm.importer import ImportedStage
from cospipe.backends.tvm.kernel_clock import KernelClock, build_clock
from cospipe.backends.tvm.lower import LoweredStage, lower_imported, lowering_passes
from cospipe.backends.tvm.sessions import LocalSession, Session
from cospipe.backends.tvm.tiling import Core
from cospipe.backends.tvm.timed_stage import TimedStage
from cospipe.backends.tvm.tuning.comparisons import KernelComparison
from cospipe.backends.tvm.tuning.definitions import definition
from cospipe.backends.tvm.tuning.records import TunedRecord, TuningRecords, apply_record
from cospipe.backends.tvm.tuning.target_match import target_text
from cospipe.backends.tvm.tuning.tasks import KernelTask, workload_of
from cospipe.ir.tensor_file import Array

ROUNDS = 30
"""Frames of each network whose median counts."""


@dataclass(frozen=True)
class Network:
    """A network and what it is compiled for.

    Parameters
    ----------
    imported : ImportedStage
        As Relax.
    weights : mapping of str to array
        Its stored weights by name.
    target : Target
        For LLVM.
    core : Core
        For our kernels.
    allows_winograd : bool
        Whether 3x3 convolutions may be computed by Winograd's method.
    """

    imported: ImportedStage
    weights: Mapping[str, Array]
    target: Target
    core: Core
    allows_winograd: bool = True


@dataclass(frozen=True)
class CompiledPair:
    """A network with our kernels and with tuned ones, and what both are run on; it can be pickled.

    Parameters
    ----------
    libraries : tuple of str
        The two files.
    lowered : tuple of LoweredStage
        What the compiler tells of each.
    inputs : tuple of array
        One frame.
    weights : mapping of str to array
        As they are stored.
    """

    libraries: tuple[str, str]
    lowered: tuple[LoweredStage, LoweredStage]
    inputs: tuple[Array, ...]
    weights: Mapping[str, Array]


KernelTimes = tuple[dict[str, float], dict[str, float]]
"""Microseconds of all calls of each kernel in a frame, by its name: ours, and tuned."""


class Place(Protocol):
    """Where the two networks run."""

    def __call__(self, clock: Path, pair: CompiledPair) -> tuple[str, KernelTimes]:
        """Run both by turns with a clock, a library for that machine; return the machine's name and the times."""


@dataclass(frozen=True)
class Here:
    """Some cores of this machine."""

    cpu_ids: tuple[int, ...]

    def __call__(self, clock: Path, pair: CompiledPair) -> tuple[str, KernelTimes]:
        """Run both in a thread of its own."""
        session = LocalSession()
        times = run_on_cores(self.cpu_ids, lambda: time_by_turns(session, KernelClock(session, clock), pair))
        return platform.node(), times


def compare(
    network: Network, tasks: Sequence[KernelTask], records: TuningRecords, place: Place
) -> list[KernelComparison]:
    """Measure the fastest record of each task beside our own kernel.

    Parameters
    ----------
    network : Network
        What the tasks belong to.
    tasks : sequence of KernelTask
        Those without any record are left out.
    records : TuningRecords
        The records.
    place : callable
        Where to measure.

    Raises
    ------
    LoweringError
        When a library cannot be built, or the tuned kernels compute something else than ours.
    RemoteError
        When no board could do it.
    """
    chosen = {task.workload: best for task in tasks if (best := records.best(task.workload))}
    if not chosen:
        return []
    with tempfile.TemporaryDirectory(prefix="cospipe-compare-") as folder:
        clock = build_clock(Path(folder), network.core.architecture)
        machine, (ours, tuned) = place(clock, _compiled_pair(network, chosen, Path(folder)))
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return [
        KernelComparison(
            workload=task.workload,
            trace=chosen[task.workload].trace,
            target=target_text(network.target),
            nodes=task.nodes,
            ours_us=round(sum(ours[name] for name in task.names), 3),
            tuned_us=round(sum(tuned[name] for name in task.names), 3),
            machine=machine,
            measured_at=now,
        )
        for task in tasks
        if task.workload in chosen
    ]


def _compiled_pair(network: Network, chosen: Mapping[str, TunedRecord], folder: Path) -> CompiledPair:
    libraries = folder / "ours.so", folder / "tuned.so"
    kernels: tuple[None, Callable[[tirx.PrimFunc], Any]] = (None, lambda function: _tuned(function, chosen))
    lowered = [
        lower_imported(
            network.imported,
            network.target,
            lowering_passes(network.target, network.core, network.allows_winograd, tuned),
            library,
        )
        for library, tuned in zip(libraries, kernels, strict=True)
    ]
    files = str(libraries[0]), str(libraries[1])
    return CompiledPair(files, (lowered[0], lowered[1]), _frame(network.imported.module), network.weights)


def _tuned(function: tirx.PrimFunc, chosen: Mapping[str, TunedRecord]) -> tirx.PrimFunc | None:
    unscheduled = definition(function)
    if unscheduled is None:
        return None
    workload, module = workload_of(unscheduled)
    return apply_record(chosen[workload], module, function) if workload in chosen else None


def _frame(module: tvm.IRModule) -> tuple[Array, ...]:
    """Return a tensor for each input of a network: random numbers, or zeros where whole numbers may be indices."""
    main, random = module["main"], np.random.default_rng(0)
    frame = []
    for parameter in main.params[: int(main.attrs["num_input"])]:
        shape, dtype = [int(extent) for extent in parameter.ty.shape], np.dtype(str(parameter.ty.dtype))
        values = random.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
        frame.append(values.astype(dtype))
    return tuple(frame)


def time_by_turns(session: Session, clock: KernelClock, pair: CompiledPair) -> KernelTimes:
    """Run two networks frame by frame in turn.

    Raises
    ------
    LoweringError
        When they compute different things.
    """
    stored = {name: torch.from_numpy(np.array(value)) for name, value in pair.weights.items()}
    inputs = [torch.from_numpy(array) for array in pair.inputs]
    ours, tuned = (
        TimedStage(session, clock, Path(library), lowered, inputs, stored)
        for library, lowered in zip(pair.libraries, pair.lowered, strict=True)
    )
    tuned.check(ours.outputs())
    for _ in range(WARM_UP_ROUNDS):
        ours.run_clocked(), tuned.run_clocked()
    with without_garbage_collection():
        rounds = [(ours.run_clocked(), tuned.run_clocked()) for _ in range(ROUNDS)]
    ours_rounds, tuned_rounds = zip(*rounds, strict=True)
    return _medians(pair.lowered[0], ours_rounds), _medians(pair.lowered[1], tuned_rounds)


def _medians(lowered: LoweredStage, rounds: Sequence[tuple[list[float], list[bool]]]) -> dict[str, float]:
    times_us = np.array([times for times, _ in rounds])
    is_clean = np.array([clean for _, clean in rounds])
    totals: dict[str, float] = {}
    for place, call in enumerate(lowered.calls):
        counted = counting_times(times_us[:, place], is_clean[:, place], ROUNDS)
        totals[call.kernel] = totals.get(call.kernel, 0.0) + float(np.median(counted))
    return totals
