"""From a compiled stage to the cycles of its kernels: one inference under QEMU, and what llvm-mca says of its code."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cospipe.backends.board.cache import cache_folder
from cospipe.backends.emulator.elf_functions import ElfFunctions
from cospipe.backends.emulator.executed_blocks import executed_blocks
from cospipe.backends.emulator.instruction_counter import Report, build_plugin, plugin_options, read_report
from cospipe.backends.emulator.kernel_cycles import OLDEST_LLVM, KernelCycles, kernel_cycles, scheduled_as
from cospipe.backends.emulator.llvm_mca import LlvmTools, find_llvm_tools
from cospipe.backends.emulator.qemu import Emulator, find_emulator
from cospipe.ir.errors import CospipeError, EmulatorError, several
from cospipe.ir.manifest import StageFiles
from cospipe.ir.soc import Cluster
from cospipe.ir.tensor_file import Array

_ANY_CORE = "max"
"""QEMU's core with every extension: stages do not ask which core they run on."""


@dataclass(frozen=True)
class CycleCounter:
    """QEMU, the plugin that counts, and LLVM."""

    emulator: Emulator
    plugin: Path
    tools: LlvmTools

    def count(
        self, stage: StageFiles, library: Path, weights: Path, values: Mapping[str, Array], cluster: Cluster
    ) -> tuple[dict[str, KernelCycles], dict[str, Array]]:
        """Run one warm inference of a stage and return what each kernel costs, and the stage's outputs.

        Parameters
        ----------
        stage : StageFiles
            A stage compiled for cores of the cluster; it runs on as many threads.
        library, weights : Path
            Its files.
        values : mapping of str to array
            Its inputs by name.
        cluster : Cluster
            The cores.

        Raises
        ------
        EmulatorError, LlvmToolError
            When QEMU or an LLVM tool fails.
        """
        with tempfile.TemporaryDirectory(prefix="cospipe-cycles-") as folder:
            file = Path(folder) / "report"
            options = (*plugin_options(self.plugin, file, _ANY_CORE, self.emulator.qemu), "-E", "COSPIPE_MARKED_RUN=1")
            emulator = dataclasses.replace(self.emulator, options=options)
            outputs = emulator.run_library(stage, library, weights, values)
            report = read_report(file, any_thread=True)
        return self._cycles(report, library.resolve(), cluster), outputs

    def _cycles(self, report: Report, library: Path, cluster: Cluster) -> dict[str, KernelCycles]:
        functions = ElfFunctions(library)
        blocks = executed_blocks(report, library, functions, self.tools.disassemble(library))
        return kernel_cycles(blocks, functions, self.tools, cluster)


def find_cycle_counter(core_types: Iterable[str]) -> CycleCounter:
    """Return what counts the cycles of some types of cores.

    Raises
    ------
    EmulatorError
        When QEMU, LLVM or a library is missing, or llvm-mca does not know a core; all that is wrong is told.
    """
    problems: list[str] = []
    found: list[tuple[Emulator, Path]] = []
    tools: list[LlvmTools] = []
    try:
        emulator = find_emulator()
        found.append((emulator, build_plugin(cache_folder() / "plugins", emulator.qemu)))
    except CospipeError as error:
        problems.append(str(error))
    try:
        tools.append(find_llvm_tools(OLDEST_LLVM))
        for core_type in dict.fromkeys(core_types):
            tools[0].check_core(scheduled_as(core_type))
    except CospipeError as error:
        problems.append(str(error))
    if problems:
        raise EmulatorError(several("Cycles cannot be emulated here", problems))
    return CycleCounter(*found[0], tools[0])
