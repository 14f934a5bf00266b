"""How MetaSchedule's candidates are built and, on this machine, run: like the kernels they compete with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tvm
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock
from tvm.target import Target

from cospipe.backends.runtime.tvm_runtime import configure_thread_pool
from cospipe.backends.tvm.elementary import use_vector_functions
from cospipe.backends.tvm.link import link_shared_library
from cospipe.backends.tvm.tiling import Core
from cospipe.ir.errors import UsageError


def candidate_builder(core: Core, workers: int, timeout_s: float) -> ms.builder.LocalBuilder:
    """Return what builds candidates in several processes, each as a shared library for the target.

    Parameters
    ----------
    core : Core
        The cores they will run on.
    workers : int
        Processes.
    timeout_s : float
        How long one candidate may take, in seconds.
    """
    return ms.builder.LocalBuilder(
        max_workers=workers,
        timeout_sec=timeout_s,
        f_build=partial(_build, core=core),
        f_export=partial(_export, architecture=core.architecture),
    )


def _build(module: tvm.IRModule, target: Target, _params: Any, core: Core) -> Any:
    module = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module)
    return tvm.tirx.build(use_vector_functions(module, core), target=target)


def _export(module: Any, architecture: str) -> str:
    """Write a library into a folder of its own, which MetaSchedule deletes, and return its path.

    Its name is its own, too: a board keeps what it has loaded from a name.
    """
    folder = Path(tempfile.mkdtemp(prefix="cospipe-candidate-"))
    path = str(folder / f"{folder.name}.so")
    module.export_library(
        path, fcompile=lambda output, objects, **_: link_shared_library(objects, output, architecture)
    )
    return path


def local_runner(
    cpu_ids: Sequence[int], number: int, repeat: int, min_repeat_ms: int, timeout_s: float
) -> ms.runner.LocalRunner:
    """Return what runs candidates in a process of its own whose kernels share some cores of this machine.

    Parameters
    ----------
    cpu_ids : sequence of int
        The cores.
    number, repeat, min_repeat_ms : int
        Runs that make one time, times, and the least milliseconds that one time takes.
    timeout_s : float
        How long one candidate may take, in seconds.
    """
    config = ms.runner.EvaluatorConfig(number=number, repeat=repeat, min_repeat_ms=min_repeat_ms)
    return ms.runner.LocalRunner(timeout_sec=timeout_s, evaluator_config=config, initializer=partial(_pin, cpu_ids))


def _pin(cpu_ids: Sequence[int]) -> None:
    os.sched_setaffinity(0, cpu_ids)
    configure_thread_pool(cpu_ids, len(cpu_ids))


def cores_here(threads: int) -> tuple[int, ...]:
    """Return the cores of this machine to measure on.

    Raises
    ------
    UsageError
        When this process may not use as many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < threads:
        raise UsageError(
            f"The target has num-cores {threads}, but this process may use {len(allowed)} core(s); give a smaller"
            " num-cores, or measure on a board with --rpc-tracker."
        )
    return tuple(allowed[:threads])
