"""What the runners cost beside the computing: the C++ one and the Python one, on this machine.

    python benchmarks/runtime.py --json runtime.json

``hand-over``: two tiny stages on two cores, one frame inside at a time. From the latency of a frame the time that its
stages computed is taken off, and what is left divided by two: the way to the first stage and that to the second.
``throughput``: two stages of equal work of some milliseconds, as many frames as they take; the longest stage divided
by the time between two results, 1 is ideal. ``start-up``: MobileNetV2, from starting the program until it has ended
behind the first result, files in the page cache, checksums included. ``directory``: MobileNetV2 for RK3588 with all it
needs. ``swap``: from asking a running pipeline for another adapter to having it, all weights of MobileNetV2 adapted.

Medians over rounds, the runners by turns. Every row has its goal; ``reached`` says whether it was met.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from adapter_fold import random_adapter
from environment import JsonFile, Row, print_rows, write_rows
from models import load_network
from runtime_pipelines import two_equal_stages

import cospipe
from cospipe.backends.board.options import RunnerOptions
from cospipe.backends.bundle import Bundle
from cospipe.backends.runtime.frames import synthetic_frames
from cospipe.ir.tensor_file import Array

MODEL = "torchvision.models:mobilenet_v2"
COEFFICIENTS = 100
GOALS = {
    ("hand-over", "C++"): ("us", 20.0),
    ("hand-over", "Python"): ("us", 50.0),
    ("throughput", "C++"): ("share", 0.95),
    ("throughput", "Python"): ("share", 0.95),
    ("start-up", "C++"): ("s", 0.5),
    ("directory", "AArch64"): ("MB", 25.0),
    ("swap", "C++"): ("ms", 100.0),
    ("swap", "Python"): ("ms", 100.0),
}

Measured = dict[tuple[str, str], float]
"""Figures by what and by runner, in the unit of their goal."""
Statistics = dict[str, Any]


def main(
    json_file: JsonFile = "",
    rounds: Annotated[int, typer.Option(min=1, help="rounds of each measurement")] = 9,
    frames: Annotated[int, typer.Option(min=20, help="frames of a round")] = 400,
) -> None:
    """Measure hand-over, throughput, start-up, size and the swapping of weights."""
    with tempfile.TemporaryDirectory(prefix="runtime-") as scratch:
        folder = Path(scratch)
        measured = hand_over_us(folder, rounds, frames) | throughput(folder, rounds, frames)
        measured |= start_up_s(folder, rounds) | swap_ms(folder, rounds) | directory_mb(folder)
    rows = [_row(*key, measured[key]) for key in GOALS]
    if json_file:
        write_rows(rows, json_file)
    else:
        print_rows("The runners", rows)


def _row(what: str, runner: str, value: float) -> Row:
    unit, goal = GOALS[what, runner]
    reached = value >= goal if unit == "share" else value <= goal
    return {"what": what, "runner": runner, "value": round(value, 4), "unit": unit, "goal": goal, "reached": reached}


def _by_turns(what: str, rounds: int, ways: dict[str, Callable[[], float]]) -> Measured:
    """Return the median of each way over rounds in which they take turns."""
    found: dict[str, list[float]] = {runner: [] for runner in ways}
    for _ in range(rounds):
        for runner, way in ways.items():
            found[runner].append(way())
    return {(what, runner): median(values) for runner, values in found.items()}


def hand_over_us(folder: Path, rounds: int, frames: int) -> Measured:
    """Return the time of a hand-over when nobody has anything else to do."""
    bundle = two_equal_stages(channels=8, pixels=8, layers=1, folder=folder / "tiny")
    ways = {
        "C++": lambda: _overhead_us(cpp_one_at_a_time(bundle, frames)),
        "Python": lambda: _overhead_us(python_one_at_a_time(bundle, frames)),
    }
    return _by_turns("hand-over", rounds, ways)


def _overhead_us(statistics: Statistics) -> float:
    stages = statistics["stages"]
    return float(statistics["latency_median_us"] - sum(stage["median_us"] for stage in stages)) / len(stages)


def throughput(folder: Path, rounds: int, frames: int) -> Measured:
    """Return the longest stage as a share of the time between two results."""
    bundle = two_equal_stages(channels=64, pixels=32, layers=8, folder=folder / "equal")
    ways = {
        "C++": lambda: _share(cpp_statistics(bundle, ["--frames", str(frames)])),
        "Python": lambda: _share(python_statistics(bundle, frames)),
    }
    return _by_turns("throughput", rounds, ways)


def _share(statistics: Statistics) -> float:
    return max(float(stage["median_us"]) for stage in statistics["stages"]) / float(statistics["period_us"])


def cpp_statistics(bundle: Bundle, options: list[str]) -> Statistics:
    """Run the C++ runner to its end and return the statistics."""
    command = [str(bundle.file("cospipe-run")), str(bundle.folder), "--json", *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(finished.stdout))


def python_statistics(bundle: Bundle, frames: int) -> Statistics:
    """Run frames through the Python runner and return the statistics."""
    with cospipe.PipelineRunner(bundle) as runner:
        for _ in runner.run(synthetic_frames(bundle.manifest, frames)):
            pass
        return runner.statistics.summary()


def cpp_one_at_a_time(bundle: Bundle, frames: int) -> Statistics:
    """Run frames through the C++ runner, each when the result of the one before is out; return the statistics."""
    frame = b"".join(array.tobytes() for array in next(synthetic_frames(bundle.manifest, 1)).values())
    outputs = bundle.manifest.outputs
    result_bytes = sum(int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in outputs)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "statistics.json"
        command = [str(bundle.file("cospipe-run")), str(bundle.folder), "--raw", "-", "--raw-output", "-"]
        command += ["--statistics", str(file)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
            for _ in range(frames):
                process.stdin.write(frame)
                process.stdin.flush()
                process.stdout.read(result_bytes)
            process.stdin.close()
        return dict(json.loads(file.read_text(encoding="utf-8")))


def python_one_at_a_time(bundle: Bundle, frames: int) -> Statistics:
    """Run frames through the Python runner, each when the result of the one before is out; return the statistics."""
    may_go = threading.Semaphore(1)
    wanted = list(synthetic_frames(bundle.manifest, frames))

    def source() -> Iterator[dict[str, Array]]:
        for frame in wanted:
            may_go.acquire()
            yield frame

    with cospipe.PipelineRunner(bundle) as runner:
        for _ in runner.run(source()):
            may_go.release()
        return runner.statistics.summary()


def start_up_s(folder: Path, rounds: int) -> Measured:
    """Return the time from starting the program to its end behind the first result."""
    network = load_network(MODEL, (), keep_weights=False)
    made = cospipe.optimize(network.module, network.inputs, output=folder / "start-up", runner=RunnerOptions())

    def start() -> float:
        began_s = time.perf_counter()
        cpp_statistics(made.bundle, ["--frames", "1"])
        return time.perf_counter() - began_s

    return _by_turns("start-up", rounds, {"C++": start})


def directory_mb(folder: Path) -> Measured:
    """Return the size of all files that are copied to an RK3588 board."""
    network = load_network(MODEL, (), keep_weights=False)
    output = folder / "directory"
    cospipe.optimize(
        network.module, network.inputs, soc="rk3588", target="aarch64", output=output, runner=RunnerOptions()
    )
    return {("directory", "AArch64"): sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) / 1e6}


def swap_ms(folder: Path, rounds: int) -> Measured:
    """Return the time that it takes to give a running pipeline another adapter."""
    network = load_network(MODEL, (), keep_weights=False)
    room = f"insert-adapters{{n={COEFFICIENTS},selection=low}},merge-adapters{{at=load}}"
    made = cospipe.optimize(network.module, network.inputs, output=folder / "room", passes=room, runner=RunnerOptions())
    files = [random_adapter(network.module, COEFFICIENTS, seed, folder / f"{seed}.safetensors") for seed in range(2)]
    with cospipe.PipelineRunner(made.bundle) as python, _CppSwaps(made.bundle, folder / "now.safetensors") as cpp:
        ways = {"C++": lambda: cpp.swap(files), "Python": lambda: _python_swap_ms(python, files)}
        return _by_turns("swap", rounds, ways)


def _python_swap_ms(runner: cospipe.PipelineRunner, files: list[Path]) -> float:
    began_s = time.perf_counter()
    runner.swap_adapter(files[0])
    runner.swap_adapter(files[1])
    return (time.perf_counter() - began_s) * 1e3 / 2


class _CppSwaps:
    """The C++ runner, waiting for frames, whose adapter file is exchanged."""

    def __init__(self, bundle: Bundle, adapter: Path) -> None:
        self._bundle, self._adapter = bundle, adapter

    def __enter__(self) -> _CppSwaps:
        spool, results = self._adapter.with_name("spool"), self._adapter.with_name("results")
        spool.mkdir()
        results.mkdir()
        command = [str(self._bundle.file("cospipe-run")), str(self._bundle.folder), "--spool", str(spool)]
        command += ["--results", str(results), "--follow", "--adapter", str(self._adapter)]
        self._adapter.write_bytes(self._adapter.with_name("0.safetensors").read_bytes())
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
        time.sleep(1)  # until the stages are loaded
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def swap(self, files: list[Path]) -> float:
        """Exchange the file twice and return how long the runner took for one, in milliseconds."""
        times_s = []
        for file in files:
            self._adapter.write_bytes(file.read_bytes())
            began_s = time.perf_counter()
            self._process.send_signal(signal.SIGHUP)
            self._process.stderr.readline()  # what the runner says when it is done
            times_s.append(time.perf_counter() - began_s)
        return sum(times_s) * 1e3 / len(times_s)


if __name__ == "__main__":
    typer.run(main)
