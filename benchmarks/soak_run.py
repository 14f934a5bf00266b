"""An hour in the life of a runner: frames through a spool, and everything that can happen to the process meanwhile."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from soak_network import ADAPTERS, Array, SoakPipeline

WARM_UP_S = 10.0
"""What a life's memory is not looked at for, at its beginning."""
LEAST_LIFE_S = 30.0
"""How long a life must be for its memory to count."""
MOST_DRIFT = 0.02
MOST_UNCHECKED = 200
_SIGNAL_MASK = "SigBlk:"
_PATIENCE_S = 60.0


class SoakError(Exception):
    """Something that must not happen did: a lost frame, a wrong result, an end that nobody asked for."""


@dataclass
class Life:
    """One process of the runner, from its start to its end."""

    first_frame: int
    started_s: float
    adapters: list[str]
    """The adapter it was started with, then those it was told to take."""
    ended_by: str = ""
    ended_s: float = 0.0
    frames: int = 0
    swaps_seen: int = 0
    resident_bytes: list[tuple[float, int]] = field(default_factory=list)
    """When, and how much memory was resident."""
    position: int = 0
    """The adapter, of those above, that the last checked result was computed with."""
    last_written_ns: int = 0

    @property
    def seconds(self) -> float:
        """How long it lived."""
        return self.ended_s - self.started_s

    def drift(self) -> float | None:
        """Return how much more memory the second half took than the first; None for a life that was too short."""
        warm = [size for time_s, size in self.resident_bytes if time_s - self.started_s > WARM_UP_S]
        half = len(warm) // 2
        if self.seconds < LEAST_LIFE_S or half == 0:
            return None
        return median(warm[-half:]) / median(warm[:half]) - 1


@dataclass(frozen=True)
class Unrest:
    """How often what happens, seconds between two on average; 0 for never."""

    swap_s: float = 2.0
    stop_s: float = 15.0
    kill_s: float = 20.0
    stall_s: float = 10.0


