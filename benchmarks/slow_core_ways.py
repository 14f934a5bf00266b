"""Running a network in one way for a while: a bundle in the pipeline runner, or ONNX Runtime with a thread a core."""

from __future__ import annotations

import itertools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import Network
from runtimes import library

from cospipe.backends.bundle import Bundle
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.runtime.statistics import RunStatistics

_FIRST_FRAMES = 6
"""Frames at the beginning of a turn that do not count: the pipeline fills, and caches and predictors warm up."""
_LEAST_FRAMES = 24
"""Frames that count in each turn, however long they take: results of copies come in groups."""


@dataclass(frozen=True)
class Turn:
    """Frames a second of one turn, and the median latency of its frames."""

    frames_per_s: float
    latency_p50_ms: float


class Way(ABC):
    """One way to run a network, loaded and warm."""

    @abstractmethod
    def turn(self, seconds: float) -> Turn:
        """Run frames for a while, and at least some."""

    @abstractmethod
    def close(self) -> None:
        """Give up everything."""


class BundleWay(Way):
    """A bundle in the pipeline runner, which gets frames as fast as it takes them."""

    def __init__(self, bundle: Bundle) -> None:
        self._runner = PipelineRunner(bundle, keep_trace=True)
        self._runner.__enter__()
        inputs = bundle.reference()
        self._frame = {spec.name: inputs[spec.name] for spec in bundle.manifest.inputs}

    def turn(self, seconds: float) -> Turn:
        """Run frames; those that were finished in between count, whatever their order."""
        results = self._runner.run(itertools.repeat(self._frame))
        for _ in range(_FIRST_FRAMES):
            next(results)
        started_s = time.perf_counter()
        for number in itertools.count():
            if number >= _LEAST_FRAMES and time.perf_counter() - started_s >= seconds:
                break
            next(results)
        statistics = self._runner.statistics
        results.close()
        return _turn(statistics)

    def close(self) -> None:
        """Stop the runner."""
        self._runner.close()


def _turn(statistics: RunStatistics) -> Turn:
    finished_s = sorted(work.finished_s for work in statistics.stages[-1].work)[_FIRST_FRAMES:]
    times = zip(statistics.entered_s, statistics.finished_s, strict=True)
    latencies_s = [finished - entered for entered, finished in times][_FIRST_FRAMES:]
    rate = (len(finished_s) - 1) / (finished_s[-1] - finished_s[0])
    return Turn(rate, float(np.median(latencies_s)) * 1e3)


class OnnxRuntimeWay(Way):
    """ONNX Runtime with one thread on each of some cores, frame after frame."""

    def __init__(self, network: Network, cpu_ids: Sequence[int], folder: Path) -> None:
        file = folder / "model.onnx"
        torch.onnx.export(network.module, network.inputs, file, dynamo=True, verbose=False)
        self._thread = ThreadPoolExecutor(1, initializer=lambda: os.sched_setaffinity(0, cpu_ids[:1]))
        self._session = self._thread.submit(_session, file, tuple(cpu_ids)).result()
        names = [spec.name for spec in self._session.get_inputs()]
        self._feeds = {name: tensor.numpy() for name, tensor in zip(names, network.inputs, strict=True)}

    def turn(self, seconds: float) -> Turn:
        """Run one frame after the other."""
        return self._thread.submit(self._turn, seconds).result()

    def _turn(self, seconds: float) -> Turn:
        for _ in range(_FIRST_FRAMES):
            self._session.run(None, self._feeds)
        times_s = [time.perf_counter()]
        while times_s[-1] < times_s[0] + seconds or len(times_s) <= _LEAST_FRAMES:
            self._session.run(None, self._feeds)
            times_s.append(time.perf_counter())
        rate = (len(times_s) - 1) / (times_s[-1] - times_s[0])
        return Turn(rate, float(np.median(np.diff(times_s))) * 1e3)

    def close(self) -> None:
        """Give up the session and its threads."""
        del self._session
        self._thread.shutdown()


def _session(file: Path, cpu_ids: tuple[int, ...]) -> Any:
    onnxruntime = library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(cpu_ids)
    options.inter_op_num_threads = 1
    # one thread is the caller's, whose core is set already; ONNX Runtime counts cores from 1
    others = ";".join(str(cpu + 1) for cpu in cpu_ids[1:])
    if others:
        options.add_session_config_entry("session.intra_op_thread_affinities", others)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
