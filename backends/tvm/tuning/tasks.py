"""What there is to tune in a network: one task for all kernels that compute the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import tvm
from tvm import relax, tirx
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.analysis import estimate_tir_flops

from cospipe.backends.tvm.importer import ImportedStage
from cospipe.backends.tvm.kernels.fused import find_kernel
from cospipe.backends.tvm.lower import fusing_passes
from cospipe.backends.tvm.provenance import bindings_with_sources
from cospipe.backends.tvm.tiling import Core
from cospipe.backends.tvm.tuning.definitions import definition
from cospipe.ir.errors import UsageError


@dataclass(frozen=True)
class KernelTask:
    """Kernels of a network that compute the same on tensors of the same shapes.

    Parameters
    ----------
    workload : str
        MetaSchedule's hash of ``module``.
    module : tvm.IRModule
        What they compute, unscheduled, as its function ``main``.
    kernel : PrimFunc
        One of them as our rules get it.
    kind : str
        ``convolution``, ``depthwise``, ...
    names : tuple of str
        What the virtual machine calls.
    nodes : tuple of str
        Nodes of the network that they compute.
    calls : int
        How often a frame runs them.
    """

    workload: str
    module: tvm.IRModule
    kernel: tirx.PrimFunc
    kind: str
    names: tuple[str, ...]
    nodes: tuple[str, ...]
    calls: int

    @property
    def operations(self) -> float:
        """Arithmetic operations of all calls in a frame."""
        return float(estimate_tir_flops(self.module)) * self.calls


@dataclass(frozen=True)
class NetworkTasks:
    """All kernels of a network: those that can be tuned, longest first, and the nodes of those that stay ours."""

    tasks: tuple[KernelTask, ...]
    left_to_ours: tuple[tuple[str, tuple[str, ...]], ...]
    """Kind and nodes of each kernel that MetaSchedule has no way to schedule."""


def workload_of(function: tirx.PrimFunc) -> tuple[str, tvm.IRModule]:
    """Return MetaSchedule's hash of an unscheduled function, and the module that it hashes."""
    module = tvm.IRModule({"main": function.with_attr({"global_symbol": "main", "tirx.noalias": True})})
    return str(ms.database.Workload(module).as_json()[0]), module


def find_tasks(imported: ImportedStage, core: Core, allows_winograd: bool) -> NetworkTasks:
    """Return what can be tuned in a network.

    Parameters
    ----------
    imported : ImportedStage
        The network.
    core : Core
        The cores it is compiled for: layouts and packed weights depend on them.
    allows_winograd : bool
        As in compiling; Winograd's kernels are left to ours.
    """
    module = tvm.transform.Sequential(fusing_passes(core, allows_winograd))(imported.module)
    tasks: dict[str, KernelTask] = {}
    left: list[tuple[str, tuple[str, ...]]] = []
    for name, nodes in _calls(module):
        task = _task(module[name], name, nodes)
        if task is None:
            left += [(kind, nodes)] if (kind := _kind(module[name])) else []
        elif known := tasks.get(task.workload):
            tasks[task.workload] = _joined(known, task)
        else:
            tasks[task.workload] = task
    ordered = sorted(tasks.values(), key=lambda task: -task.operations)
    return NetworkTasks(tuple(ordered), tuple(left))


def _calls(module: tvm.IRModule) -> list[tuple[str, tuple[str, ...]]]:
    """Return the kernels that a frame calls, in order, with the nodes each computes."""
    return [
        (binding.value.args[0].name_hint, tuple(nodes.split()))
        for binding, nodes in bindings_with_sources(module["main"])
        if isinstance(binding.value, relax.Call) and binding.value.op == tvm.ir.Op.get("relax.call_tir")
    ]


def _task(function: tirx.PrimFunc, name: str, nodes: tuple[str, ...]) -> KernelTask | None:
    unscheduled = definition(function)
    if unscheduled is None:
        return None
    workload, module = workload_of(unscheduled)
    return KernelTask(workload, module, function, _kind(function) or "reduction", (name,), nodes, calls=1)


def _kind(function: tirx.PrimFunc) -> str:
    kernel = find_kernel(function)
    return kernel.name if kernel else ""


def _joined(known: KernelTask, other: KernelTask) -> KernelTask:
    names = tuple(dict.fromkeys(known.names + other.names))
    return replace(known, names=names, nodes=known.nodes + other.nodes, calls=known.calls + 1)


def parse_selection(text: str, count: int) -> list[int]:
    """Return the tasks that a text like ``all``, ``0,2``, ``3-5`` or ``16-`` chooses.

    Parameters
    ----------
    text : str
        Numbers and ranges, separated by commas; a range without an end goes to the last task.
    count : int
        How many tasks there are.

    Raises
    ------
    UsageError
        Naming every part that is no number or range of tasks.
    """
    if text == "all":
        return list(range(count))
    chosen: dict[int, None] = {}
    wrong = []
    for part in text.split(","):
        numbers = _range(part.strip(), count)
        if not numbers:
            wrong.append(repr(part))
        chosen.update(dict.fromkeys(numbers))
    if wrong:
        raise UsageError(
            f"--tasks {', '.join(wrong)} is no task of this model, which has 0 to {count - 1}; write numbers and ranges"
            " like 0,2 or 3-5 or 16-, or all; --tasks list shows them."
        )
    return list(chosen)


def _range(part: str, count: int) -> Sequence[int]:
    first, dash, last = (piece.strip() for piece in part.partition("-"))
    if not first.isdecimal() or (last and not last.isdecimal()):
        return ()
    end = int(first) if not dash else int(last) if last else count - 1
    return range(int(first), end + 1) if end < count else ()
