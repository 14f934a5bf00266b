"""``cospipe run`` with raw frames, faults and signals, called as a user calls it where a signal or an end matters."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from command import caller

from cospipe.interruption import Interruption

SCRIPT = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from cospipe.backends.runtime.stage import StageExecutable
call, warm_up = StageExecutable.call, StageExecutable.warm_up
{patch}
sys.argv = ["cospipe", "run", *sys.argv[1:]]
from cospipe.cli import main
main()
"""
HANG = """
def hang(self, values, weights=None):
    if weights is None:
        return call(self, values)
    print("at work", file=sys.stderr, flush=True)
    threading.Event().wait()
StageExecutable.call = hang
"""
SIGNAL_WHILE_LOADING = """
def signal_while_loading(self):
    if self.files.name == "stage1":
        os.kill(os.getpid(), signal.SIGTERM)
    warm_up(self)
StageExecutable.warm_up = signal_while_loading
"""
NO_MEMORY = """
from cospipe.backends.runtime import runner
def no_memory(array):
    raise MemoryError("Unable to allocate 3 GiB")
runner.aligned_copy = no_memory
"""


def start(patch, *arguments, **pipes):
    command = [sys.executable, "-c", SCRIPT.format(patch=patch), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **pipes)


def ended(process, timeout=60):
    """Wait for the end; return the exit code, what was printed and what was told."""
    with process:
        try:
            printed, told = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return process.returncode, printed.decode(), told.decode()


def wait_until(condition):
    until_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


@pytest.fixture
def inside(tmp_path, monkeypatch, capsys):
    return caller(tmp_path, monkeypatch, capsys)


@pytest.fixture
def result_bytes(compiled):
    specs = compiled.bundle.manifest.outputs
    return sum(int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in specs)


def raw_of(frames, specs):
    return b"".join(frame[spec.name].tobytes() for frame in frames for spec in specs)


