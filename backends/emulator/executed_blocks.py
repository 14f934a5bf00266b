"""The machine code of a stage library that an emulated inference executed, cut into blocks, and how often each ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cospipe.backends.emulator.assembly_loops import Instruction
from cospipe.backends.emulator.elf_functions import ElfFunctions
from cospipe.backends.emulator.instruction_counter import Report
from cospipe.ir.errors import EmulatorError

_NO_PART_OF_A_BLOCK = frozenset({"bl", "blr", "ret", "br"})
"""Calls and returns: llvm-mca would take a hundred cycles for each."""


@dataclass(frozen=True)
class ExecutedBlock:
    """Instructions behind each other that every thread executed equally often; a loop without inner loops is one.

    Parameters
    ----------
    function : int
        Address of the function they belong to.
    instructions : tuple of Instruction
        The block.
    executions : tuple of int
        How often each thread executed it.
    """

    function: int
    instructions: tuple[Instruction, ...]
    executions: tuple[int, ...]

    @property
    def executed_instructions(self) -> int:
        """Instructions that all threads together executed."""
        return len(self.instructions) * sum(self.executions)

    @property
    def fma(self) -> float:
        """Multiply-adds of 16 bytes in one execution."""
        return sum(instruction.fma for instruction in self.instructions)

    @property
    def assembly(self) -> str:
        """The block as text for an assembler, without calls and returns."""
        return "".join(f"{i.text}\n" for i in self.instructions if i.mnemonic not in _NO_PART_OF_A_BLOCK)


def executed_blocks(
    report: Report, library: Path, functions: ElfFunctions, instructions: Sequence[Instruction]
) -> list[ExecutedBlock]:
    """Return what was executed of a library.

    Parameters
    ----------
    report : Report
        What the plugin counted.
    library : Path
        The library that was emulated.
    functions : ElfFunctions
        Its functions.
    instructions : sequence of Instruction
        All its instructions, in order.

    Raises
    ------
    EmulatorError
        When nothing in the library was executed, or instructions that it does not hold.
    """
    executions = _executions(report, library, functions, instructions)
    starts = [functions.start(instruction.address) for instruction in instructions]
    edges = np.flatnonzero(_is_first(executions, starts, instructions)).tolist()
    blocks = []
    for first, end in zip(edges, [*edges[1:], len(instructions)], strict=True):
        if executions[:, first].any():
            times = tuple(int(count) for count in executions[:, first])
            blocks.append(ExecutedBlock(starts[first], tuple(instructions[first:end]), times))
    return blocks


def _executions(
    report: Report, library: Path, functions: ElfFunctions, instructions: Sequence[Instruction]
) -> npt.NDArray[np.int64]:
    """Return how often each thread (row; the one that set the marks first) executed each instruction (column)."""
    index = {instruction.address: place for place, instruction in enumerate(instructions)}
    found = list(_runs(report, library, functions))
    if not found:
        raise EmulatorError(f"Between the marks nothing of {library.name} was executed.")
    threads = sorted({thread for _, _, thread, _ in found}, key=lambda thread: (thread != report.marked_by, thread))
    rows = {thread: row for row, thread in enumerate(threads)}
    changes = np.zeros((len(threads), len(instructions) + 1), np.int64)
    for address, length, thread, times in found:
        first = index.get(address)
        if first is None or index.get(address + 4 * (length - 1)) != first + length - 1:
            raise EmulatorError(f"{library.name} lacks {length} instructions at {address:#x} that were executed.")
        changes[rows[thread], first] += times
        changes[rows[thread], first + length] -= times
    counts: npt.NDArray[np.int64] = changes.cumsum(axis=1)[:, :-1]
    return counts


def _runs(report: Report, library: Path, functions: ElfFunctions) -> Iterator[tuple[int, int, int, int]]:
    """Yield address, number of instructions, thread and executions of what was executed of a library."""
    for file, offset_bytes, block in report.located():
        if file == str(library):
            for thread, times in block.executions.items():
                yield functions.address(offset_bytes), block.once.instructions, thread, times


def _is_first(
    executions: npt.NDArray[np.int64], starts: Sequence[int], instructions: Sequence[Instruction]
) -> npt.NDArray[np.bool_]:
    """Tell of each instruction whether a block starts with it.

    That is where the number of executions changes, where a function starts, and at the borders of loops.
    """
    index = {instruction.address: place for place, instruction in enumerate(instructions)}
    first = np.ones(len(instructions) + 1, np.bool_)
    functions = np.asarray(starts)
    first[1:-1] = (executions[:, 1:] != executions[:, :-1]).any(axis=0) | (functions[1:] != functions[:-1])
    for place, instruction in enumerate(instructions):
        if instruction.jumps_back and instruction.target in index:
            first[[index[instruction.target], place + 1]] = True
    return first[:-1]
