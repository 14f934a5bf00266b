"""What SIGINT and SIGTERM do while frames run: the first ends the run in good order, the second the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_interrupted() -> NoReturn:
    """End this process as one that Ctrl-C interrupted: exit code 130.

    Raises
    ------
    SystemExit
        Always.
    """
    # A KeyboardInterrupt that passed through an exec() of text (dataclasses has one) is remembered even when it was
    # caught: `python -m` then sends itself SIGINT at its end and has no exit code. The next exec() forgets it.
    exec("")
    raise SystemExit(128 + signal.SIGINT)


class Interruption:
    """While it is entered, a first SIGINT or SIGTERM is told to somebody, and a second one ends the process.

    The handlers themselves do nothing: they run between any two steps of the main thread, which may hold a lock that
    is needed to end a run. Python writes the number of each signal to a pipe, and a thread reads it there.

    Parameters
    ----------
    tell : callable
        Is called by that thread at the first signal.
    clean_up : callable
        Is called before the second ends the process.
    """

    def __init__(self, tell: Callable[[], None], clean_up: Callable[[], None]) -> None:
        self._tell = tell
        self._clean_up = clean_up
        self._number: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._previous_pipe = -1
        self._pipe: tuple[int, int] | None = None

    @property
    def name(self) -> str | None:
        """The first signal, ``SIGINT`` or ``SIGTERM``; None as long as there was none."""
        return self._number.name if self._number else None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal has ended: 130 or 143; 0 without one."""
        return 128 + self._number if self._number else 0

    def __enter__(self) -> Interruption:
        if threading.current_thread() is not threading.main_thread():
            return self  # signals are the main thread's, and whoever called this from another one sees to them
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._previous_pipe = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or in the background of a shell
                self._previous[number] = signal.signal(number, lambda *_: None)
        threading.Thread(target=self._wait, args=self._pipe[:1], name="signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pipe is None:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_pipe)
        os.close(self._pipe[1])

    def _wait(self, pipe: int) -> None:
        """Body of the thread that acts on signals; ends when nobody can write to the pipe any more."""
        while received := os.read(pipe, 1):
            number = received[0]
            if number not in self._previous:
                continue
            if self._number is not None:
                self._clean_up()
                os._exit(128 + number)
            self._number = signal.Signals(number)
            self._tell()
        os.close(pipe)
