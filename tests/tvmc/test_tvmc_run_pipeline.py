"""``tvmc run`` of a pipeline: a package of one, or a bundle as it is."""

import shutil

import numpy as np
import pytest

from cospipe.backends.runtime.compare import relative_error
from cospipe.backends.tvm.tvmc.package import write_bundle_archive
from cospipe.tvmc.main import _main


@pytest.fixture(scope="module")
def package(compiled, tmp_path_factory):
    output = tmp_path_factory.mktemp("pipeline") / "app.tar"
    write_bundle_archive(compiled.bundle, output)
    return output


def run(*arguments):
    return _main(["run", *map(str, arguments)])


def test_outputs_are_those_of_pytorch(package, compiled, small_network, small_inputs, tmp_path):
    inputs = {name: value.numpy() for name, value in zip(("image", "offset"), small_inputs, strict=True)}
    np.savez(tmp_path / "in.npz", **inputs)
    shutil.make_archive(str(tmp_path / "bundle"), "zip", compiled.bundle.folder)
    expected = [tensor.detach().numpy() for tensor in small_network(*small_inputs)]
    for path in (package, compiled.bundle.folder, tmp_path / "bundle.zip"):
        assert run(path, "-i", tmp_path / "in.npz", "-o", tmp_path / "out.npz") == 0
        with np.load(tmp_path / "out.npz") as outputs:
            assert list(outputs) == ["output_0", "output_1"]
            assert relative_error(outputs["output_0"], expected[0]) < 1e-4
            assert relative_error(outputs["output_1"], expected[1]) < 1e-4


def test_stages_are_profiled_and_frames_timed(package, compiled, capsys):
    assert run(package, "--profile", "--print-time", "--number", 4, "--repeat", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["Stage", "Cores"]
    assert [line.split()[0] for line in lines[2:5]] == [stage.name for stage in compiled.bundle.manifest.stages]
    assert lines[5].startswith("Period ")
    assert lines[6] == "Execution time summary:"


def test_inputs_that_do_not_fit(package, tmp_path, capsys):
    np.savez(tmp_path / "in.npz", picture=np.zeros(3))
    assert run(package, "-i", tmp_path / "in.npz") == 4
    assert "'picture' is no input of it; its inputs are image (1x3x16x16 float32)" in capsys.readouterr().err


def test_pipelines_are_not_run_through_rpc(package, capsys):
    assert run(package, "--rpc-tracker", "board") == 4
    assert "copy it to the board and run it there" in capsys.readouterr().err
