"""``cospipe finetune``, called as a user calls it."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from command import caller
from sklearn.datasets import load_digits

MODEL = """
import torch
from torch import nn


def digit_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 12))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "digit_nets.py").write_text(MODEL)
    x, y = load_digits(return_X_y=True)
    np.savez(tmp_path / "digits.npz", x=(x / 16).astype(np.float32), y=y)
    return tmp_path


@pytest.fixture
def inside(folder, monkeypatch, capsys):
    sys.modules.pop("digit_nets", None)
    return caller(folder, monkeypatch, capsys)


ARGUMENTS = "finetune", "digit_nets:digit_net", "--data", "digits.npz", "-o", "a.safetensors"


def test_the_result_is_json(inside, folder):
    done = inside(*ARGUMENTS, "--n", "300", "--epochs", "2", "--layers", "0.weight", "--also-train", "2", "--json")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["coefficients"] == 300
    assert values["trained_parameters"] == 64 * 12 + 12
    assert values["epochs"] == 2
    assert values["best_epoch"] in (1, 2)
    assert values["validation_accuracy"] > 0.5
    assert values["train_accuracy"] > 0.3
    assert values["test_accuracy"] is None
    assert values["seconds"] > 0
    assert values["classes"] == [str(i) for i in range(10)]
    assert values["file_bytes"] == (folder / "a.safetensors").stat().st_size
    assert "Epoch 2 of 2" in done.stderr


def test_the_result_is_a_table_and_notes_what_is_odd(inside):
    done = inside(*ARGUMENTS, "--budget", "400", "--epochs", "1", "--selection", "low")
    assert done.returncode == 0, done.stderr
    assert "accuracy in validation" in done.stdout
    assert "400" in done.stdout
    assert "2 more output(s) than there are classes" in done.stdout


def test_interrupting_and_continuing(inside, folder):
    inside(*ARGUMENTS, "--epochs", "100", "--patience", "100", "-o", "whole.safetensors")
    command = [sys.executable, "-m", "cospipe.cli", *ARGUMENTS, "--epochs", "100", "--patience", "100"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    told = ""
    for line in process.stderr:
        told += line
        if line.startswith("Epoch 2 "):
            process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "a.safetensors.checkpoint keeps what was done; the same command continues" in told
    assert not (folder / "a.safetensors").exists()
    other = inside(*ARGUMENTS, "--epochs", "100", "--patience", "100", "--batch", "16")
    assert other.returncode == 2
    assert "batch: 32 then, 16 now" in other.stderr
    done = inside(*ARGUMENTS, "--epochs", "100", "--patience", "100")
    assert "Continuing in epoch" in done.stderr
    assert (folder / "a.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()
    assert list(folder.glob("*.checkpoint")) + list(folder.glob("*.new")) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--n", "0", "--selection", "best", "--delta", "2"], 2, ["n=0", "selection=best", "delta=2"]),
        (["--epochs", "0", "--learning-rate", "-1"], 2, ["epochs is 0", "learning_rate is -1"]),
        (["--learning-rate", "1e30"], 1, ["lower the learning rate"]),
        (["--validation", "0"], 2, ["between 0 and 1"]),
        (["--data", "nosuch.npz"], 2, ["nosuch.npz"]),
        (["--mean", "1,2"], 2, ["--mean takes three numbers"]),
        (["--std", "1,0,1"], 2, ["--std divides"]),
        (["--input-shape", "3,a"], 2, ["3,a"]),
        (["-o", "a.pt"], 2, [".safetensors"]),
        (["--layers", "attention"], 2, ["No weight matches"]),
    ],
)
def test_mistakes_get_a_sentence_and_leave_nothing(inside, folder, arguments, code, words):
    before = sorted(folder.iterdir())
    done = inside(*ARGUMENTS, *arguments, "--json")
    assert done.returncode == code, done.stderr
    assert all(word in json.loads(done.stdout)["error"]["message"] for word in words)
    assert "Traceback" not in done.stderr
    assert [file for file in sorted(folder.iterdir()) if file.name != "__pycache__"] == before


def test_help_has_examples(inside):
    done = inside("finetune", "--help")
    assert done.returncode == 0
    assert "cospipe finetune mymodels" in done.stdout
