"""Work in a thread of its own that the caller does not have to wait for: Ctrl-C and timeouts take effect at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


def in_own_thread(work: Callable[[], Result], name: str, timeout_s: float | None = None) -> Result:
    """Run a function in a new thread and return what it returns.

    Kernels need this as well: TVM pins the thread that first uses its pool, which shall not be the caller's.

    Parameters
    ----------
    work : callable
        The function.
    name : str
        Name of the thread.
    timeout_s : float, optional
        Longest time to wait in seconds; the thread is left behind then, as it is when the caller is interrupted.

    Raises
    ------
    TimeoutError
        When it takes longer.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # the caller gets it, whatever it is
            future.set_exception(error)

    Thread(target=run, daemon=True, name=name).start()
    try:
        return future.result(timeout_s)
    except FutureTimeoutError as error:  # until Python 3.10 not the built-in one
        raise TimeoutError(str(error)) from error
