"""The peak memory of one runtime with one network, measured in a process of its own.

The process is a new Python that loads the prepared files and runs the network a few times, on the same cores as the
timed runs. Two figures are read from Linux (``VmHWM``, the largest resident set of the process so far):

* ``baseline_mb`` before the runtime is imported: the interpreter, numpy, a few small modules, the network's inputs;
* ``peak_mb`` at the end, baseline included.

So ``peak_mb - baseline_mb`` is what the runtime's libraries, the weights and the network's tensors took at most.
Pages of mapped files (libraries, weights) count as far as they were touched. The torch runtimes unpickle the module,
for which they import the package that defines it; torch-inductor finds its kernels compiled in its cache. 1 MB is
1,000,000 bytes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from runtimes import load_session, read_inputs

from cospipe.ir.errors import CospipeError, first_line

RUNS = 3
_LONGEST_S = 900


@dataclass(frozen=True)
class Memory:
    """Megabytes of a process that ran a network; see the module's text."""

    baseline_mb: float
    peak_mb: float


def measure_memory(runtime: str, folder: Path, cpu_ids: tuple[int, ...]) -> Memory:
    """Run a prepared network in a process of its own.

    Raises
    ------
    CospipeError
        When that process fails, or takes more than 15 minutes; the message ends with its last words.
    """
    report = folder / f"{runtime}.memory.json"
    command = [sys.executable, __file__, runtime, str(folder), ",".join(map(str, cpu_ids)), str(report)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise CospipeError(f"{runtime} did not finish {RUNS} runs in {_LONGEST_S} seconds") from error
    if done.returncode:
        raise CospipeError(f"{runtime} in a process of its own {ending(done.returncode, done.stderr)}")
    return Memory(**json.loads(report.read_text(encoding="utf-8")))


def ending(exit_code: int, output: str) -> str:
    """Return in words how a process ended: ``died of SIGSEGV``, or its exit code and the last line it wrote."""
    lines = output.strip().splitlines() or ["it said nothing"]
    how = f"died of {signal.Signals(-exit_code).name}" if exit_code < 0 else f"failed with exit code {exit_code}"
    return f"{how}: {lines[-1].strip().rstrip('.')}"


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kibibytes = int(status.partition("VmHWM:")[2].split()[0])
    return round(kibibytes * 1024 / 1e6, 1)


def main() -> None:
    """Measure this process; arguments are the runtime, the folder, cpu ids with commas, and the file to write."""
    runtime, folder, cpus, report = sys.argv[1:]
    cpu_ids = [int(cpu) for cpu in cpus.split(",")]
    os.sched_setaffinity(0, cpu_ids)
    inputs = read_inputs(Path(folder))
    baseline_mb = _peak_mb()
    session = load_session(runtime, Path(folder), inputs, cpu_ids)
    for _ in range(RUNS):
        session.run()
    Path(report).write_text(json.dumps(asdict(Memory(baseline_mb, _peak_mb()))), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except CospipeError as error:
        sys.exit(first_line(error))
