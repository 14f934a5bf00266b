"""What a pass is: a frozen dataclass whose fields are its options, with ``requires``, ``call`` and ``ensures``."""

from __future__ import annotations

import dataclasses
import json
import re
from abc import abstractmethod
from typing import ClassVar

from torch import fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from cospipe.ir.annotations import PLAN_KEY, STAGE
from cospipe.ir.meta import Aspect, invalidate

__all__ = ["Pass", "PassResult"]

_PLAIN_TEXT = re.compile(r"[^\s,={}\"\\]+")
"""Option values that need no quotes in the text form; others are written as JSON strings."""


@dataclasses.dataclass(frozen=True)
class Pass(PassBase):
    """One step over a graph: it annotates nodes or rewrites the graph, never both.

    Subclasses are frozen dataclasses, set ``name`` and implement ``call``; a rewriting pass also sets
    ``rewrites``, and every annotation that depends on one of these aspects is removed when it has modified the
    graph. ``str(pass_)`` is the text form, ``insert-adapters{n=1000}``, read back by
    :func:`cospipe.passes.parse_pipeline`.
    """

    name: ClassVar[str]
    rewrites: ClassVar[frozenset[Aspect]] = frozenset()

    def __call__(self, graph_module: fx.GraphModule) -> PassResult:
        """Check what the pass requires, run it, drop stale annotations, check what it ensures.

        Raises
        ------
        PassError
            When a requirement is not met.
        """
        self.requires(graph_module)
        result = self.call(graph_module)
        if result.modified and self.rewrites:
            invalidate(result.graph_module.graph, self.rewrites)
            if STAGE.depends_on & self.rewrites:
                result.graph_module.meta.pop(PLAN_KEY, None)
            result.graph_module.graph.lint()
            result.graph_module.recompile()
        self.ensures(result.graph_module)
        return result

    @abstractmethod
    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the pass; ``modified`` of the result says truly whether the graph or its metadata changed."""

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Raise :class:`~cospipe.ir.errors.PassError` when the graph lacks something the pass needs."""

    def ensures(self, graph_module: fx.GraphModule) -> None:
        """Raise :class:`~cospipe.ir.errors.PassError` when the pass did not do what it promises."""

    def __str__(self) -> str:
        """Return the text form: the name, and the options that differ from their defaults."""
        changed = [
            f"{field.name}={_option_text(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}{{{','.join(changed)}}}" if changed else self.name


def _option_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if _PLAIN_TEXT.fullmatch(text) else json.dumps(text)
