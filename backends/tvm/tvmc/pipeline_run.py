"""Runs of a package of a pipeline: frames through all its stages, at once."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np

from cospipe.backends.bundle import Bundle
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.tvm.tvmc.text_table import text_table
from cospipe.backends.tvm.tvmc.timing import ExecutionTimes, Repetitions
from cospipe.ir.tensor_file import Array

_PROFILED_FRAMES = 50
_NUMBERS = (2, 3, 4)

_log = logging.getLogger(__name__)


class LoadedPipeline:
    """A started pipeline with one frame of inputs.

    Parameters
    ----------
    bundle : Bundle
        An opened bundle.
    runner : PipelineRunner
        A started runner of it.
    inputs : mapping of str to array
        All its inputs by name.
    """

    def __init__(self, bundle: Bundle, runner: PipelineRunner, inputs: Mapping[str, Array]) -> None:
        self._bundle, self._runner, self._frame = bundle, runner, dict(inputs)
        for warning in runner.statistics.warnings:
            _log.warning("%s", warning)

    def run(self) -> list[Array]:
        """Run one frame and return its outputs, in the order of the network's."""
        [result] = self._runner.run([self._frame])
        return [np.array(result[spec.name]) for spec in self._bundle.manifest.outputs]

    def times(self, repetitions: Repetitions) -> ExecutionTimes:
        """Return the time of a frame: of ``number`` frames that follow each other, divided by their number.

        With one frame this is its latency; with many it comes near to the pipeline's period.
        """
        return ExecutionTimes([self._mean_s(repetitions.number) for _ in range(repetitions.repeat)])

    def _mean_s(self, number: int) -> float:
        started_s = perf_counter()
        self._run_frames(number)
        return (perf_counter() - started_s) / number

    def _run_frames(self, number: int) -> None:
        for _ in self._runner.run(itertools.repeat(self._frame, number)):
            pass

    def profile(self) -> str:
        """Run some frames and return a table of the stages and their times."""
        self._run_frames(_PROFILED_FRAMES)
        summary = self._runner.statistics.summary()
        rows = [_stage_row(stage) for stage in summary["stages"]]
        titles = ["Stage", "Cores", "Frames", "Time (us)", "Predicted (us)"]
        period_us, latency_us = _text(summary["period_us"]), _text(summary["latency_median_us"])
        return f"{text_table([titles, *rows], _NUMBERS)}\nPeriod {period_us} us, latency {latency_us} us"


def _stage_row(stage: Mapping[str, Any]) -> list[str]:
    frames = sum(replica["frames"] for replica in stage["replicas"])
    cores = f"{stage['configuration']} (cpu {','.join(map(str, stage['cpu_ids']))})"
    return [stage["name"], cores, str(frames), _text(stage["median_us"]), _text(stage["predicted_us"])]


def _text(time_us: float | None) -> str:
    return "-" if time_us is None else f"{time_us:.1f}"
