"""The clock in ``kernel_clock.c``: times each call of the virtual machine where it runs, here or on a board."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cospipe.backends.tvm.link import zig_compile
from cospipe.backends.tvm.sessions import Session
from cospipe.ir.errors import LoweringError, RemoteError, first_line

INSTRUMENT = "cospipe.kernel_clock"
"""What ``set_instrument`` of a virtual machine takes."""


def build_clock(folder: Path, architecture: str) -> Path:
    """Compile the clock for an architecture, ``x86_64`` or ``aarch64``, and return its library.

    Raises
    ------
    LoweringError
        When the headers of tvm_ffi are missing or the compiler fails.
    """
    spec = find_spec("tvm_ffi")
    if spec is None or spec.origin is None:
        raise LoweringError("tvm_ffi is not installed; install it with: pip install apache-tvm-ffi.")
    source, library = Path(__file__).with_name("kernel_clock.c"), folder / f"kernel_clock-{architecture}.so"
    include = Path(spec.origin).parent / "include"
    zig_compile(["-shared", "-s", f"-I{include}", "-std=c11", "-Wall", str(source)], library, architecture)
    return library


class KernelClock:
    """The clock of one session.

    Parameters
    ----------
    session : Session
        Where it runs.
    library : Path
        From :func:`build_clock`.
    """

    def __init__(self, session: Session, library: Path) -> None:
        module = session.load(library)
        self._start, self._times, self._names, self._switches, self._read, self._use_cores = (
            module.get_function(name) for name in ("start", "times", "names", "switches", "read", "use_cores")
        )
        self._library, self._reference = (module.get_function(name) for name in ("library", "reference"))
        module.get_function("register")()

    def start(self, notes_names: bool = False) -> None:
        """Forget what was timed so far."""
        self._start(int(notes_names))

    def times_ns(self) -> list[int]:
        """Return the time of each call since the start; negative when another program took a core away meanwhile."""
        return [int(number) for number in str(self._times()).split()]

    def names(self) -> list[str]:
        """Return what was called since a start that notes names."""
        return str(self._names()).split("\n")[:-1]

    def switches(self) -> int:
        """Return how often another program took a core away from the process so far."""
        return int(self._switches())

    def read(self, file: str) -> str:
        """Return a text file of the machine, empty when it cannot be read."""
        return str(self._read(file))

    def library(self, name: str) -> str:
        """Return the file that a loaded library comes from, ``libtvm_runtime.so``; empty when it is not loaded."""
        return str(self._library(name))

    def reference_us(self) -> float:
        """Return what a fixed piece of arithmetic takes on the core that serves this session, in microseconds."""
        return int(self._reference()) / 1e3

    def use_cores(self, cpu_ids: Sequence[int]) -> None:
        """Pin the thread that serves this session and give it a pool of one thread a core, before its first kernel.

        Raises
        ------
        RemoteError
            When the machine does not have these cores.
        """
        try:
            self._use_cores(" ".join(map(str, cpu_ids)))
        except Exception as error:
            cores = ", ".join(map(str, cpu_ids))
            raise RemoteError(f"The board cannot run on cpu {cores}: {first_line(error)}.") from error
