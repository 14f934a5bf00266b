"""The examples run as their users run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cospipe.backends.bundle import open_bundle
from cospipe.backends.emulator.qemu import find_emulator
from cospipe.ir.adapter_file import read_adapter
from cospipe.ir.errors import EmulatorError

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments, folder):
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


def output_of(name, *arguments, folder):
    done = run(name, *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_help_shows_an_example(name, tmp_path):
    text = output_of(name, "--help", folder=tmp_path)
    assert f"Example: python examples/{name}" in text


@pytest.mark.slow
def test_optimize_and_run(tmp_path):
    text = output_of("01_optimize_and_run.py", "--model", "squeezenet1_1", "--size", 64, "--frames", 5, folder=tmp_path)
    difference = re.search(r"last of 5 frames: (\S+) of its scale", text)
    assert float(difference[1]) < 1e-4
    assert "a result every" in text
    assert open_bundle(tmp_path / "build" / "host").manifest.model == "SqueezeNet"


@pytest.mark.slow
@pytest.mark.emulated
def test_cross_compile(tmp_path):
    try:
        find_emulator()
    except EmulatorError as error:
        if "COSPIPE_REQUIRE_EMULATOR" in os.environ:
            raise
        pytest.skip(str(error))
    text = output_of("02_cross_compile.py", "--soc", "rk3399", "--size", 64, folder=tmp_path)
    assert re.search(r"^whole .* ok$", text, re.MULTILINE)
    assert "wrong" not in text
    assert open_bundle(tmp_path / "build" / "board").manifest.architecture == "aarch64"


@pytest.mark.slow
def test_own_board(tmp_path):
    text = output_of("03_own_board.py", "--like", "vim3", "--model", "squeezenet1_1", folder=tmp_path)
    rows = re.findall(
        r"^(big|little|big\+little) +(throughput|latency) +(\d+) +(\S+) ms +(\S+) ms$", text, re.MULTILINE
    )
    assert len(rows) == 6
    period_ms = {(cores, objective): float(period) for cores, objective, _, period, _ in rows}
    latency_ms = {(cores, objective): float(latency) for cores, objective, *_, latency in rows}
    assert period_ms["big+little", "throughput"] < min(
        period_ms["big", "throughput"], period_ms["little", "throughput"]
    )
    assert latency_ms["big+little", "latency"] <= latency_ms["big+little", "throughput"]


def test_own_board_reports_all_mistakes(tmp_path):
    assert run("03_own_board.py", "--like", "host", folder=tmp_path).returncode == 2
    (tmp_path / "broken.toml").write_text('name = "Broken"\nhand_over_us = -1\n')
    done = run("03_own_board.py", "--board", "broken.toml", folder=tmp_path)
    assert done.returncode == 1
    assert "hand_over_us" in done.stderr
    assert "clusters" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_adapters_learn_and_survive_compilation(tmp_path):
    text = output_of("04_adapters.py", "--steps", 12, folder=tmp_path)
    before, after, compiled = map(float, re.findall(r"held-out accuracy.*: (\d+)%", text))
    assert after > before
    assert after >= 90
    assert compiled == after
    assert "training 5000 of" in text


@pytest.mark.slow
def test_exchange_weights(tmp_path):
    text = output_of("05_exchange_weights.py", "--size", 64, folder=tmp_path)
    found = re.findall(r"(first|second) bundle: (\S+) from the first network, (\S+) from the second", text)
    distance = {name: (float(to_first), float(to_second)) for name, to_first, to_second in found}
    assert distance["first"][0] < 1e-4 < distance["first"][1]
    assert distance["second"][1] < 1e-4 < distance["second"][0]


@pytest.mark.slow
def test_sentence_adapters_learn_and_load_again(tmp_path):
    options = "--steps", 40, "--n", 64, "--selection", "random", "--output", "reviews.safetensors"
    text = output_of("06_sentence_adapters.py", *options, folder=tmp_path)
    before, after = map(float, re.findall(r"held-out accuracy.*: (\S+)%", text))
    assert before < 60 < 65 < after
    assert "training 768 coefficients" in text
    file = tmp_path / "reviews.safetensors"
    assert f"reviews.safetensors: {file.stat().st_size} bytes" in text
    stored = read_adapter(file)
    assert stored.coefficient_count == 12 * 64
    assert set(stored.trained) == {"classifier.weight", "classifier.bias"}
    assert "the same answer to 500 of 500 sentences" in text


@pytest.mark.slow
def test_adapters_are_swapped_in_one_compiled_pipeline(tmp_path):
    text = output_of("adapter_swap.py", "--steps", 8, "--size", 64, "--coefficients", 30, folder=tmp_path)
    accuracy = dict(re.findall(r"accuracy of the compiled pipeline on (\w+): (\d+)%", text))
    assert accuracy.keys() == {"digits", "faces"}
    assert float(accuracy["faces"]) >= 75  # half of the patches are faces
    assert float(accuracy["digits"]) > 10
    frames, answers = map(int, re.search(r"(\d+) frames went in, (\d+) answers came out", text).groups())
    assert frames == answers == 449 + 50  # every fourth of 1,797 digits and of 200 patches
    assert re.findall(r"adapter (\w+) from frame (\d+) on", text) == [("digits", "0"), ("faces", "449")]
    assert text.count("compiled once") == 1
