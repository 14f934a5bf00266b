"""``cospipe finetune``, called as a user calls it."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from command import caller
from PIL import Image
from sklearn.datasets import load_digits

MODEL = """
import torch
from torch import nn


def digit_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 12))


def colour_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
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


def interrupted(arguments, folder, when):
    """Send Ctrl-C to the command as soon as it prints a line; returns its exit code and all it printed."""
    command = [sys.executable, "-m", "cospipe.cli", *arguments]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    told = ""
    for line in process.stderr:
        told += line
        if line.startswith(when):
            process.send_signal(signal.SIGINT)
    return process.wait(timeout=60), told


def test_interrupting_before_the_training_leaves_nothing(folder):
    before = {file.name for file in folder.iterdir()}
    code, told = interrupted(ARGUMENTS, folder, "Reading the data")
    # CPython may die of the signal itself, when it arrives inside exec(); for a shell both are 130
    assert code in (130, -signal.SIGINT)
    assert "Interrupted" in told
    assert "nothing half-written was left behind" in told
    assert {file.name for file in folder.iterdir()} - {"__pycache__"} == before


def test_restart_forgets_what_was_interrupted(inside, folder):
    arguments = *ARGUMENTS, "--epochs", "40", "--patience", "40", "--batch", "128"
    interrupted(arguments, folder, "Epoch 1 ")
    assert (folder / "a.safetensors.checkpoint").exists()
    done = inside(*ARGUMENTS, "--epochs", "1", "--restart")
    assert done.returncode == 0, done.stderr
    assert "Continuing" not in done.stderr
    assert not (folder / "a.safetensors.checkpoint").exists()


def test_images_in_folders(inside, folder):
    random = np.random.RandomState(0)
    for name, channel in (("red", 0), ("blue", 2)):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.randint(0, 100, (9, 12, 3))
            pixels[..., channel] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "photos" / name / f"{number}.png")
    arguments = "finetune", "digit_nets:colour_net", "--data", "photos", "-o", "colours.safetensors"
    options = "--input-shape", "1,3,8,8", "--epochs", "5", "--batch", "8", "--learning-rate", "0.05", "--json"
    done = inside(*arguments, *options, "--validation", "0.25")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["classes"] == ["blue", "red"]
    assert values["examples"] == {"train": 18, "validation": 6, "test": 0}
    assert values["validation_accuracy"] == 1
    shown = inside("adapter", "info", "colours.safetensors")
    assert "classes: blue, red" in shown.stdout


def test_interrupting_and_continuing(inside, folder):
    # long enough that the signal arrives before the end, however busy the machine is
    arguments = *ARGUMENTS, "--epochs", "40", "--patience", "40", "--batch", "128"
    inside(*arguments, "-o", "whole.safetensors")
    code, told = interrupted(arguments, folder, "Epoch 2 ")
    assert code == 130
    assert "a.safetensors.checkpoint keeps what was done; the same command continues" in told
    assert not (folder / "a.safetensors").exists()
    other = inside(*arguments, "--batch", "16")
    assert other.returncode == 2
    assert "batch: 128 then, 16 now" in other.stderr
    done = inside(*arguments)
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
        (["--mean", "0,nan,0"], 2, ["--mean takes three numbers"]),
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
