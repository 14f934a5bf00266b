"""How a model is adapted: how many coefficients, where in the spectrum, on which weights. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from cospipe.ir.errors import UsageError, nearest

SELECTIONS = ("hybrid", "random", "low", "gradient")
DISTANCES = ("normalized", "corner", "paper")


@dataclass(frozen=True)
class SpectralConfig:
    """Options of spectral adapters (sDCTFT, arXiv 2410.09103).

    A weight is seen as the matrix (first dimension, product of the others); its change is
    ``alpha * C_M^T S C_N`` with a spectrum S of n trainable coefficients.

    Parameters
    ----------
    n : int
        Coefficients of each weight; a smaller weight gets as many as it has elements.
    budget : int
        Coefficients of all weights together, shared in proportion to rows + columns as LoRA shares its own, instead of
        ``n`` and of numbers in ``layers``; 0 for these.
    alpha : float
        Scale of the change. With 1 an Adam step of learning rate lr changes a weight by lr in each coefficient's
        direction, whatever its shape.
    selection : str
        Which places: ``"hybrid"`` (section 3 of the paper: a third in each of three bands, in each the share ``delta``
        by energy of the weight's spectrum, the rest at random), ``"random"``, ``"low"`` (the lowest frequencies), or
        ``"gradient"`` (the largest of the spectrum of the loss's gradient over a few batches).
    delta : float
        Share of the places of a band that hybrid selection takes by energy, 0 to 1.
    distance : str
        How far a place (u, v) is from the lowest frequency, for bands and for ``"low"``: ``"normalized"``
        sqrt((u/M)^2 + (v/N)^2) of sqrt(2); ``"corner"`` sqrt(u^2 + v^2) of the far corner's; ``"paper"`` the same of
        sqrt((M/2)^2 + (N/2)^2), which leaves most of the plane to the high band.
    seed : int
        The random places of a weight follow from this and its name, on every machine.
    layers : str
        Patterns of the weights to adapt, by weight or module name, with ``|`` in between; the first that matches
        counts. A number behind a colon replaces ``n``: ``*.query:1000|*.value:500``.
    also_train : str
        Patterns of parameters to train whole, by parameter or module name: ``classifier|*.norm``. These weights are
        not adapted.

    Raises
    ------
    UsageError
        Listing every option that makes no sense.
    """

    n: int = 1000
    budget: int = 0
    alpha: float = 1.0
    selection: str = "hybrid"
    delta: float = 0.7
    distance: str = "normalized"
    seed: int = 0
    layers: str = "*"
    also_train: str = ""

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise UsageError(f"These options of spectral adapters make no sense: {'; '.join(problems)}.")

    @classmethod
    def from_peft(cls, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> SpectralConfig:
        """Translate peft's FourierFT or LoRA options, see :func:`cospipe.ir.peft_import.spectral_config`."""
        from cospipe.ir.peft_import import spectral_config

        return spectral_config(config, shapes)

    def count_for(self, name: str) -> int | None:
        """Return the coefficients asked for on a weight, None when no pattern matches its name."""
        for pattern, count in _layer_patterns(self.layers):
            if matches(name, pattern):
                return self.n if count is None else count
        return None

    def trains_whole(self, name: str) -> bool:
        """Tell whether a parameter is trained itself."""
        return any(matches(name, pattern) for pattern in self.also_train.split("|") if pattern)


def matches(name: str, pattern: str) -> bool:
    """Tell whether a parameter's name, or the path of one of the modules it belongs to, matches a pattern."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:length]), pattern) for length in range(len(parts), 0, -1))


def _layer_patterns(text: str) -> list[tuple[str, int | None]]:
    patterns: list[tuple[str, int | None]] = []
    for part in filter(None, text.split("|")):
        pattern, colon, count = part.rpartition(":")
        patterns.append((pattern, int(count)) if colon else (part, None))
    return patterns


def _problems(config: SpectralConfig) -> list[str]:
    problems = [
        f"{option}={value!r}: write patterns as one text, with | in between"
        for option, value in (("layers", config.layers), ("also_train", config.also_train))
        if not isinstance(value, str)
    ]
    if problems:
        return problems
    if config.n < 1:
        problems.append(f"n={config.n}: at least one coefficient a weight is needed")
    if config.budget < 0:
        problems.append(f"budget={config.budget}: give the number of coefficients of all weights, or 0")
    if config.alpha == 0 or not math.isfinite(config.alpha):
        problems.append(f"alpha={config.alpha}: it must be a finite number other than zero")
    if config.selection not in SELECTIONS:
        problems.append(f"selection={config.selection}: {nearest(config.selection, SELECTIONS)}")
    if not 0 <= config.delta <= 1:
        problems.append(f"delta={config.delta}: it is a share, from 0 to 1")
    if config.distance not in DISTANCES:
        problems.append(f"distance={config.distance}: {nearest(config.distance, DISTANCES)}")
    if not 0 <= config.seed < 2**32:
        problems.append(f"seed={config.seed}: it must be from 0 to 2^32 - 1")
    for part in filter(None, config.layers.split("|")):
        pattern, colon, count = part.rpartition(":")
        if colon and not (pattern and count.isdecimal() and int(count)):
            problems.append(f"layers={part}: write PATTERN or PATTERN:N with N at least 1")
        elif colon and config.budget:
            problems.append(f"layers={part}: a budget shares all coefficients, so no pattern can have its own number")
    if not config.layers.strip("|"):
        problems.append("layers: it names no weight; * stands for all")
    return problems
