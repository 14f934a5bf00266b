"""``tvmc tune`` as a user types it. Only one test searches, a tiny network with few trials."""

import json
import logging
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import nn

from cospipe.backends.tvm.tuning.comparisons import KernelComparison
from cospipe.backends.tvm.tuning.search import SearchProgress, trials_at_once
from cospipe.backends.tvm.tuning.tasks import KernelTask
from cospipe.backends.tvm.tuning.tune import TaskResult, TuningResult
from cospipe.tvmc.main import _main
from cospipe.tvmc.tune_report import progress_text, result_table


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1)).eval()
    file = tmp_path_factory.mktemp("model") / "tiny.pt2"
    torch.export.save(torch.export.export(layers, (torch.rand(1, 8, 12, 12),)), file)
    return file


def told(capsys, *arguments):
    """Return the exit code and what was told on standard error."""
    try:
        code = _main(["tune", *map(str, arguments)])
    except SystemExit as error:
        code = error.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "replacement"),
    [
        (["--tuner", "xgb_knob"], "MetaSchedule is the only tuner"),
        (["--enable-autoscheduler"], "MetaSchedule is the only tuner"),
        (["--num-cores", "4"], "llvm -num-cores=4"),
        (["--vector-unit-bytes", "16"], "MetaSchedule asks the target"),
        (["--warp-size", "32"], "tunes for CPUs only"),
        (["--target-host", "llvm"], "a CPU is its own host"),
        (["--include-simple-tasks"], "--tasks list shows"),
    ],
)
def test_what_is_gone_is_refused_with_its_replacement(capsys, tmp_path, model, options, replacement):
    code, text = told(capsys, model, "-o", tmp_path / "records", *options)
    assert code == 2
    assert replacement in text


def test_output_is_mandatory(capsys, model):
    assert told(capsys, model)[0] == 2


@pytest.mark.parametrize("value", ["many", "-1", "1.5"])
def test_trials_are_a_number(capsys, tmp_path, model, value):
    code, text = told(capsys, model, "-o", tmp_path / "records", "--trials", value)
    assert code == 2
    assert "is no number of 0 or more" in text or "expected one argument" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rpc-tracker", "farm:9190"], "need to provide an RPC tracker key (--rpc-key) for remote tuning"),
        (["--rpc-key", "rk3588"], "name the tracker by --rpc-tracker"),
        (["--desired-layout", "NHWC"], "tuned in the layout that they have"),
        (["--mixed-precision"], "compute in FP32"),
        (["--number", "0"], "--number must be more than 0"),
        (["--cores", "hikey970:big:4", "--target", "llvm"], "leave out --target"),
    ],
)
def test_what_does_not_fit_is_one_sentence(capsys, tmp_path, model, options, message):
    code, text = told(capsys, model, "-o", tmp_path / "records", *options)
    assert (code, message in text) == (4, True)
    assert not (tmp_path / "records").exists()


def test_a_missing_file_is_one_sentence(capsys, tmp_path):
    code, text = told(capsys, tmp_path / "none.onnx", "-o", tmp_path / "records")
    assert code == 4
    assert "doesn't exist, is a broken symbolic link, or a directory" in text


def test_tasks_are_listed_without_tuning(capsys, tmp_path, model):
    assert _main(["tune", str(model), "-o", str(tmp_path / "records"), "--tasks", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["task", "kind", "calls", "MFLOP", "nodes"]
    assert [line.split()[:2] for line in lines[2:4]] == [["0", "convolution"], ["1", "convolution"]]
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(("trials", "tasks", "expected"), [(1000, 10, 50), (200, 35, 8), (100000, 5, 64), (4, 1, 8)])
def test_half_of_the_trials_go_where_they_bring_most(trials, tasks, expected):
    assert trials_at_once(trials, tasks) == expected


def test_progress_tells_the_time_left_and_the_best_improvement():
    assert progress_text(SearchProgress(10, 100, 125.4, 1.5, ("conv2d_3", "relu"))) == (
        "2:05 left; best: conv2d_3 1.50 times as fast as at first"
    )


def test_the_table_tells_what_was_kept():
    def result(number, ours_us, tuned_us):
        compared = KernelComparison(
            workload="1",
            trace="t",
            target="llvm",
            nodes=("conv2d",),
            ours_us=ours_us,
            tuned_us=tuned_us,
            machine="here",
            measured_at="2026-01-01T00:00:00+00:00",
        )
        task = KernelTask("1", None, None, "convolution", ("k",), ("conv2d", "relu", "add", "relu_1"), 1)
        return TaskResult(number, task, compared)

    table = result_table(
        TuningResult((result(0, 30.0, 20.0), result(3, 20.0, 30.0)), (("softmax", ("softmax",)),), was_stopped=False)
    )
    assert [line.split()[-1] for line in table.splitlines()[2:4]] == ["tuned", "cospipe"]
    assert "conv2d, relu, add and 1 more" in table
    assert table.splitlines()[-1].endswith("softmax (softmax)")


@pytest.mark.slow
@pytest.mark.skipif(version("apache-tvm-ffi") >= "0.1.15", reason="apache-tvm-ffi 0.1.15 cannot store kernels")
def test_tune_resume_compile_and_run(capsys, tmp_path, model, caplog):
    records, package, outputs = tmp_path / "records", tmp_path / "module.tar", tmp_path / "out.npz"
    options = ["--target", "llvm -num-cores=1", "--number", "2", "--parallel", "1", "--timeout", "120"]
    tune = ["tune", str(model), "-o", str(records), "--trials", "8", "--tasks", "0", *options]
    assert _main(tune) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[0] == "0"
    lines = (records / "database_tuning_record.json").read_text().splitlines()
    assert len(lines) >= 8
    (compared,) = json.loads((records / "cospipe_kernels.json").read_text())["comparisons"]
    assert compared["nodes"] == ["conv2d", "relu"]

    assert _main(tune) == 0  # all trials are there: nothing is searched, everything is compared again
    assert (records / "database_tuning_record.json").read_text().splitlines() == lines

    with caplog.at_level(logging.INFO, "cospipe"):
        compile_options = ["--target", "llvm -num-cores=1", "--tuning-records", str(records)]
        assert _main(["compile", str(model), "-o", str(package), *compile_options]) == 0
    frame = np.random.default_rng(0).standard_normal((1, 8, 12, 12)).astype("float32")
    name = torch.export.load(model).graph_signature.user_inputs[0]
    np.savez(tmp_path / "in.npz", **{name: frame})
    assert _main(["run", str(package), "-i", str(tmp_path / "in.npz"), "-o", str(outputs)]) == 0
    with torch.no_grad():
        expected = torch.export.load(model).module()(torch.from_numpy(frame)).numpy()
    np.testing.assert_allclose(np.load(outputs)["output_0"], expected, rtol=1e-4, atol=1e-5)
