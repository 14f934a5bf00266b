r"""Passes by name, the text form of a pass pipeline, and running one.

The text form is ``pass,pass{option=value,option=value}``: passes in the order they run, options that keep their
default left out. Values that contain white space or one of ``, = { } " \`` are written as JSON strings.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, get_type_hints

from torch import fx

from cospipe.ir.errors import UsageError, nearest, several
from cospipe.passes.annotate_latency import AnnotateLatency
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.base import Pass, PassResult
from cospipe.passes.fold_batch_norm import FoldBatchNorm
from cospipe.passes.insert_adapters import InsertAdapters
from cospipe.passes.merge_adapters import MergeAdapters
from cospipe.passes.partition import Partition
from cospipe.passes.split import Split

logger = logging.getLogger(__name__)

PASSES: dict[str, type[Pass]] = {
    pass_class.name: pass_class
    for pass_class in (
        # rewrite the model
        FoldBatchNorm,
        InsertAdapters,
        MergeAdapters,
        # describe it
        AnnotateLayers,
        AnnotateLatency,
        # cut it
        Partition,
        Split,
    )
}
"""Every pass by its name, in the order they usually run."""

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_STEP = re.compile(rf"\s*([^\s,{{}}]+)\s*(?:\{{((?:{_QUOTED}|[^\"{{}}])*)\}})?\s*(?:,(?=.)|$)", re.DOTALL)
_OPTION = re.compile(rf"\s*([^\s,=]+)\s*=\s*({_QUOTED}|[^\s,=\"]+)\s*(?:,(?=.)|$)", re.DOTALL)
_KINDS: dict[type, tuple[Callable[[str], Any], str]] = {
    bool: (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "text"),
}


class _Unreadable(Exception):
    """Text that does not follow the form, from where on it does not."""


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """Read the text form of a pipeline; the inverse of :func:`pipeline_text`.

    Parameters
    ----------
    text : str
        ``insert-adapters{n=1000},merge-adapters,partition{soc=hikey970,objective=latency}``.

    Returns
    -------
    tuple of Pass
        The passes in order; none for empty text.

    Raises
    ------
    UsageError
        With every unknown pass, unknown option and bad value of the text, and the nearest names.
    """
    try:
        steps = _matches(_STEP, text)
    except _Unreadable as error:
        raise UsageError(
            f"The pipeline cannot be read from {str(error)!r} on; write pass,pass{{option=value,option=value}}."
        ) from error
    problems: list[str] = []
    passes = [_read_pass(name, options or "", problems) for name, options in steps]
    if problems:
        raise UsageError(several(f"The pipeline has {len(problems)} mistake(s)", problems))
    return tuple(pass_ for pass_ in passes if pass_ is not None)


def pipeline_text(passes: Iterable[Pass]) -> str:
    """Return the text form of a pipeline, read back by :func:`parse_pipeline`."""
    return ",".join(str(pass_) for pass_ in passes)


class PassManager:
    """Run passes in order; called like torch's own ``PassManager``, returning a ``PassResult``.

    It does not derive from torch's, which wraps whatever a pass raises into a bare ``Exception`` that starts with
    its own message: a user would no longer get the one sentence an error of this project is.

    Parameters
    ----------
    passes : iterable of Pass
        The pipeline, for example from :func:`parse_pipeline`.
    progress : callable, optional
        Called with each pass right before it runs.
    """

    def __init__(self, passes: Iterable[Pass], progress: Callable[[Pass], None] | None = None) -> None:
        self.passes = tuple(passes)
        self.progress = progress

    def __call__(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the passes; ``modified`` of the result says whether any of them changed something."""
        modified = False
        for pass_ in self.passes:
            if self.progress is not None:
                self.progress(pass_)
            started = time.perf_counter()
            result = pass_(graph_module)
            outcome = "modified" if result.modified else "nothing to do"
            logger.info("%s: %s, %.3f s", pass_, outcome, time.perf_counter() - started)
            graph_module, modified = result.graph_module, modified or result.modified
        return PassResult(graph_module, modified)

    def __str__(self) -> str:
        """Return the text form of the pipeline."""
        return pipeline_text(self.passes)


def _matches(pattern: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    text, found, position = text.strip(), [], 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:
            raise _Unreadable(text[position:])
        found.append((match[1], match[2]))
        position = match.end()
    return found


def _read_pass(name: str, options_text: str, problems: list[str]) -> Pass | None:
    if name not in PASSES:
        problems.append(f"there is no pass {name!r}. {nearest(name, PASSES)}")
        return None
    options = _read_options(PASSES[name], options_text, problems)
    try:
        return PASSES[name](**options)
    except UsageError as error:
        problems.append(str(error))
        return None


def _read_options(pass_class: type[Pass], options_text: str, problems: list[str]) -> dict[str, Any]:
    try:
        pairs = _matches(_OPTION, options_text)
    except _Unreadable as error:
        problems.append(f"{pass_class.name}: the options cannot be read from {str(error)!r} on; write option=value")
        return {}
    hints = get_type_hints(pass_class)
    kinds = {field.name: hints[field.name] for field in dataclasses.fields(pass_class)}
    options: dict[str, Any] = {}
    for option, value_text in pairs:
        if option in options:
            problems.append(f"{pass_class.name}: {option} is given twice")
        elif option not in kinds:
            problems.append(f"{pass_class.name} has no option {option!r}. {_known(option, kinds)}")
        else:
            read, what = _KINDS[kinds[option]]
            try:
                options[option] = read(_unquoted(value_text))
            except (KeyError, ValueError):
                problems.append(f"{pass_class.name}: {option} must be {what}, not {value_text}")
    return options


def _known(option: str, kinds: dict[str, type]) -> str:
    return nearest(option, kinds) if kinds else "It has none."


def _unquoted(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text
