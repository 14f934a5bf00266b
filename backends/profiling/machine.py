"""Finding the machine that an SoC description means: this one, or a board behind TVM's RPC."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cospipe.backends.profiling.core_state import ReadText, read_here
from cospipe.backends.profiling.measuring import Board, Machine, ThisMachine
from cospipe.backends.tvm.farm.farm import Farm
from cospipe.backends.tvm.kernel_clock import KernelClock, build_clock
from cospipe.backends.tvm.sessions import RemoteSession
from cospipe.ir.errors import UsageError, several
from cospipe.ir.host import ARCHITECTURES
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Soc

_ANSWER_SECONDS = 30.0
_BOARD_NAME, _PROCESSORS = "/sys/firmware/devicetree/base/model", "/proc/cpuinfo"


def this_machine_as(soc: Soc, configurations: Sequence[CoreConfiguration]) -> ThisMachine:
    """Return this machine to measure on, when it can be the board.

    Raises
    ------
    UsageError
        When it has another architecture or lacks cores of these configurations.
    """
    wanted = {cpu for c in configurations for cpu in soc.cluster(c.cluster).cpu_ids[: c.cores]}
    problems = []
    if ARCHITECTURES.get(platform.machine()) != soc.architecture:
        problems.append(f"its processor is {platform.machine()}, that of {soc.name} {soc.architecture}")
    if missing := sorted(wanted - os.sched_getaffinity(0)):
        problems.append(f"this process may not run on cpu {', '.join(map(str, missing))}")
    if problems:
        raise UsageError(
            several(f"This machine is not {soc.name}; name the board with --rpc HOST:PORT, or use --emulate", problems)
        )
    return ThisMachine()


def board_at(address: str, key: str) -> Board:
    """Return the board behind an address like ``rock5b:9090``.

    Raises
    ------
    UsageError
        When the address has another form.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{address!r} is no address of an RPC server; write HOST:PORT, for example rock5b:9090.")
    return Board(host, int(port), key)


def name_of_machine(machine: Machine | Farm | None, soc: Soc) -> str:
    """Return what a machine calls itself, of a farm's equal boards any; None stands for emulation.

    Raises
    ------
    RemoteError
        When the board, or every board of the farm, cannot be reached or is something else.
    """
    if machine is None:
        return "emulated"
    if isinstance(machine, Farm):
        done = machine.submit("Asking a board for its name", _ANSWER_SECONDS, _name_of_board, (soc,)).result()
        return str(done.value)
    if isinstance(machine, Board):
        with tempfile.TemporaryDirectory(prefix="cospipe-profile-") as folder:
            session = RemoteSession(machine.host, machine.port, machine.key)
            return _name(KernelClock(session, build_clock(Path(folder), soc.architecture)).read, soc)
    return soc.title if soc.name == "host" else _name(read_here, soc)


def _name_of_board(_session: RemoteSession, clock: KernelClock, soc: Soc) -> str:
    return _name(clock.read, soc)


def _name(read: ReadText, soc: Soc) -> str:
    board = read(_BOARD_NAME).strip("\0 \n")
    processors = [line.partition(":")[2].strip() for line in read(_PROCESSORS).splitlines() if "model name" in line]
    return board or next(iter(processors), soc.title)
