"""The ``cospipe`` command, called as a user calls it."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command import caller

from cospipe.console import tell
from cospipe.ir.errors import BundleError

MODEL = """
from collections import OrderedDict

import torch
from torch import nn


def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )


class Sorts(nn.Module):
    def forward(self, x):
        return x.kthvalue(2, dim=1).values + x.cummax(dim=1).values.sum()


class Cumulative(nn.Module):
    def forward(self, x):
        return x.cumsum(1)


def cumulative():
    return nn.Sequential(OrderedDict(sums=Cumulative()))


def seeded():
    torch.manual_seed(0)
    return small()


def unsupported():
    return nn.Sequential(OrderedDict(tail=nn.Sequential(OrderedDict(sorts=Sorts()))))
"""

BOARD = """
name = "Bad Name"
title = "two mistakes"
architecture = "aarch64"
hand_over_us = -3
hand_over_gb_per_s = 1.0
sources = ["none"]
clusters = []
"""


def cospipe(*arguments, folder, timeout=300):
    command = [sys.executable, "-m", "cospipe.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    (path / "nets.py").write_text(MODEL)
    (path / "bad.toml").write_text(BOARD)
    return path


@pytest.fixture
def inside(folder, monkeypatch, capsys):
    return caller(folder, monkeypatch, capsys)


@pytest.fixture(scope="module")
def bundle(folder):
    done = cospipe(
        "optimize", "nets:small", "--soc", "host", "--input-shape", "1,3,32,32", "-o", "made", "--json", folder=folder
    )
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["plan"]["soc"].startswith("host") or values["plan"]["soc"]
    assert values["period_us"] > 0
    return folder / "made"


def test_what_will_be_slow_is_told(inside, folder):
    arguments = "optimize", "nets:cumulative", "--input-shape", "4,5", "-o", "cumulative"
    told = inside(*arguments, "--no-winograd")
    assert "Generic schedule (no fast kernel): cumsum (sums): 100% of the predicted time." in told.stdout
    assert json.loads((folder / "cumulative" / "manifest.json").read_text())["winograd"] is False
    values = json.loads(inside(*arguments, "--json").stdout)
    assert values["generic_share"] == 1
    assert [(node["name"], node["module"]) for node in values["generic_nodes"]] == [("cumsum", "sums")]


def test_run_reports_period_latency_stages_and_cores(bundle, folder):
    done = cospipe("run", bundle, "--frames", "20", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["frames"] == 20
    assert values["period_us"] > 0
    assert values["latency_median_us"] > 0
    for stage in values["stages"]:
        assert stage["median_us"] > 0
        assert set(stage["cpu_ids"]) <= os.sched_getaffinity(0)


def test_run_writes_results_of_given_inputs(bundle, folder):
    frame = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    np.save(folder / "frame.npy", frame)
    done = cospipe("run", bundle, "-i", "frame.npy", "-i", "frame.npy", "-o", "results.npz", folder=folder)
    assert done.returncode == 0, done.stderr
    results = np.load(folder / "results.npz")
    (values,) = results.values()
    assert values.shape == (2, 1, 10)
    assert np.array_equal(values[0], values[1])


def test_verify_passes_and_says_so(bundle, folder):
    done = cospipe("verify", bundle, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["passed"]
    assert all(check["relative_error"] <= check["tolerance"] for check in values["checks"])
    assert {check["part"] for check in values["checks"]} >= {"stage0", "whole"}


@pytest.fixture(scope="module")
def room(folder):
    """A bundle with room for adapters, and an adapter for it with coefficients that change much."""
    passes = "insert-adapters{n=20},merge-adapters{at=load}"
    arguments = "optimize", "nets:seeded", "--input-shape", "1,3,32,32", "--passes", passes, "-o", "room"
    done = cospipe(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    code = """
import nets, torch, cospipe
adapters = cospipe.adapt(nets.seeded(), cospipe.SpectralConfig(n=20, also_train="7.bias"))
torch.manual_seed(1)
for parameter in adapters.trainable_parameters():
    parameter.data += torch.randn_like(parameter)
adapters.save("change.safetensors")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "room"


