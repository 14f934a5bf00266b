"""Shapes and values of a model's inputs, as commands take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from cospipe.console import parse_shapes
from cospipe.ir.errors import UsageError

InputShapes: TypeAlias = "list[list[int]] | dict[str, list[int]] | None"


def parse_input_shapes(texts: Sequence[str] | None) -> InputShapes:
    """Read ``1,3,224,224`` for each input in order, or ``name:1,3,224,224`` for inputs by name.

    Raises
    ------
    UsageError
        When a text is no shape of positive sizes, only some have a name, or two have the same one.
    """
    parts = [text.rpartition(":") for text in texts or ()]
    names = [name for name, _, _ in parts if name]
    shapes = parse_shapes([shape for _, _, shape in parts])
    if not names:
        return shapes
    if len(names) != len(parts):
        raise UsageError("Give all input shapes with the names of their inputs, or none of them.")
    if repeated := _repeated(names):
        raise UsageError(f"There are two shapes for the input {repeated!r}.")
    return dict(zip(names, shapes or [], strict=True))


def parse_input_values(texts: Sequence[str] | None) -> dict[str, float | list[float]]:
    """Read ``name=16000``, or ``name=0.5,0.25`` for an input with several elements.

    Raises
    ------
    UsageError
        When a text is no name and number, or two have the same name.
    """
    parts = [text.rpartition("=") for text in texts or ()]
    wrong = [text for text, (name, _, _) in zip(texts or (), parts, strict=True) if not name]
    if wrong:
        raise UsageError(f"--input-value takes the name of an input and its value, like sr=16000, not {wrong[0]!r}.")
    if repeated := _repeated([name for name, _, _ in parts]):
        raise UsageError(f"There are two values for the input {repeated!r}.")
    return {name: _numbers(name, value) for name, _, value in parts}


def _numbers(name: str, text: str) -> float | list[float]:
    try:
        numbers = [_number(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"The value of the input {name!r} is no number: {text!r}.") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _number(text: str) -> float:
    # integers beyond 2**53 would lose digits as floating-point numbers
    return int(text) if text.strip().lstrip("+-").isdecimal() else float(text)


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)
