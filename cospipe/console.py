"""What all commands of ``cospipe`` share: the consoles, options that mean the same everywhere, progress, JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from cospipe.ir.errors import CospipeError, UsageError

# Nobody reads a table that was cut to the 80 columns rich assumes behind a pipe.
out = Console() if sys.stdout.isatty() else Console(width=160)
err = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON on standard output")]


def tell(error: CospipeError, wants_json: bool) -> None:
    """Print what went wrong on standard error, and as JSON on standard output when that is wanted."""
    err.print(f"cospipe: {printable(str(error))}", style="red", highlight=False, markup=False, soft_wrap=True)
    if wants_json:
        print(json.dumps({"error": {"type": type(error).__name__, "message": str(error)}}))


def printable(text: str) -> str:
    """Return a text in which what would steer a terminal is replaced: names in a file of others may hold anything."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def print_json(value: Any) -> None:
    """Print a result for programs."""
    print(json.dumps(value, indent=2))


@contextmanager
def show_progress() -> Iterator[Callable[[str], None]]:
    """Show what is being done on standard error: a spinner on a terminal, a line a step elsewhere."""
    if not err.is_terminal:
        yield lambda step: err.print(f"{step} ...", style="dim", highlight=False, markup=False, soft_wrap=True)
        return
    with err.status("Starting") as status:
        yield lambda step: status.update(f"{step} ...".replace("[", r"\["))


def parse_shapes(texts: list[str] | None) -> list[list[int]] | None:
    """Read ``1,3,224,224`` (or ``1x3x224x224``) for each input.

    Raises
    ------
    UsageError
        When a text is no shape of positive sizes.
    """
    if not texts:
        return None
    wrong = [text for text in texts if not all(part.isdecimal() and int(part) for part in _parts(text))]
    if wrong:
        raise UsageError(f"{', '.join(map(repr, wrong))} is no input shape; write positive sizes, like 1,3,224,224.")
    return [[int(part) for part in _parts(text)] for text in texts]


def _parts(text: str) -> list[str]:
    return text.replace("x", ",").replace(" ", "").split(",")


def three_numbers(option: str, text: str) -> tuple[float, ...]:
    """Read an option with a number for each colour channel.

    Raises
    ------
    UsageError
        When these are not three finite numbers.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise UsageError(f"{option} takes three numbers like 0.485,0.456,0.406, not {text!r}.")
    return numbers