def test_run_with_an_adapter_gives_what_the_adapted_model_gives(inside, room, folder, monkeypatch):
    import torch
    from nets import seeded

    from cospipe import load_adapter

    frame = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    np.save(folder / "frame.npy", frame)
    answers = []
    for options in ([], ["--adapter", "change.safetensors"]):
        done = inside("run", room, "-i", "frame.npy", "-o", "answers.npz", "--json", *options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["adapter"] == (options[1] if options else None)
        (values,) = np.load("answers.npz").values()
        answers.append(values[0])
    base = seeded().eval()
    with torch.no_grad():
        plain = base(torch.from_numpy(frame)).numpy()
        changed = load_adapter(base, folder / "change.safetensors").model(torch.from_numpy(frame)).numpy()
    assert np.allclose(answers[0], plain, atol=1e-4 * abs(plain).max())
    assert np.allclose(answers[1], changed, atol=1e-4 * abs(changed).max())
    assert not np.allclose(plain, changed, rtol=0.1)


def test_verify_with_an_adapter_compares_with_the_adapted_model(inside, room):
    done = inside("verify", room, "--adapter", "change.safetensors", "--model", "nets:seeded", "--json")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["passed"]
    assert "whole" in {check["part"] for check in values["checks"]}
    other = inside("verify", room, "--adapter", "change.safetensors", "--model", "nets:small")
    assert other.returncode == 1
    assert "another base" in other.stderr


@pytest.mark.parametrize("options", [["--adapter", "change.safetensors"], ["--model", "nets:seeded"]])
def test_verify_wants_an_adapter_and_its_base_together(inside, room, options):
    done = inside("verify", room, *options)
    assert done.returncode == 2
    assert "give both --adapter and --model" in done.stderr


def test_an_adapter_without_room_is_refused(inside, bundle, room):
    done = inside("run", bundle, "--adapter", "change.safetensors", "--frames", "1")
    assert done.returncode == 1
    assert "merge-adapters{at=load}" in done.stderr


def test_predict_gives_every_layer_on_every_configuration(folder):
    done = cospipe("predict", "nets:small", "--soc", "rk3588", "--input-shape", "1x3x32x32", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    expected = {f"{cluster}:{cores}" for cluster in ("big", "little") for cores in range(1, 5)}
    assert {row["kind"] for row in values["layers"]} >= {"conv", "linear"}
    assert all(set(row["latency_us"]) == expected for row in values["layers"])
    assert set(values["total_us"]) == expected


def test_socs_lists_and_shows(folder):
    done = cospipe("socs", "--json", folder=folder)
    names = {soc["name"] for soc in json.loads(done.stdout)}
    assert names >= {"hikey970", "odroid-xu4", "rk3399", "rk3588", "vim3", "odroid-n2", "sd845", "sd855"}
    shown = cospipe("socs", "sd855", folder=folder)
    assert shown.returncode == 0
    assert "cortex-a76" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["optimize", "nets:small", "--soc", "hikey97"], 2, ["hikey970"]),
        (["optimize", "nets:smal", "--soc", "host"], 2, ["small"]),
        (["optimize", "nonets:small"], 2, ["nonets"]),
        (["optimize", "net.onnx"], 2, ["net.onnx"]),
        (["optimize", "nets:small", "--soc", "bad.toml"], 1, ["name", "hand_over_us", "clusters"]),
        (["optimize", "nets:unsupported", "--input-shape", "4,5"], 1, ["kthvalue", "cummax", "in tail.sorts"]),
        (["optimize", "nets:small", "--input-shape", "1,5,32,32"], 1, ["1x5x32x32"]),
        (["optimize", "nets:small", "--input-shape", "1,3,a,32"], 2, ["1,3,a,32"]),
        (["optimize", "nets:small", "--objective", "speed"], 2, ["throughput", "latency"]),
        (["optimize", "nets:small", "--soc", "odroid-xu4"], 2, ["armv7", "wheel"]),
        (["optimize", "nets:small", "--soc", "hikey970", "--cores", "big:5"], 2, ["5", "4"]),
        (["optimize", "nets:small", "--soc", "host", "--target", "aarch64"], 2, ["aarch64"]),
        (["optimize", "nets:small", "--passes", "insert-adapter{n=3},merge"], 2, ["insert-adapters", "merge-adapters"]),
        (["run", "nowhere"], 2, ["nowhere"]),
        (["run", "nets.py"], 1, ["nets.py"]),
        (["predict", "nets:small", "--frobnicate"], 2, ["frobnicate"]),
        (["socs", "nosuch.toml"], 2, ["nosuch.toml"]),
    ],
)
def test_mistakes_get_a_sentence_and_an_exit_code(inside, folder, arguments, code, words):
    shapes = [] if "--input-shape" in arguments or arguments[0] != "optimize" else ["--input-shape", "1,3,32,32"]
    done = inside(*arguments, *shapes)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr.replace("\n", " ")
    assert not (folder / "build").exists()


def test_errors_are_json_too(inside):
    done = inside("predict", "nets:small", "--soc", "nosuch", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["type"] == "UsageError"


@pytest.mark.parametrize("command", ["optimize", "run", "verify", "predict", "socs", "demo"])
def test_help_has_examples(inside, command):
    done = inside(command, "--help")
    assert done.returncode == 0
    assert "Examples" in done.stdout
    assert f"cospipe {command}" in done.stdout


def test_another_output_is_not_overwritten(inside, folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years of work")
    done = inside("optimize", "nets:small", "--input-shape", "1,3,32,32", "-o", "mine")
    assert done.returncode == 2
    assert (folder / "mine" / "thesis.txt").read_text() == "years of work"


def test_interrupted_optimize_keeps_the_old_bundle(bundle, folder):
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    command = [
        sys.executable,
        "-m",
        "cospipe.cli",
        "optimize",
        "nets:small",
        "--input-shape",
        "1,3,32,32",
        "-o",
        bundle,
    ]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "Compiling" in line:
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before
    assert [file.name for file in folder.iterdir() if file.name.startswith(f".{bundle.name}")] == []


def test_names_cannot_steer_the_terminal(capsys):
    tell(BundleError("stage \x1b[31mred\x07 is not there\nand more"), wants_json=False)
    told = capsys.readouterr().err
    assert "stage \N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER} is not there\nand more" in told
