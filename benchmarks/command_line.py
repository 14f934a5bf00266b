"""What the command lines of benchmarks share beyond Typer."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def repeat_option_names(arguments: Sequence[str], options: Collection[str]) -> list[str]:
    """Return arguments with ``--models A B`` written as ``--models A --models B``, which is what Typer reads.

    Parameters
    ----------
    arguments : sequence of str
        What follows the program's name.
    options : collection of str
        Options that take any number of values.
    """
    repeated: list[str] = []
    option, values = "", 0
    for argument in arguments:
        if argument.startswith("--") or argument == "-":
            option, values = argument, 0
        elif option in options:
            repeated += [option] if values else []
            values += 1
        repeated.append(argument)
    return repeated
