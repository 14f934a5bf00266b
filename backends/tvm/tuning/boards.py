"""Tuning on boards: where a farm runs the network with our kernels and with tuned ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cospipe.backends.tvm.farm.farm import Farm
from cospipe.backends.tvm.tuning.comparing import CompiledPair, KernelTimes, time_by_turns

_COMPARING_SECONDS = 600.0
"""How long a board may take to load both networks and run them some thirty times."""


@dataclass(frozen=True)
class AnyBoard:
    """Whichever board of a farm is free; both networks run on the same one."""

    farm: Farm

    def __call__(self, _clock: Path, pair: CompiledPair) -> tuple[str, KernelTimes]:
        """Run both there; the farm has a clock of its own for its boards.

        Raises
        ------
        RemoteError
            When it failed on two boards, or none is left.
        """
        future = self.farm.submit("comparing tuned kernels", _COMPARING_SECONDS, time_by_turns, [pair])
        done = future.result()
        times: KernelTimes = done.value
        return done.board, times