class Soak:
    """A spool, a producer, a runner and a checker.

    Parameters
    ----------
    pipeline : SoakPipeline
        What is run, and what must come out.
    folder : Path
        Where spool, results and the current adapter lie.
    frames_per_second : float
        How many frames the producer brings.
    seed : int
        Of everything that is random.
    """

    def __init__(self, pipeline: SoakPipeline, folder: Path, frames_per_second: float, seed: int = 0) -> None:
        self.lives: list[Life] = []
        self.produced = self.checked = 0
        self.stalls = self.stops = self.swaps = 0
        self._pipeline = pipeline
        self._spool, self._results = folder / "in", folder / "out"
        self._adapter = folder / "current.safetensors"
        self._errors = folder / "errors.txt"
        self._statistics = folder / "statistics.json"
        self._period_s = 1 / frames_per_second
        self._random = random.Random(seed)
        self._frames = [_npy(frame) for frame in pipeline.frames]
        self._failure: BaseException | None = None
        self._is_starting = False
        self._is_over, self._all_produced = threading.Event(), threading.Event()
        self._removing = threading.Lock()
        self._files = threading.Lock()  # held while results are counted or removed
        self._process: subprocess.Popen[bytes] | None = None
        for directory in (self._spool, self._results):
            directory.mkdir()
        self._put_adapter(ADAPTERS[0])

    def run(self, seconds: float, unrest: Unrest, progress: Callable[[str], None]) -> None:
        """Run for some time; further calls go on with further lives.

        Raises
        ------
        SoakError
            When anything is not as it must be.
        """
        self._is_over.clear()
        self._all_produced.clear()
        bodies = (lambda: self._produce(unrest.stall_s), lambda: self._check(unrest.stall_s), self._sample)
        threads = [threading.Thread(target=self._guarded, args=(body,), daemon=True) for body in bodies]
        for thread in threads:
            thread.start()
        try:
            self._start()
            self._disturb(time.monotonic() + seconds, unrest, progress)
            self._all_produced.set()
            self._wait(lambda: not threads[0].is_alive() and self.checked == self.produced, "the last results")
            self._end()
        finally:
            self._all_produced.set()
            self._is_over.set()
            self._kill()
            for thread in threads:
                thread.join()
        self._raise_failure()
        if left := [file.name for folder in (self._spool, self._results) for file in folder.iterdir()]:
            raise SoakError(f"Files are left over: {', '.join(sorted(left)[:5])}.")

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # the main thread raises it
            self._failure = self._failure or error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        until_s = time.monotonic() + _PATIENCE_S
        while not condition():
            self._raise_failure()
            self._check_alive()
            if time.monotonic() > until_s:
                raise SoakError(f"Waited for {what} for {_PATIENCE_S:.0f} s; {self._last_words()}")
            time.sleep(0.005)

    # The process

    def _start(self) -> None:
        command = [str(self._pipeline.bundle.folder / "cospipe-run"), "--spool", str(self._spool), "--follow", "--json"]
        command += ["--results", str(self._results), "--adapter", str(self._adapter)]
        # It begins with as many frames as may wait: it takes most memory when it is full, which else comes at any time.
        self._wait(lambda: self._waiting_frames() >= MOST_UNCHECKED, "frames")
        first = self._first_without_result()
        self.lives.append(Life(first, time.monotonic(), [self._current]))
        self._is_starting = True
        with self._removing:  # what it finds at its start must not vanish before it has looked at it
            with self._errors.open("ab") as errors, self._statistics.open("wb") as statistics:
                self._process = subprocess.Popen(command, stdout=statistics, stderr=errors)
            self._wait(lambda: _takes_signals(self._pid), "the runner to start")
            if not self._all_produced.is_set():
                self._wait(lambda: self._first_without_result() > first, "the first result")
        self._is_starting = False
        self._swap()  # the first exchange takes memory that stays, for the thread that makes weights

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def _life(self) -> Life:
        return self.lives[-1]

    def _check_alive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise SoakError(f"The runner ended with {self._process.returncode}; {self._last_words()}")

    def _last_words(self) -> str:
        lines = self._errors.read_text(errors="replace").strip().splitlines() if self._errors.exists() else []
        return f"it said: {lines[-1]}" if lines else "it said nothing."

    def _kill(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        self._close_life("SIGKILL")

    def _end(self) -> None:
        """End the runner by SIGTERM; it must have nothing left to do, and say what it did."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(timeout=_PATIENCE_S)
        self._process = None
        self._close_life("SIGTERM")
        if status != 128 + signal.SIGTERM:
            raise SoakError(f"The runner ended with {status} after SIGTERM; {self._last_words()}")
        statistics: dict[str, Any] = json.loads(self._statistics.read_text())
        if statistics["frames"] != self._life.frames:
            raise SoakError(f"The runner counted {statistics['frames']} frames, {self._life.frames} have a result.")

    def _close_life(self, ended_by: str) -> None:
        self._life.ended_by, self._life.ended_s = ended_by, time.monotonic()
        self._life.frames = self._first_without_result() - self._life.first_frame

    def _waiting_frames(self) -> int:
        return self.produced - self._first_without_result()

    def _first_without_result(self) -> int:
        """Return the number of the next frame to do; those before must all be done."""
        with self._files:
            numbers = sorted(int(file.stem) for file in self._results.glob("[!.]*.npz"))
            if numbers and numbers != list(range(self.checked, self.checked + len(numbers))):
                raise SoakError(f"There are results {numbers[:20]}, checked are those before {self.checked}.")
            return self.checked + len(numbers)

    # What happens to it

    def _disturb(self, until_s: float, unrest: Unrest, progress: Callable[[str], None]) -> None:
        """Do one thing after another to the process until the time is over."""
        things = [(self._swap, unrest.swap_s), (self._stop_for_a_while, unrest.stop_s), (self._restart, unrest.kill_s)]
        due = [self._after(mean_s) for _, mean_s in things]
        told_s = time.monotonic()
        while time.monotonic() < until_s:
            self._raise_failure()
            self._check_alive()
            for position, (thing, mean_s) in enumerate(things):
                if time.monotonic() >= due[position]:
                    thing()
                    due[position] = self._after(mean_s)
            if time.monotonic() - told_s > 10:
                progress(self.summary())
                told_s = time.monotonic()
            time.sleep(0.01)

    def _after(self, mean_s: float) -> float:
        return time.monotonic() + self._random.expovariate(1 / mean_s) if mean_s else float("inf")

    def _swap(self) -> None:
        name = self._random.choice([name for name in ADAPTERS if name != self._current])
        self._life.adapters.append(name)
        self._put_adapter(name)
        os.kill(self._pid, signal.SIGHUP)
        self.swaps += 1

    def _put_adapter(self, name: str) -> None:
        scratch = self._adapter.with_suffix(".new")
        shutil.copyfile(self._pipeline.adapters[name], scratch)
        scratch.replace(self._adapter)
        self._current = name

    def _stop_for_a_while(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)
        time.sleep(self._random.uniform(0.1, 3.0))
        os.kill(self._pid, signal.SIGCONT)
        self.stops += 1

    def _restart(self) -> None:
        self._kill()
        self._start()

    # Frames

    def _produce(self, stall_s: float) -> None:
        """Bring frames at the given rate; what the pipeline cannot keep waits here, not on the disk."""
        stall_at_s, next_s = self._after(stall_s), time.monotonic()
        while not self._all_produced.is_set() and not self._is_over.is_set():
            now_s = time.monotonic()
            if now_s >= stall_at_s:
                self.stalls += 1
                self._is_over.wait(self._random.uniform(0.1, 2.0))
                stall_at_s, next_s = self._after(stall_s), time.monotonic()
            elif now_s < next_s or self.produced - self.checked >= self._most_unchecked():
                time.sleep(0.001)
            else:
                self._put_frame(self.produced)
                self.produced += 1
                next_s = max(next_s + self._period_s, now_s - 0.1)

    def _most_unchecked(self) -> int:
        # Nothing is checked until a new process has done a frame, so it must get one.
        return MOST_UNCHECKED + self._is_starting

    def _put_frame(self, number: int) -> None:
        scratch = self._spool / f".{_name(number)}.new"
        scratch.write_bytes(self._frames[number % len(self._frames)])
        scratch.rename(self._spool / f"{_name(number)}.npy")

    # Results

    def _check(self, stall_s: float) -> None:
        """Compare every result, in order, and remove it with its frame."""
        stall_at_s = self._after(stall_s)
        while not self._is_over.is_set():
            if time.monotonic() >= stall_at_s:
                self.stalls += 1
                self._is_over.wait(self._random.uniform(0.1, 1.0))
                stall_at_s = self._after(stall_s)
            if (self._results / f"{_name(self.checked)}.npz").exists() and self._removing.acquire(timeout=0.1):
                try:
                    self._check_result(self.checked)
                finally:
                    self._removing.release()
            else:
                time.sleep(0.002)

    def _check_result(self, number: int) -> None:
        file = self._results / f"{_name(number)}.npz"
        with np.load(file) as arrays:
            (result,) = arrays.values()
        life = next(life for life in reversed(self.lives) if life.first_frame <= number)
        self._check_adapter(life, number, result)
        written_ns = file.stat().st_mtime_ns
        if written_ns < life.last_written_ns:
            raise SoakError(f"The result of frame {number} was written before that of the frame before it.")
        life.last_written_ns = written_ns
        with self._files:
            (self._spool / f"{_name(number)}.npy").unlink()  # before its result: else it would be done again
            file.unlink()
            self.checked += 1

    def _check_adapter(self, life: Life, number: int, result: Array) -> None:
        """Check that a result is right for an adapter that the process was given, and not for an earlier one."""
        possible = self._pipeline.adapters_of(number, result)
        if len(possible) != 1:
            raise SoakError(f"The result of frame {number} is wrong for every adapter.")
        later = [i for i, name in enumerate(life.adapters) if i >= life.position and name == possible[0]]
        if not later:
            given = ", ".join(life.adapters[life.position :])
            raise SoakError(f"Frame {number} met adapter {possible[0]}; it could only meet {given}.")
        life.swaps_seen += later[0] != life.position
        life.position = later[0]

    # Memory

    def _sample(self) -> None:
        """Note once in a while how much memory of the process is resident."""
        while not self._is_over.wait(0.5):
            process = self._process
            if process is not None and (resident := resident_bytes(process.pid)):
                self._life.resident_bytes.append((time.monotonic(), resident))

    def summary(self) -> str:
        """Return where it stands, for people."""
        return (
            f"{self.checked} frames right, {self.produced - self.checked} under way; {len(self.lives)} lives,"
            f" {self.swaps} swaps, {self.stops} stops, {self.stalls} stalls"
        )


def _name(number: int) -> str:
    return f"{number:010}"


def _npy(array: Array) -> bytes:
    stream = BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def resident_bytes(process: int) -> int | None:
    """Return how much memory of a process is resident (Rss in smaps_rollup); None when it is gone."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Rss:")) or None


def _takes_signals(process: int) -> bool:
    """Tell whether a process has begun to take SIGHUP itself: before, it would end it."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(_SIGNAL_MASK)]
    return any(mask >> (signal.SIGHUP - 1) & 1 for mask in masks)
