"""A process of its own for what is done on one board.

A call through RPC waits for ever when its board hangs, and TVM lets go of a remote tensor while it holds Python's lock:
a hung board would stop every thread of the process that talks to it. This process is ended by the kernel instead.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from typing import Any

from cospipe.ir.errors import RemoteError, first_line

Call = tuple[Callable[..., Any], Sequence[Any], float]
"""A function, its arguments, and the seconds it may take."""


class CallFailedError(RemoteError):
    """The function raised; the process lives on."""


class ProcessEndedError(RemoteError):
    """The process ended before the function returned: it was too slow, or crashed."""


class SessionProcess:
    """A process that calls functions one after the other, until one of them is too slow or it is closed.

    Parameters
    ----------
    modules : sequence of str
        What it imports at its start.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._connection, there = Pipe()
        command = [sys.executable, "-m", __name__, str(there.fileno())]
        with there:
            # in a session of its own, so that Ctrl-C ends only what waits for it
            self._process = subprocess.Popen(command, pass_fds=[there.fileno()], start_new_session=True)
        self._connection.send((sys.path, tuple(modules)))

    def wait_until_ready(self) -> None:
        """Wait until it has imported what it needs.

        Raises
        ------
        ProcessEndedError
            When it cannot.
        """
        try:
            self._connection.recv()
        except (EOFError, OSError) as error:
            raise ProcessEndedError(self._ending(0)) from error

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], timeout_s: float) -> Any:
        """Return what a function of a module returns in the other process.

        Raises
        ------
        CallFailedError
            With the first line of what the function raised.
        ProcessEndedError
            When it took longer than ``timeout_s`` seconds, or the process crashed.
        """
        try:
            self._connection.send((function, arguments, timeout_s))
            succeeded, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise ProcessEndedError(self._ending(timeout_s)) from error
        if not succeeded:
            raise CallFailedError(value)
        return value

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()

    def _ending(self, timeout_s: float) -> str:
        """Tell how the process ended."""
        code = self._process.wait()
        if code == -signal.SIGALRM:
            return f"it did not answer within {timeout_s:g} s"
        return f"the process that spoke to it ended with code {code}"


def _serve(connection: Connection) -> None:
    sys.path[:], modules = connection.recv()
    _import_tvm_without_torch()
    for module in modules:
        import_module(module)
    connection.send(None)
    while True:
        try:
            function, arguments, timeout_s = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        answer = _answer(function, arguments)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(answer)


def _answer(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[bool, Any]:
    try:
        return True, function(*arguments)
    except Exception as error:
        return False, first_line(error)


def _import_tvm_without_torch() -> None:
    """Import TVM, which would import torch for seconds; what is measured needs it rarely."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tvm  # noqa: F401
    finally:
        del sys.modules["torch"]


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _serve(Connection(int(sys.argv[1])))
