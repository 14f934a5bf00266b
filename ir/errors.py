"""Every error a user can meet; each message is a sentence: what is wrong, where, what to do."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from subprocess import CompletedProcess


class CospipeError(Exception):
    """A failure that is told to the user in one sentence (exit code 1)."""


class UsageError(CospipeError):
    """What was asked for does not exist or makes no sense (exit code 2)."""


class CaptureError(CospipeError):
    """A model that could not be turned into a graph."""


class UnsupportedModelError(CospipeError):
    """A captured graph with operations that cannot be compiled; ``problems`` lists every one of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(several(f"{len(self.problems)} operation(s) cannot be compiled", self.problems))


class SocError(CospipeError):
    """An SoC description with mistakes."""


class PassError(CospipeError):
    """A pass whose requirements are not met, or whose result is not what it promises."""


class PlanError(CospipeError):
    """A pipeline plan that cannot exist on its SoC."""


class LoweringError(CospipeError):
    """A stage that TVM or the linker could not turn into a library."""


class BundleError(CospipeError):
    """A bundle that is damaged, altered, or made for something else."""


class AdapterError(CospipeError):
    """An adapter that is damaged, or does not fit the model it is to change."""


class StageError(CospipeError):
    """A pipeline stage that failed while running; ``stage`` is its name."""

    def __init__(self, stage: str, message: str) -> None:
        self.stage = stage
        super().__init__(message)


class VerificationError(CospipeError):
    """A compiled stage whose numbers differ from eager PyTorch."""


class RemoteError(CospipeError):
    """A board that cannot be reached, or cannot do what it was asked for."""


class BoardError(CospipeError):
    """A board directory that cannot be made complete, or would not run on its board."""


class EmulatorError(CospipeError):
    """QEMU, the AArch64 libraries or the emulated program are missing or failed."""


def several(what: str, problems: Iterable[str]) -> str:
    """Return one message that lists every problem on its own line."""
    return "\n  - ".join([f"{what}:", *problems])


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the names closest to an unknown one."""
    choices = sorted(known)
    close = get_close_matches(name.lower(), choices, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(choices)}."


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, without its full stop, or the error's type when it is empty.

    Of an error of the operating system it is what went wrong, without number and file.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def said_by(finished: CompletedProcess[str]) -> str:
    """Return what a program that failed said on standard error, or how it ended when it said nothing."""
    if words := finished.stderr.strip():
        return words
    if finished.returncode >= 0:
        return f"it ended with status {finished.returncode} and said nothing"
    names = {known.value: known.name for known in signal.Signals}  # not all of the real-time ones
    name = names.get(-finished.returncode, f"signal {-finished.returncode}")
    return f"{name} ended it and it said nothing; is the disk full, or memory short?"
