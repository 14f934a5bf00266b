"""LLVM's machine code analyser and disassembler: finding them, and what they say of code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cospipe.backends.emulator.assembly_loops import Instruction, Loop, parse_disassembly
from cospipe.ir.errors import CospipeError

OLDEST_VERSION = 14  # the first that models in-order cores and writes its summary as JSON
ITERATIONS = 100
_BEGIN, _END = "# LLVM-MCA-BEGIN", "# LLVM-MCA-END"
# an instruction that the core has not in its basic form is no mistake of the code
_OPTIONS = ("--mtriple=aarch64", "--mattr=+all", f"--iterations={ITERATIONS}", "--json", "--instruction-info=false")


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

    def check_core(self, mcpu: str) -> None:
        """Check that llvm-mca knows a core.

        Raises
        ------
        LlvmToolError
            When it does not.
        """
        try:
            self.cycles(["nop"], mcpu)
        except LlvmToolError as error:
            version = ".".join(map(str, self.version))
            raise LlvmToolError(
                f"LLVM {version} describes no AArch64 core {mcpu!r}; core_type of the SoC description must be a name of"
                " its own (cortex-a76), and a newer LLVM knows more of them."
            ) from error

    def cycles_per_turn(self, loop: Loop, mcpu: str) -> float:
        """Return the predicted cycles of one turn of a loop, as :meth:`cycles` does of a piece of code."""
        return self.cycles([loop.assembly], mcpu)[0]

    def cycles(self, pieces: Sequence[str], mcpu: str) -> list[float]:
        """Return the predicted cycles of pieces of code, each executed over and over: the mean of 100 times.

        Parameters
        ----------
        pieces : sequence of str
            Assembly, one instruction a line; branches within are taken as not taken.
        mcpu : str
            Core type as LLVM calls it.

        Raises
        ------
        LlvmToolError
            When llvm-mca does not know the core, or refuses an instruction.
        """
        if not pieces:
            return []
        source = "".join(f"{_BEGIN}\n{piece.rstrip()}\n{_END}\n" for piece in pieces)
        regions = json.loads(_run(self.analyser, *_OPTIONS, f"--mcpu={mcpu}", standard_input=source))["CodeRegions"]
        if len(regions) != len(pieces):
            raise LlvmToolError(f"{self.analyser.name} tells of {len(regions)} pieces of code, given {len(pieces)}.")
        return [float(region["SummaryView"]["TotalCycles"] / ITERATIONS) for region in regions]


def find_llvm_tools(oldest: int = OLDEST_VERSION) -> LlvmTools:
    """Return the newest LLVM on the path that has both tools.

    Parameters
    ----------
    oldest : int
        Oldest version that will do.

    Raises
    ------
    LlvmToolError
        When there is none, with how to install it.
    """
    suffixes = {file.name.removeprefix("llvm-mca") for folder in _path() for file in folder.glob("llvm-mca*")}
    found = [tools for suffix in sorted(suffixes) if (tools := _tools(suffix)) and tools.version[0] >= oldest]
    if not found:
        raise LlvmToolError(
            f"llvm-mca and llvm-objdump {oldest} or newer are not on the path;"
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
