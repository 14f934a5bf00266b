"""The peak memory of training one arm, measured in a process of its own.

The process imports torch, transformers, peft and this project, whatever the arm, loads the network, and takes a few
training steps. ``VmHWM`` of Linux is its largest resident set so far; unlike ``ru_maxrss`` it does not count what the
process that started it held. 1 MB is 1,000,000 bytes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import peft  # noqa: F401  every arm pays for the import
import torch
from finetune_timing import measured_arm, measured_batch
from finetune_training import new_optimizer, step
from runtimes_memory import ending

from cospipe.ir.errors import CospipeError, first_line

_STEPS = 5
_LONGEST_S = 300


def peak_mb(method: str, kind: str, n: int, threads: int) -> float:
    """Return the megabytes of a process that trains an arm.

    Raises
    ------
    CospipeError
        When that process fails; the message ends with its last words.
    """
    command = [sys.executable, __file__, method, kind, str(n), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    if done.returncode:
        raise CospipeError(f"{method} in a process of its own {ending(done.returncode, done.stderr)}")
    return float(done.stdout.split()[-1])


def main() -> None:
    """Train an arm; arguments are the method, the kind of network, n, and the number of threads."""
    method, kind, n, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    batch = measured_batch(kind)
    arm = measured_arm(method, kind, int(n), batch)
    optimizer = new_optimizer(arm, 1e-4, 1e-4)
    for _ in range(_STEPS):
        step(arm, optimizer, batch)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6)


if __name__ == "__main__":
    try:
        main()
    except CospipeError as error:
        sys.exit(first_line(error))
