"""Typed annotations on graph nodes, and the rule that makes them disappear when they become stale.

Each annotation is a :class:`MetaKey`. It names the aspects of a graph it was computed from; a pass names
the aspects it rewrites; after a rewrite every annotation that depends on a rewritten aspect is removed.
``docs/annotations.md`` lists all keys with unit, writer and readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

from torch import fx

from cospipe.ir.errors import PassError

T = TypeVar("T")


class Aspect(Enum):
    """What an annotation can depend on and what a pass can rewrite."""

    STRUCTURE = "structure"
    """Which nodes there are, their order and their edges."""
    WEIGHTS = "weights"
    """The values of parameters and buffers."""


@dataclass(frozen=True)
class MetaKey(Generic[T]):
    """A typed key of ``fx.Node.meta``.

    Parameters
    ----------
    name : str
        The key in ``node.meta``, e.g. ``"cospipe.latency"``.
    writer : str
        The pass that writes the annotation; named in the error when it is missing.
    depends_on : frozenset of Aspect
        A rewrite of any of these makes the annotation stale.

    Raises
    ------
    ValueError
        When a key of this name exists already.
    """

    name: str
    writer: str
    depends_on: frozenset[Aspect]

    registry: ClassVar[dict[str, MetaKey[Any]]] = {}

    def __post_init__(self) -> None:
        if self.name in MetaKey.registry:
            raise ValueError(f"annotation {self.name!r} is defined twice")
        MetaKey.registry[self.name] = self

    def get(self, node: fx.Node) -> T | None:
        """Return the annotation of a node, or None."""
        value: T | None = node.meta.get(self.name)
        return value

    def require(self, node: fx.Node) -> T:
        """Return the annotation of a node.

        Raises
        ------
        PassError
            When the node has none; the message names the pass to run first.
        """
        value = self.get(node)
        if value is None:
            raise PassError(f"Node {node.name!r} has no {self.name!r}; run the pass {self.writer!r} first.")
        return value

    def set(self, node: fx.Node, value: T) -> None:
        """Annotate a node."""
        node.meta[self.name] = value

    def remove(self, graph: fx.Graph) -> None:
        """Remove this annotation from every node of a graph."""
        for node in graph.nodes:
            node.meta.pop(self.name, None)


def invalidate(graph: fx.Graph, rewritten: frozenset[Aspect]) -> tuple[str, ...]:
    """Remove every annotation that depends on a rewritten aspect; return the names of the keys removed."""
    stale = [key for key in MetaKey.registry.values() if key.depends_on & rewritten]
    for key in stale:
        key.remove(graph)
    return tuple(key.name for key in stale)
