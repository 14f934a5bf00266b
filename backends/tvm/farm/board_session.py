"""What runs in a board's own process on this side: one connection, one function."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from cospipe.backends.tvm.farm.requirement import BoardFacts, read_facts
from cospipe.backends.tvm.farm.tracker import Offer
from cospipe.backends.tvm.kernel_clock import KernelClock
from cospipe.backends.tvm.sessions import RemoteSession

Work = Callable[..., Any]
"""Takes a session, its clock, and further arguments that can be pickled."""

_BOARD_NAME = "/sys/firmware/devicetree/base/model"
_RUNTIME = "libtvm_runtime.so"


def run_on_board(offer: Offer, timeout_s: float, clock: Path, cpu_ids: Sequence[int], pickled: bytes) -> Any:
    """Return what a function returns that has a new process on a board, whose kernels share some cores.

    Parameters
    ----------
    offer : Offer
        The connection; it is made first, because an offer is good for a few seconds only.
    timeout_s : float
        The board's server ends the process after so many seconds.
    clock : Path
        Library of the kernel clock for the board.
    cpu_ids : sequence of int
        These cores; none are chosen when empty.
    pickled : bytes
        The function and its further arguments; to unpickle them may import torch.
    """
    session = RemoteSession(offer.host, offer.port, offer.match_key, timeout_s)
    work, arguments = pickle.loads(pickled)
    remote_clock = KernelClock(session, clock)
    if cpu_ids:
        remote_clock.use_cores(cpu_ids)
    return work(session, remote_clock, *arguments)


def probe(_session: RemoteSession, clock: KernelClock) -> BoardFacts:
    """Return what a board says of itself, and how quick it is."""
    return read_facts(clock.read, _name(clock), _tvm_version(clock), clock.reference_us())


def tvm_version_here() -> str:
    """Return the version of TVM on this machine."""
    return version("apache-tvm")


def _name(clock: KernelClock) -> str:
    board = clock.read(_BOARD_NAME).strip("\0 \n")
    models = re.findall(r"^model name\s*:\s*(.+)$", clock.read("/proc/cpuinfo"), re.MULTILINE)
    return board or next(iter(models), "")


def _tvm_version(clock: KernelClock) -> str:
    """Return what the wheel says that the board's runtime library is a part of; empty for a library alone."""
    library = clock.library(_RUNTIME)
    text = clock.read(str(PurePosixPath(library).parent.parent / "_version.py")) if library else ""
    found = re.search(r"^__version__ = version = ['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return found[1] if found else ""
