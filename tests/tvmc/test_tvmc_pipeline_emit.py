"""``cospipe optimize --emit tvmc`` as a user calls it, and the way back through the tvmc commands it writes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command import caller

from cospipe.backends.onnx import export
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.tvm.tvmc import emit
from cospipe.backends.tvm.tvmc.package import open_package
from cospipe.backends.verify import verify_bundle

NETWORK = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
"""
PLAN = ["optimize", "small_nets:small", "--input-shape", "1,3,8,8", "--soc", "hikey970"]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    (tmp_path / "small_nets.py").write_text(NETWORK)
    return caller(tmp_path, monkeypatch, capsys)


@pytest.fixture
def without_export(monkeypatch):
    """Stages that are not really exported, which takes seconds each."""
    monkeypatch.setattr(emit, "export_stage", lambda module, example, path, *names: path.write_bytes(b"onnx"))


def test_the_command_says_what_was_written_and_how_to_go_on(command, without_export, tmp_path):
    told = command(*PLAN, "--emit", "tvmc", "-o", "stages")
    assert told.returncode == 0
    assert "stages: stage0.onnx; compile and join them with: sh stages/build.sh" in told.stdout
    assert os.access(tmp_path / "stages" / "build.sh", os.X_OK)
    assert "--cores hikey970:" in (tmp_path / "stages" / "build.sh").read_text()
    described = json.loads((tmp_path / "stages" / "pipeline.json").read_text())
    nodes = described["stages"][0]["packages"][0]["nodes"]
    replica = described["plan"]["stages"][0]["replicas"][0]
    assert sum(node["predicted_us"] for node in nodes) == pytest.approx(replica["compute_us"])


def test_the_command_says_the_same_as_json(command, without_export):
    told = json.loads(command(*PLAN, "--emit", "tvmc", "-o", "stages", "--json").stdout)
    assert told["pipeline"] == "stages"
    assert "stage0.onnx" in told["files"]
    assert told["plan"]["soc"] == "hikey970"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--emit", "tvm"], "There is no output form 'tvm' for --emit. Did you mean tvmc?"),
        (["--emit", "tvmc", "--runner"], "leave it out with --emit tvmc"),
        (["--emit", "tvmc", "-o", "."], "is no pipeline of ONNX files"),
        (
            ["--emit", "tvmc", "--passes", "insert-adapters{n=5,selection=low},merge-adapters{at=load}"],
            "leave merge-adapters{at=load} out",
        ),
    ],
)
def test_mistakes_are_told_in_a_sentence(command, tmp_path, arguments, reason):
    told = command(*PLAN, *(arguments if "-o" in arguments else [*arguments, "-o", "stages"]))
    assert told.returncode == 2
    assert reason in " ".join(told.stderr.split())
    assert [file.name for file in tmp_path.iterdir()] == ["small_nets.py"]


def test_missing_packages_are_told_before_anything_is_planned(command, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda package: None)
    told = command(*PLAN, "--emit", "tvmc", "-o", "stages")
    assert told.returncode == 2
    assert "pip install 'cospipe[onnx]'" in told.stderr
    assert "Capturing" not in told.stderr


@pytest.mark.slow
def test_the_script_rebuilds_what_optimize_would_have_made(command, tmp_path):
    here = [*PLAN, "--target", "host"]
    assert command(*here, "--emit", "tvmc", "-o", "stages").returncode == 0
    environment = {**os.environ, "TVMC": f"{sys.executable} -m cospipe.tvmc"}
    subprocess.run(["sh", str(tmp_path / "stages" / "build.sh")], check=True, env=environment)
    joined = open_package(tmp_path / "stages" / "app.tar")
    assert verify_bundle(joined).passed

    assert command(*here, "-o", "direct").returncode == 0
    direct = open_package(tmp_path / "direct")
    for said in ("model", "architecture", "passes", "winograd", "inputs", "outputs", "generic_nodes"):
        assert getattr(joined.manifest, said) == getattr(direct.manifest, said), said
    assert joined.manifest.plan.stages == direct.manifest.plan.stages
    assert [stage.replica_builds for stage in joined.manifest.stages] == [
        stage.replica_builds for stage in direct.manifest.stages
    ]
    frame = {spec.name: joined.reference()[spec.name] for spec in joined.manifest.inputs}
    for one, other in zip(outputs(joined, frame), outputs(direct, frame), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * abs(other).max())


def outputs(bundle, frame):
    with PipelineRunner(bundle) as runner:
        (results,) = runner.run([frame])
    return list(results.values())
