"""LLVM's machine code analyser and disassembler: finding them, and what they say of a loop."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from assembly_loops import Instruction, Loop, parse_disassembly

from cospipe.ir.errors import CospipeError

OLDEST_VERSION = 14  # the first that models in-order cores and writes its summary as JSON
ITERATIONS = 100


class LlvmToolError(CospipeError):
    """An LLVM tool is missing or failed."""


@dataclass(frozen=True)
class LlvmTools:
    """``llvm-mca`` and ``llvm-objdump`` of one LLVM."""

    version: tuple[int, ...]
    analyser: Path
    disassembler: Path

    def disassemble(self, library: Path) -> list[Instruction]:
        """Return the instructions of an AArch64 library or object file.

        Parameters
        ----------
        library : Path
            An ELF file.

        Raises
        ------
        LlvmToolError
            When it cannot be read.
        """
        return parse_disassembly(_run(self.disassembler, "--disassemble", "--no-show-raw-insn", str(library)))

    def cycles_per_turn(self, loop: Loop, mcpu: str) -> float:
        """Return the predicted cycles of one turn of a loop, the mean of 100 turns.

        Parameters
        ----------
        loop : Loop
            Its body; branches within are taken as not taken.
        mcpu : str
            Core type as LLVM calls it.

        Raises
        ------
        LlvmToolError
            When llvm-mca refuses the core or an instruction.
        """
        options = ("--mtriple=aarch64", f"--mcpu={mcpu}", f"--iterations={ITERATIONS}", "--json")
        report = json.loads(_run(self.analyser, *options, standard_input=loop.assembly))
        return float(report["CodeRegions"][0]["SummaryView"]["TotalCycles"] / ITERATIONS)


def find_llvm_tools() -> LlvmTools:
    """Return the newest LLVM on the path that has both tools.

    Raises
    ------
    LlvmToolError
        When there is none, with how to install it.
    """
    suffixes = {file.name.removeprefix("llvm-mca") for folder in _path() for file in folder.glob("llvm-mca*")}
    found = [tools for suffix in sorted(suffixes) if (tools := _tools(suffix)) and tools.version[0] >= OLDEST_VERSION]
    if not found:
        raise LlvmToolError(
            f"llvm-mca and llvm-objdump {OLDEST_VERSION} or newer are not on the path;"
            " install the newest LLVM there is, on Debian and Ubuntu: apt-get install llvm-22"
        )
    return max(found, key=lambda tools: tools.version)


def _path() -> list[Path]:
    return [Path(folder) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]


def _tools(suffix: str) -> LlvmTools | None:
    analyser, disassembler = shutil.which(f"llvm-mca{suffix}"), shutil.which(f"llvm-objdump{suffix}")
    if analyser is None or disassembler is None:
        return None
    version = re.search(r"version (\d+(?:\.\d+)*)", _run(Path(analyser), "--version"))
    numbers = tuple(map(int, version[1].split("."))) if version else (0,)
    return LlvmTools(numbers, Path(analyser), Path(disassembler))


def _run(program: Path, *arguments: str, standard_input: str = "") -> str:
    result = subprocess.run([program, *arguments], input=standard_input, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise LlvmToolError(f"{program.name} failed: {lines[0].rstrip('.')}.")
    return result.stdout
