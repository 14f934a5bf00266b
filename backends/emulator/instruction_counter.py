"""Counting of executed AArch64 instructions with a QEMU plugin: its build, how QEMU is called, its report."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cospipe.ir.errors import EmulatorError, UsageError, nearest, said_by

SOURCE = Path(__file__).with_name("instruction_counter.c")

_SAME_INSTRUCTIONS = {"cortex-a73": "cortex-a72", "cortex-a55": "cortex-a76", "cortex-a75": "cortex-a76"}
"""What stands in for a core that QEMU has no model of: it executes the same instructions."""


@dataclass(frozen=True)
class Counts:
    """Executed instructions, and how many of them are fused multiply-adds, loads and stores."""

    instructions: int = 0
    fma: int = 0
    loads: int = 0
    stores: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.instructions + other.instructions,
            self.fma + other.fma,
            self.loads + other.loads,
            self.stores + other.stores,
        )


@dataclass(frozen=True)
class Block:
    """A run of instructions that QEMU translated together: it is always executed from its first to its last one.

    Parameters
    ----------
    address : int
        Where its first instruction lies in memory.
    once : Counts
        What one execution counts.
    executions : mapping of int to int
        How often each thread executed it, by the thread's number.
    """

    address: int
    once: Counts
    executions: Mapping[int, int]

    @property
    def counts(self) -> Counts:
        """What all executions counted."""
        times = sum(self.executions.values())
        return Counts(*(times * count for count in vars(self.once).values()))


@dataclass(frozen=True)
class Mapped:
    """A part of a file in memory."""

    start: int
    end: int
    offset_bytes: int
    file: str


@dataclass(frozen=True)
class Report:
    """What the plugin counted between the last two marks, which the thread ``marked_by`` set."""

    blocks: tuple[Block, ...]
    mappings: tuple[Mapped, ...]
    marked_by: int

    @property
    def total(self) -> Counts:
        """Sum over all blocks and threads."""
        return total(block.counts for block in self.blocks)

    def located(self) -> Iterator[tuple[str, int, Block]]:
        """Yield each block behind the file it lies in and its offset there; the file is empty where there is none."""
        mappings = sorted(self.mappings, key=lambda mapping: mapping.start)
        starts = [mapping.start for mapping in mappings]
        for block in self.blocks:
            mapping = mappings[bisect_right(starts, block.address) - 1]
            if mapping.start <= block.address < mapping.end:
                yield mapping.file, block.address - mapping.start + mapping.offset_bytes, block
            else:
                yield "", 0, block


def total(counts: Iterable[Counts]) -> Counts:
    """Return the sum of counts."""
    return sum(counts, start=Counts())


def plugin_options(plugin: Path, report: Path, mcpu: str, qemu: str) -> tuple[str, ...]:
    """Return the options with which QEMU emulates a core and counts what it executes.

    Raises
    ------
    UsageError
        When this QEMU emulates neither the core nor one that executes the same instructions.
    """
    file, target = (str(path).replace(",", ",,") for path in (plugin, report))
    return ("-cpu", _qemu_cpu(mcpu, qemu), "-plugin", f"{file},report={target}")


def _qemu_cpu(mcpu: str, qemu: str) -> str:
    listed = _output(qemu, "-cpu", "help").split()
    for name in (mcpu, _SAME_INSTRUCTIONS.get(mcpu, mcpu)):
        if name in listed:
            return name
    raise UsageError(f"{qemu} does not emulate {mcpu}. {nearest(mcpu, [*listed, *_SAME_INSTRUCTIONS])}")


def build_plugin(folder: Path, qemu: str) -> Path:
    """Compile the plugin for a QEMU with the system's C compiler, or with zig's where there is none.

    Parameters
    ----------
    folder : Path
        Where it is kept, one file for each version of the source.
    qemu : str
        The program that will load it.

    Raises
    ------
    EmulatorError
        When this QEMU loads no plugins, or the plugin cannot be compiled; the message is the compiler's.
    """
    if "-plugin" not in _output(qemu, "--help"):
        raise EmulatorError(
            f"{qemu} was built without plugins, which count the instructions; Debian 12's qemu-user has them,"
            " Debian 13's has not: build QEMU with --enable-plugins and put it first in PATH."
        )
    api = _plugin_api(qemu)
    plugin = folder / f"instruction_counter-{api}-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"
    if plugin.exists():
        return plugin
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        new = Path(scratch) / plugin.name
        options = ["-shared", "-fPIC", "-fvisibility=hidden", "-O2", f"-DPLUGIN_API={api}", "-o", str(new)]
        finished = subprocess.run([*_c_compiler(), *options, str(SOURCE)], capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise EmulatorError(f"{SOURCE.name} could not be compiled: {said_by(finished)}")
        new.replace(plugin)
    return plugin


def _c_compiler() -> list[str]:
    return ["cc"] if shutil.which("cc") else [sys.executable, "-m", "ziglang", "cc"]


def _plugin_api(qemu: str) -> int:
    """Return the version of the plugin interface a plugin must name to be loaded; QEMU raises the lowest it takes."""
    text = _output(qemu, "--version")
    found = re.search(r"version (\d+)\.(\d+)", text)
    if found is None:
        raise EmulatorError(f"{qemu} --version does not tell a version: {text.strip()!r}.")
    version = int(found[1]), int(found[2])
    return next(api for oldest, api in (((9, 2), 4), ((9, 1), 3), ((9, 0), 2), ((0, 0), 1)) if version >= oldest)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def read_report(file: Path, *, any_thread: bool = False) -> Report:
    """Read what the plugin wrote.

    Parameters
    ----------
    file : Path
        The report.
    any_thread : bool
        Whether threads may have worked that did not set the marks.

    Raises
    ------
    EmulatorError
        When there is no report (the program set no marks), or other threads worked between the marks and must not.
    """
    if not file.exists():
        raise EmulatorError(f"The emulated program set no marks: the plugin wrote no {file.name}.")
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    blocks = tuple(_block(line) for line in lines if line[0] == "block")
    mappings = tuple(_mapping(line) for line in lines if line[0] not in ("block", "marked") and len(line) > 5)
    report = Report(blocks, mappings, marked_by=int(lines[0][1]))
    if not any_thread:
        _check_one_thread(report)
    return report


def _check_one_thread(report: Report) -> None:
    elsewhere = sum(
        times * block.once.instructions
        for block in report.blocks
        for thread, times in block.executions.items()
        if thread != report.marked_by
    )
    if elsewhere:
        raise EmulatorError(f"Other threads executed {elsewhere} instructions between the marks; only one may work.")


def _block(fields: Sequence[str]) -> Block:
    _, address, *numbers = fields
    once, by_thread = [int(number) for number in numbers[:4]], [int(number) for number in numbers[4:]]
    return Block(int(address, 16), Counts(*once), dict(zip(by_thread[::2], by_thread[1::2], strict=True)))


def _mapping(fields: Sequence[str]) -> Mapped:
    start, _, end = fields[0].partition("-")
    return Mapped(int(start, 16), int(end, 16), int(fields[2], 16), " ".join(fields[5:]))
