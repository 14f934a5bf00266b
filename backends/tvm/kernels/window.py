"""How a window slides along one axis of an image, and which of its taps lie inside.

Short rows of taps are written out, so that the code knows which of them meet the padding. Networks for sound have rows
of hundreds of taps, or far apart, that meet it at hundreds of places: code for each would take minutes to compile, so
these are loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.window_tiling import Slide

_MOST_UNROLLED_TAPS = 16
_MOST_UNROLLED_BORDER = 96
"""Outputs at the sides of an image whose taps partly leave it."""


@dataclass(frozen=True)
class Window:
    """Where a sliding window looks along one axis."""

    input: int
    output: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    def position(self, output: Any, tap: Any) -> Any:
        """Return the input position of a tap of one output; outside the image when negative or too large."""
        return output * self.stride - self.padding + tap * self.dilation

    def is_inside(self, output: int, tap: int) -> bool:
        """Tell whether a tap of an output lies in the image."""
        return bool(0 <= self.position(output, tap) < self.input)

    @property
    def leaves_image(self) -> bool:
        """Whether any tap of any output lies outside."""
        return not (self.is_inside(0, 0) and self.is_inside(self.output - 1, self.kernel - 1))

    def taps(self, output: Expr) -> tuple[Expr, Expr]:
        """Return the first tap inside the image, and the one behind the last."""
        if not self.leaves_image:
            return 0, self.kernel
        first = -((output * self.stride - self.padding) // self.dilation)
        behind = (self.input - 1 - (output * self.stride - self.padding)) // self.dilation + 1
        return T.max(first, 0), T.min(behind, self.kernel)

    @property
    def loops_over_taps(self) -> bool:
        """Whether it has too many taps to write them all out, or meets the padding at too many outputs."""
        return self.kernel > _MOST_UNROLLED_TAPS or self.border_outputs > _MOST_UNROLLED_BORDER

    @property
    def border_outputs(self) -> int:
        """Outputs that have some tap outside the image."""
        reach = (self.kernel - 1) * self.dilation
        first_whole = max(0, -(-self.padding // self.stride))  # a phase of a transposed convolution starts inside
        behind_whole = (self.input - 1 - reach + self.padding) // self.stride + 1
        return self.output - max(0, min(behind_whole, self.output) - first_whole)

    @property
    def slide(self) -> Slide:
        """What tiles depend on."""
        return Slide(self.output, self.kernel, self.stride, self.dilation, self.loops_over_taps)

    def if_inside(self, output: Expr, tap: Expr, value: Expr, otherwise: float = 0.0) -> Expr:
        """Return a value, which is not computed where a tap of an output lies outside the image."""
        position = self.position(output, tap)
        is_inside = tirx.all(position >= 0, position < self.input)
        return T.if_then_else(is_inside, value, tirx.const(otherwise, "float32"))

    def each_tap(self, first: Expr, tile: int, emit: Callable[[Expr, bool], None]) -> None:
        """Emit loops over the taps for a tile of outputs side by side.

        Parameters
        ----------
        first : Expr
            The first output of the tile.
        tile : int
            Number of outputs.
        emit : callable
            Emits the body for a tap, and is told whether it lies in the image for all outputs, or for some of them.
        """
        if not self.leaves_image:
            with T.serial(self.kernel) as tap:
                emit(tap, True)
            return
        first_of_first, behind_first = self.taps(first)
        first_of_last, behind_last = self.taps(first + tile - 1)
        shared = T.min(first_of_first, self.kernel)
        behind_shared = T.max(shared, behind_last)
        ranges = [(first_of_last, shared, False), (shared, behind_shared, True), (behind_shared, behind_first, False)]
        for start, behind, is_shared in ranges:
            with T.serial(behind - start) as number:
                emit(start + number, is_shared)


@dataclass(frozen=True)
class LoopedWindow(Window):
    """A window of which only the code knows, when it runs, how many taps it has and how far it reaches out.

    ``output``, ``kernel`` and ``padding`` are expressions.
    """

    output: Any
    kernel: Any
    padding: Any

    @property
    def leaves_image(self) -> bool:
        """Whether any tap of any output may lie outside."""
        return True

    @property
    def loops_over_taps(self) -> bool:
        """Whether its taps are loops."""
        return True
