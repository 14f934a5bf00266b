"""The text of ``--input-shapes``."""

from __future__ import annotations

import argparse
import re

_NAME = r"[^\s\[\]]+?"
_SHAPE = r"\[\s*-?\d+(?:\s*,\s*-?\d+)*\s*\]|\[\s*\]"
_INPUT = re.compile(rf"({_NAME})\s*:\s*({_SHAPE})(?=\s|,|$)")
_SEPARATORS = " \t\n,"
DYNAMIC = -1


def parse_shape_string(text: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input that a text names.

    Parameters
    ----------
    text : str
        ``"data:[1,3,224,224] mask:[1, -1]"``: spaces may stand between sizes, and names may hold ``/``, ``:``, ``.``.

    Returns
    -------
    dict
        Sizes by name; -1 for one that is known only when the network runs, written as any number below 1.

    Raises
    ------
    argparse.ArgumentTypeError
        When the text has another form or names an input twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    rest = text.strip(_SEPARATORS)
    while rest:
        found = _INPUT.match(rest)
        if found is None:
            raise argparse.ArgumentTypeError(
                f'{rest!r} is no input shape; write "name:[1,3,224,224]", several with a space between them'
            )
        name, sizes = found.groups()
        if name in shapes:
            raise argparse.ArgumentTypeError(f"the input {name!r} has two shapes")
        shapes[name] = tuple(max(int(size), 0) or DYNAMIC for size in re.findall(r"-?\d+", sizes))
        rest = rest[found.end() :].lstrip(_SEPARATORS)
    if not shapes:
        raise argparse.ArgumentTypeError('it is empty; write "name:[1,3,224,224]"')
    return shapes
