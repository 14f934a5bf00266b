"""The benchmark of runtimes: its command line, its figures, and that a runtime or network that fails ends nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import runtimes_timing
from command_line import repeat_option_names
from environment import write_rows
from models import InputSpec
from runtimes_measure import Settings, run_measurement
from runtimes_memory import ending
from runtimes_summary import print_report, speedups, summarise, table_rows
from runtimes_timing import TimedRun, alternate, wait_until_idle
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def tiny():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))


def deadly():
    os.kill(os.getpid(), signal.SIGKILL)


def row(model, runtime, median_ms, **more):
    figures = {"min_ms": median_ms, "relative_error": 0.0, "peak_mb": None, "compile_s": None, "interrupted": 0.0}
    return {"model": model, "runtime": runtime, "median_ms": median_ms, **figures, "error": None, **more}


ROWS = [
    row("a", "cospipe", 2.0, peak_mb=110.0, compile_s=7.0),
    row("a", "onnxruntime", 4.0, peak_mb=100.0),
    row("a", "openvino", 3.0),
    row("b", "cospipe", 10.0, peak_mb=90.0, compile_s=30.0),
    row("b", "onnxruntime", 5.0, peak_mb=100.0),
    row("b", "openvino", 40.0),
    row("c", "cospipe", None, error="It fails."),
    row("c", "onnxruntime", 1.0),
    row("c", "openvino", 1.0),
]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--models a b --threads 2", "--models a --models b --threads 2"),
        ("--threads 2 --models a b c", "--threads 2 --models a --models b --models c"),
        ("--models a --models b", "--models a --models b"),
        ("--models a --json - --runtimes x y", "--models a --json - --runtimes x --runtimes y"),
        ("--models", "--models"),
        ("", ""),
    ],
)
def test_an_option_takes_several_values(arguments, expected):
    assert repeat_option_names(arguments.split(), ("--models", "--runtimes")) == expected.split()


def test_summary_is_what_one_computes_by_hand():
    summary = summarise(ROWS)
    assert summary["models_compared"] == 2
    assert summary["cospipe_vs_onnxruntime"] == 1.0  # sqrt(4/2 * 5/10)
    assert summary["openvino_vs_onnxruntime"] == pytest.approx((4 / 3 * 5 / 40) ** (1 / 3), abs=1e-4)
    assert summary["lowest_cospipe_vs_onnxruntime"] == 0.5
    assert summary["cospipe_vs_faster_of_onnxruntime_and_openvino"] == pytest.approx((1.5 * 0.5) ** 0.5, abs=1e-4)
    assert summary["highest_peak_memory_vs_onnxruntime"] == 1.1
    assert summary["longest_compile_s"] == 30.0


def test_nothing_is_compared_with_a_runtime_that_did_not_run():
    summary = summarise(ROWS[:1])
    assert summary["models_compared"] == 0
    assert summary["cospipe_vs_onnxruntime"] is None
    assert speedups({"a": {"cospipe": 1.0, "onnxruntime": 2.0}}, "cospipe", ("onnxruntime", "openvino")) == []


def test_table_marks_errors_and_shows_the_speed_against_onnxruntime():
    shown = table_rows(ROWS)
    assert [line["vs_onnxruntime"] for line in shown[:2]] == [2.0, 1.0]
    assert [line["error"] for line in shown].count("see below") == 1
    assert "error" not in table_rows(ROWS[:3])[0]


def test_report_tells_errors_and_a_busy_machine(capsys):
    print_report([*ROWS, row("d", "cospipe", 1.0, interrupted=1), row("d", "ncnn", 1.0, interrupted=0.1)], "Title")
    printed = capsys.readouterr().out
    assert "c, cospipe: It fails." in printed
    assert "In 1 of 11 rows other programs" in printed
    assert "longest compile s: 30.0" in printed
    print_report(ROWS[:3], "Title")
    assert "other programs" not in capsys.readouterr().out


def test_json_is_there_whole_or_not_at_all(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text("before")
    with pytest.raises(TypeError):
        write_rows([{"model": object()}], str(file))
    assert file.read_text() == "before"
    write_rows(ROWS, str(file), packages=["pytest"], summary={"models_compared": 2})
    written = json.loads(file.read_text())
    assert written["rows"] == ROWS
    assert written["summary"] == {"models_compared": 2}
    assert written["environment"]["pytest"] == pytest.__version__
    assert list(tmp_path.iterdir()) == [file]


def test_every_runtime_gets_one_turn_a_round_in_changing_order():
    turns = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def timed_run(self):
            turns.append(self.name)
            return TimedRun(float(len(turns)), False)

    runs = alternate({name: Recorder(name) for name in "abc"}, 8, lambda step: None)
    rounds = [turns[start : start + 3] for start in range(0, 24, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 2
    assert {name: len(times) for name, times in runs.items()} == {"a": 8, "b": 8, "c": 8}


class Clock:
    """A clock of its own, and a process that computes until a moment."""

    def __init__(self, busy_until_s):
        self.now_s, self.busy_until_s = 0.0, busy_until_s

    def perf_counter(self):
        return self.now_s

    def process_time(self):
        return min(self.now_s, self.busy_until_s)

    def sleep(self, seconds):
        self.now_s += seconds


@pytest.mark.parametrize(("busy_s", "waited_s", "idle"), [(0.0, 0.005, True), (0.1, 0.105, True), (9.0, 1.0, False)])
def test_waiting_ends_when_spinning_threads_do_or_after_a_second(monkeypatch, busy_s, waited_s, idle):
    clock = Clock(busy_s)
    monkeypatch.setattr(runtimes_timing, "time", clock)
    assert wait_until_idle() == idle
    assert clock.now_s == pytest.approx(waited_s, abs=0.006)


@pytest.mark.parametrize(
    ("exit_code", "output", "expected"),
    [
        (-11, "", "died of SIGSEGV: it said nothing"),
        (1, "Traceback\nMemoryError: no room.\n", "failed with exit code 1: MemoryError: no room"),
    ],
)
def test_how_a_process_ended_is_told(exit_code, output, expected):
    assert ending(exit_code, output) == expected


def test_measuring_memory_imports_no_compiler_and_no_framework():
    heavy = ("torch", "tvm", "tvm_ffi", "networkx", "typer", "rich", "onnxruntime", "openvino", "ncnn")
    program = f"import sys, runtimes_memory; print(sorted(set({heavy}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def settings(*runtimes):
    cpu = min(os.sched_getaffinity(0))
    return Settings((InputSpec((2, 3, 8, 8)),), False, runtimes, (cpu,), "cpu:1", rounds=3)


def test_a_runtime_that_cannot_take_a_network_has_a_row_with_a_sentence(tmp_path):
    steps = []
    eager, ncnn = run_measurement("test_cpu_latency:tiny", settings("torch-eager", "ncnn"), tmp_path, steps.append)
    assert eager["error"] is None
    assert 0 < eager["min_ms"] <= eager["median_ms"]
    assert eager["relative_error"] < 1e-5
    assert 5 < eager["baseline_mb"] < eager["peak_mb"]
    assert (ncnn["median_ms"], ncnn["peak_mb"]) == (None, None)
    assert ncnn["error"].startswith(("ncnn takes inputs of batch 1", "ncnn cannot be imported", "pnnx cannot be imp"))
    assert steps[-1] == "round 3 of 3"


def test_a_network_that_kills_its_process_has_rows_that_say_so(tmp_path):
    rows = run_measurement("test_cpu_latency:deadly", settings("torch-eager", "ncnn"), tmp_path, print)
    assert [row["runtime"] for row in rows] == ["torch-eager", "ncnn"]
    assert all("'starting'" in row["error"] and "died of SIGKILL" in row["error"] for row in rows)
