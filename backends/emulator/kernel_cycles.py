"""Cycles of the kernels of a stage on a core: how often each block was executed, times what llvm-mca says of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cospipe.backends.emulator.elf_functions import ElfFunctions
from cospipe.backends.emulator.executed_blocks import ExecutedBlock
from cospipe.backends.emulator.llvm_mca import LlvmTools
from cospipe.ir.soc import Cluster

OLDEST_LLVM = 17
"""The first that describes the Neoverse N1."""

SCHEDULED_AS: Mapping[str, str] = {
    "cortex-a76": "neoverse-n1",
    "cortex-a76ae": "neoverse-n1",
    "cortex-a77": "neoverse-n1",
    "cortex-a78": "neoverse-n2",
    "cortex-a78ae": "neoverse-n2",
    "cortex-a78c": "neoverse-n2",
}
"""LLVM describes these cores as if they were a Cortex-A57, with one vector unit where they have two. The Neoverse N1 is
the server version of the Cortex-A76; the A77 and A78 are wider, and nearest to those they are given here."""

_FLOP_PER_FMA = 8


@dataclass(frozen=True)
class KernelCycles:
    """What is spent in a kernel, in one call or in all calls of an inference.

    Parameters
    ----------
    cycles : float
        Of the slowest thread in each part of the kernel that several threads share, and of its parts before and after.
    forks : float
        How often a part was handed to other threads.
    instructions : float
        Executed by all threads together.
    fma : float
        Multiply-adds of 16 bytes that all threads together executed.
    """

    cycles: float
    forks: float
    instructions: float
    fma: float

    def __add__(self, other: KernelCycles) -> KernelCycles:
        return KernelCycles(
            self.cycles + other.cycles,
            self.forks + other.forks,
            self.instructions + other.instructions,
            self.fma + other.fma,
        )

    def __truediv__(self, calls: int) -> KernelCycles:
        return KernelCycles(self.cycles / calls, self.forks / calls, self.instructions / calls, self.fma / calls)


NO_CYCLES = KernelCycles(0.0, 0.0, 0.0, 0.0)


def kernel_cycles(
    blocks: Sequence[ExecutedBlock], functions: ElfFunctions, tools: LlvmTools, cluster: Cluster
) -> dict[str, KernelCycles]:
    """Return what each kernel costs on cores of a cluster, by its name.

    A block takes what llvm-mca says of many executions in a row, so a loop overlaps its turns; but at least as long as
    its multiply-adds take at the core's measured peak (of which llvm-mca knows too much for the Cortex-A55).

    Parameters
    ----------
    blocks : sequence of ExecutedBlock
        What one inference executed.
    functions : ElfFunctions
        Of the library that was executed.
    tools : LlvmTools
        With llvm-mca.
    cluster : Cluster
        The cores.

    Raises
    ------
    LlvmToolError
        When llvm-mca does not know the core, or refuses an instruction.
    """
    cycles = block_cycles(blocks, tools, cluster)
    by_function: dict[int, list[tuple[ExecutedBlock, float]]] = defaultdict(list)
    for block, each in zip(blocks, cycles, strict=True):
        by_function[block.function].append((block, each))
    kernels: dict[str, KernelCycles] = {}
    for start, measured in by_function.items():
        name = functions.name(start)
        kernels[name] = kernels.get(name, NO_CYCLES) + _function_cycles(measured)
    return kernels


def block_cycles(blocks: Sequence[ExecutedBlock], tools: LlvmTools, cluster: Cluster) -> list[float]:
    """Return the cycles of one execution of each block; llvm-mca sees equal ones once."""
    texts = list(dict.fromkeys(block.assembly for block in blocks if block.assembly))
    known = dict(zip(texts, tools.cycles(texts, scheduled_as(cluster.core_type)), strict=True))
    least = _FLOP_PER_FMA / cluster.flop_per_cycle
    return [max(known.get(block.assembly, 0.0), block.fma * least) for block in blocks]


def scheduled_as(core_type: str) -> str:
    """Return the core by whose description llvm-mca schedules for a core."""
    return SCHEDULED_AS.get(core_type, core_type)


def _function_cycles(measured: Sequence[tuple[ExecutedBlock, float]]) -> KernelCycles:
    """Sum up a function; TVM makes one of each part that threads share, and waits for the slowest thread."""
    executions = np.array([block.executions for block, _ in measured])
    of_threads = np.array([each for _, each in measured]) @ executions
    is_shared = np.count_nonzero(executions.any(axis=0)) > 1
    return KernelCycles(
        cycles=float(of_threads.max()),
        forks=measured[0][0].executions[0] if is_shared else 0,  # the first block is where the function is entered
        instructions=sum(block.executed_instructions for block, _ in measured),
        fma=sum(block.fma * sum(block.executions) for block, _ in measured),
    )