def test_raw_results_of_raw_frames_are_those_of_arrays(inside, compiled, tmp_path):
    manifest, generator = compiled.bundle.manifest, np.random.default_rng(0)
    frames = [
        {spec.name: generator.standard_normal(spec.shape).astype(spec.dtype) for spec in manifest.inputs}
        for _ in range(5)
    ]
    for number, frame in enumerate(frames):
        np.savez(tmp_path / f"{number}.npz", **frame)
    (tmp_path / "in.raw").write_bytes(raw_of(frames, manifest.inputs))
    done = inside("run", compiled.bundle.path, *(f"-i{number}.npz" for number in range(5)), "-o", "all.npz")
    assert done.returncode == 0, done.stderr
    done = inside("run", compiled.bundle.path, "--raw", "in.raw", "--raw-output", "out.raw", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 5
    with np.load(tmp_path / "all.npz") as results:
        expected = [{name: results[name][number] for name in results} for number in range(5)]
    assert (tmp_path / "out.raw").read_bytes() == raw_of(expected, manifest.outputs)
    done = inside("run", compiled.bundle.path, "--raw", "in.raw", "--frames", "2", "--json")
    assert json.loads(done.stdout)["frames"] == 2
    done = inside("run", compiled.bundle.path, "-i0.npz", "-i1.npz", "--frames", "1", "--json")
    assert json.loads(done.stdout)["frames"] == 1


def test_frames_go_from_standard_input_to_standard_output(compiled, result_bytes):
    frame = raw_of(
        [{s.name: np.zeros(s.shape, s.dtype) for s in compiled.bundle.manifest.inputs}] * 3,
        compiled.bundle.manifest.inputs,
    )
    process = start("", compiled.bundle.path, "--raw", "-", "--raw-output", "-", stdin=subprocess.PIPE)
    with process:
        printed, told = process.communicate(frame, timeout=60)
    assert process.returncode == 0, told
    assert len(printed) == 3 * result_bytes
    assert "stage0" in told.decode()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_drains_writes_results_and_reports(compiled, tmp_path, result_bytes, name):
    raw, file = tmp_path / "out.raw", tmp_path / "all.npz"
    process = start("", compiled.bundle.path, "--frames", 0, "--raw-output", raw, "-o", file, "--json")
    wait_until(lambda: raw.exists() and raw.stat().st_size > 0)
    process.send_signal(signal.Signals[name])
    code, printed, told = ended(process)
    assert code == {"SIGINT": 130, "SIGTERM": 143}[name], told
    values = json.loads(printed)
    assert values["interrupted_by"] == name
    assert values["frames"] > 0
    assert raw.stat().st_size == values["frames"] * result_bytes
    with np.load(file) as results:
        assert {len(array) for array in results.values()} == {values["frames"]}
    assert sorted(tmp_path.iterdir()) == sorted([raw, file])


def test_a_signal_while_a_source_waits_ends_the_run(compiled):
    manifest = compiled.bundle.manifest
    frame = raw_of([{s.name: np.zeros(s.shape, s.dtype) for s in manifest.inputs}], manifest.inputs)
    process = start("", compiled.bundle.path, "--raw", "-", "--raw-output", "-", stdin=subprocess.PIPE)
    process.stdin.write(frame * 2)
    process.stdin.flush()
    assert process.stdout.read(1)  # a result is there, and the next frame never comes
    process.send_signal(signal.SIGINT)
    code = process.wait(60)
    told = process.stderr.read().decode()
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()
    assert code == 130, told
    assert "SIGINT ended the run after 2 frames" in told
    assert "Traceback" not in told
    assert "Fatal" not in told


def test_a_signal_before_the_first_frame_ends_it_without_one(compiled):
    code, printed, told = ended(start(SIGNAL_WHILE_LOADING, compiled.bundle.path, "--frames", 0, "--json"))
    assert code == 143, told
    values = json.loads(printed)
    assert (values["frames"], values["interrupted_by"]) == (0, "SIGTERM")


def test_a_second_signal_ends_at_once_though_a_stage_hangs(compiled):
    process = start(HANG, compiled.bundle.path)
    assert process.stderr.readline() == b"at work\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    code, _, told = ended(process)
    assert code == 143
    assert "Traceback" not in told


def test_a_stage_that_hangs_ends_the_run_with_its_name(compiled):
    code, printed, told = ended(start(HANG, compiled.bundle.path, "--stall-timeout", 0.3, "--json"))
    assert code == 1, told
    assert "has been at frame 0 for more than 0.3 s" in told
    assert json.loads(printed)["error"]["type"] == "StageError"


def test_the_end_of_memory_is_a_sentence(compiled):
    code, _, told = ended(start(NO_MEMORY, compiled.bundle.path))
    assert code == 1
    assert "There is not enough memory" in told
    assert "Unable to allocate 3 GiB" in told
    assert "Traceback" not in told


def test_warnings_are_told_and_in_the_json(inside, compiled, monkeypatch):
    from cospipe.backends.runtime import runner

    monkeypatch.setattr(runner, "available_cpus", lambda: (min(os.sched_getaffinity(0)),))
    monkeypatch.setattr(runner, "place", lambda plan, matches, cpus: placed(plan, False, cpus))
    from cospipe.backends.runtime.placement import place as placed

    done = inside("run", compiled.bundle.path, "--frames", "3", "--json")
    assert done.returncode == 0
    (warning,) = json.loads(done.stdout)["warnings"]
    assert f"cospipe: warning: {warning}" in done.stderr.splitlines()
    done = inside("run", compiled.bundle.path, "--frames", "3", "--strict")
    assert done.returncode == 1
    assert "is to be strict" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--json", "--raw-output", "-"], "both write to standard output"),
        (["--raw", "a.raw", "-i", "a.npy"], "not from both"),
        (["--raw", "nowhere.raw"], "cannot be read"),
        (["--frames", "-1"], "not -1"),
        (["--stall-timeout", "-1"], "stall timeout"),
    ],
)
def test_mistakes_get_a_sentence(inside, compiled, arguments, words):
    done = inside("run", compiled.bundle.path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr.replace("\n", " ")


def test_the_first_signal_is_told_and_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    told = threading.Event()
    with Interruption(told.set, lambda: None) as interruption:
        assert (interruption.name, interruption.exit_code) == (None, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.wait(10)
        assert (interruption.name, interruption.exit_code) == ("SIGTERM", 143)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption(lambda: pytest.fail("it was told"), lambda: None) as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.name is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_than_the_main_one_leaves_signals_alone():
    before, found = signal.getsignal(signal.SIGINT), []

    def work():
        with Interruption(lambda: None, lambda: None):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
