"""One core of this machine made slow, so that a machine with equal cores stands in for a big.LITTLE chip.

Kernels of ours do their work several times on that core, which is smooth and keeps its memory and vector units busy.
For programs whose work cannot be repeated a thread takes a share of the core's time away, or the kernel grants the
threads on it only a share (a cgroup's CPU quota).
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cospipe.backends.runtime import stage
from cospipe.backends.runtime.stage import StageExecutable
from cospipe.backends.runtime.tvm_runtime import load_runtime
from cospipe.backends.tvm.link import zig_compile
from cospipe.ir.errors import UsageError
from cospipe.ir.manifest import StageFiles

NO_CORE = -1
_CGROUP = Path("/sys/fs/cgroup/cpu")  # version 1 has single threads in groups wherever one likes
_QUOTA_US, _LEAST_PERIOD_US = 1000, 1000


class SlowCore:
    """A core that is slow in one of three ways, each for as long as its context lasts.

    Parameters
    ----------
    cpu : int
        The core.
    speed : float
        Its speed, 0 to 1, as a share of what it really has.
    architecture : str
        Of this machine.
    """

    def __init__(self, cpu: int, speed: float, architecture: str) -> None:
        self.cpu, self.speed = cpu, speed
        self._scratch = tempfile.TemporaryDirectory(prefix="slow-core-")
        file = Path(self._scratch.name) / "slow_core.so"
        includes = [f"-I{_folder(package) / 'include'}" for package in ("tvm_ffi", "tvm")]
        source = Path(__file__).with_name("slow_core.c")
        zig_compile(["-shared", "-std=c11", "-pthread", "-Wall", *includes, str(source)], file, architecture)
        self._instrument = load_runtime().load_module(str(file)).get_function("instrument")
        self._library = ctypes.CDLL(str(file))

    @contextmanager
    def prepares_stages(self) -> Iterator[None]:
        """Let stages that are loaded meanwhile repeat their work later, whenever that is asked for."""
        make_machine, load_stage = stage._machine, StageExecutable.__init__

        def machine(files: StageFiles, module: Any, allocator: int) -> Any:
            made = make_machine(files, module, allocator)
            if files.threads == 1:
                made.get_function("set_instrument")(self._instrument)
            return made

        def load(executable: StageExecutable, files: StageFiles, library: Path, *others: Any) -> None:
            load_stage(executable, files, library, *others)
            self._slow_threads(library, files.shares_by_speed)

        with patch.object(stage, "_machine", machine), patch.object(StageExecutable, "__init__", load):
            yield

    def _slow_threads(self, library: Path, shares_by_speed: bool) -> None:
        try:
            pointer = ctypes.c_void_p.in_dll(ctypes.CDLL(str(library)), "__TVMBackendParallelLaunch")
        except ValueError:  # none of its kernels is for several threads
            return
        self._library.slow_threads(ctypes.byref(pointer), int(shares_by_speed))

    @contextmanager
    def repeats_work(self) -> Iterator[None]:
        """Let prepared stages repeat their work on the core."""
        self._library.slow_down(self.cpu, ctypes.c_double(1 / self.speed))
        try:
            yield
        finally:
            self._library.slow_down(NO_CORE, ctypes.c_double(1))

    @contextmanager
    def loses_time(self) -> Iterator[None]:
        """Take time away from whatever runs on the core, in every half millisecond.

        Raises
        ------
        UsageError
            When this user may not start a thread that comes before all others.
        """
        if error := self._library.steal_time(self.cpu, ctypes.c_double(1 - self.speed)):
            raise UsageError(f"No time can be taken from core {self.cpu}: {os.strerror(error)}; run this as root.")
        try:
            yield
        finally:
            self._library.stop_stealing()

    @contextmanager
    def has_quota(self) -> Iterator[None]:
        """Grant the threads of this process that may only run on the core a share of its time.

        Raises
        ------
        UsageError
            When this machine has no cgroups of version 1, or this user may not make one.
        """
        group = _CGROUP / f"slow-core-{os.getpid()}"
        try:
            group.mkdir()
            (group / "cpu.cfs_period_us").write_text(str(max(round(_QUOTA_US / self.speed), _LEAST_PERIOD_US)))
            (group / "cpu.cfs_quota_us").write_text(str(_QUOTA_US))
        except OSError as error:
            raise UsageError(f"No CPU quota can be set: {error}.") from error
        try:
            for thread in _threads_on(self.cpu):
                (group / "tasks").write_text(str(thread))
            yield
        finally:
            for thread in (group / "tasks").read_text().split():
                (_CGROUP / "tasks").write_text(thread)
            group.rmdir()


def _threads_on(cpu: int) -> list[int]:
    threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    return [thread for thread in threads if os.sched_getaffinity(thread) == {cpu}]


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(f"{package} is not installed; install it with: pip install apache-tvm.")
    return Path(spec.origin).parent
