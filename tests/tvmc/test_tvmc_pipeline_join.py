"""Pipelines as ONNX files and a script: what is written, and the packages joined to a bundle again."""

import json
import shutil
import subprocess

import numpy as np
import onnxruntime
import pytest
from compiled_plans import on_cores, request_for_replicas
from stage_packages import write_stage_package, write_stage_packages

from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.tvm.pack_request import stage_parts
from cospipe.backends.tvm.tvmc.build_script import build_script
from cospipe.backends.tvm.tvmc.emit import emit_pipeline
from cospipe.backends.tvm.tvmc.join import join_packages
from cospipe.backends.tvm.tvmc.package import open_package
from cospipe.backends.tvm.tvmc.pipeline_file import is_pipeline_file, read_pipeline_file
from cospipe.backends.verify import verify_bundle
from cospipe.ir.errors import BundleError, UsageError, VerificationError
from cospipe.ir.plan import CoreConfiguration, Replica
from cospipe.ir.soc import load_soc
from cospipe.ir.tensor_file import map_tensors, write_tensors

HERE = {"kind": "llvm"}
"""The target of this machine, whatever chip is planned for."""


@pytest.fixture(scope="module")
def replicas():
    """Two types of cores for the first stage, and two clusters that share every kernel of the last."""
    spread = Replica(
        cores=(CoreConfiguration("big", 1), CoreConfiguration("little", 1)),
        cpu_ids=(5, 1),
        compute_us=1,
        sharing="by-speed",
    )
    return [(on_cores("big", (4,)), on_cores("big", (6, 7))), (on_cores("little", (0,)),), (spread,)]


@pytest.fixture(scope="module")
def pipeline_request(small_network, small_inputs, replicas):
    """The small network planned for a HiKey 970 and compiled for this machine."""
    return request_for_replicas(small_network, small_inputs, load_soc("hikey970"), replicas, machine=load_soc("host"))


@pytest.fixture(scope="module")
def emitted(pipeline_request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("emitted") / "stages"
    emit_pipeline(pipeline_request, "hikey970", folder)
    return folder


@pytest.fixture(scope="module")
def compiled_stages(pipeline_request, emitted, tmp_path_factory):
    """The directory with the packages that its script would compile."""
    folder = shutil.copytree(emitted, tmp_path_factory.mktemp("compiled_stages") / "stages")
    write_stage_packages(pipeline_request, read_pipeline_file(folder / "pipeline.json"), folder, HERE)
    return folder


@pytest.fixture
def stages(compiled_stages, tmp_path):
    return shutil.copytree(compiled_stages, tmp_path / "stages")


def outputs_of(network, inputs):
    return [output.detach().numpy() for output in network(*inputs)]


def edit(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def join_fails(folder, error=BundleError):
    with pytest.raises(error) as caught:
        join_packages(folder / "pipeline.json", folder / "app.tar")
    assert not (folder / "app.tar").exists()
    assert [file for file in folder.iterdir() if file.name.startswith(".")] == []
    return str(caught.value)


def test_a_pipeline_is_written_as_onnx_files_a_script_and_a_description(emitted):
    assert sorted(file.name for file in emitted.iterdir()) == [
        "README.txt",
        "build.sh",
        "pipeline.json",
        "reference.safetensors",
        "stage0.onnx",
        "stage1.onnx",
        "stage2.onnx",
    ]
    assert is_pipeline_file(emitted / "pipeline.json")
    assert not is_pipeline_file(emitted / "stage0.onnx")


def test_the_onnx_files_in_a_row_are_the_network(emitted, small_network, small_inputs):
    pipeline = read_pipeline_file(emitted / "pipeline.json")
    values = {spec.name: tensor.numpy() for spec, tensor in zip(pipeline.inputs, small_inputs, strict=True)}
    for stage in pipeline.stages:
        names = [spec.name for spec in stage.outputs]
        given = {spec.name: values[spec.name] for spec in stage.inputs}
        values.update(zip(names, onnxruntime.InferenceSession(emitted / stage.onnx).run(names, given), strict=True))
    for spec, expected in zip(pipeline.outputs, outputs_of(small_network, small_inputs), strict=True):
        np.testing.assert_allclose(values[spec.name], expected, rtol=0, atol=1e-4 * abs(expected).max())


def test_the_script_is_sound_and_compiles_each_build_of_each_stage_and_joins_them(emitted, tmp_path):
    calls = tmp_path / "calls"
    recorder = tmp_path / "recorder"
    recorder.write_text(f'#!/bin/sh\nfor word; do printf "%s|" "$word"; done >>{calls}\necho >>{calls}\n')
    recorder.chmod(0o755)
    command = ["sh", str(emitted / "build.sh"), "--cross-compiler", "a compiler"]
    subprocess.run(command, check=True, env={"TVMC": str(recorder), "PATH": "/usr/bin:/bin"})
    here, added = "--target|llvm", "--cross-compiler|a compiler"
    assert calls.read_text().splitlines() == [
        f"compile|stage0.onnx|--cores|hikey970:big:1|{here}|{added}|-o|stage0.tar|",
        f"compile|stage0.onnx|--cores|hikey970:big:2|{here}|{added}|-o|stage0-1.tar|",
        f"compile|stage1.onnx|--cores|hikey970:little:1|{here}|{added}|-o|stage1.tar|",
        f"compile|stage2.onnx|--cores|hikey970:big:1+little:1 by-speed|{here}|{added}|-o|stage2.tar|",
        "compile|pipeline.json|-o|app.tar|",
    ]


def test_a_script_for_another_chip_names_its_cores_only_and_keeps_winograd_out_where_it_was(emitted):
    pipeline = read_pipeline_file(emitted / "pipeline.json")
    script = build_script(pipeline.model_copy(update={"for_this_machine": False, "winograd": False}))
    assert "compile stage1.onnx --cores hikey970:little:1 -O 2 " in script
    assert "--target" not in script


def test_packages_are_joined_to_a_bundle_that_computes_what_pytorch_does(stages, small_network, small_inputs):
    package = open_package(join_packages(stages / "pipeline.json", stages / "app.tar"))
    assert verify_bundle(package).passed
    assert [stage.replica_builds for stage in package.manifest.stages] == [(0, 1), (0,), (0,)]
    assert [build.threads for build in package.manifest.stages[0].builds] == [1, 2]
    assert package.manifest.stages[2].shares_by_speed
    assert [node.name for node in package.manifest.generic_nodes] == ["mean", "mean_1"]
    frame = {spec.name: tensor.numpy() for spec, tensor in zip(package.manifest.inputs, small_inputs, strict=True)}
    with PipelineRunner(package) as runner:
        (outputs,) = runner.run([frame])
    for result, expected in zip(outputs.values(), outputs_of(small_network, small_inputs), strict=True):
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4 * abs(expected).max())


def test_an_earlier_package_is_replaced_but_nothing_else(stages):
    join_packages(stages / "pipeline.json", stages / "app.tar")
    join_packages(stages / "pipeline.json", stages / "app.tar")
    (stages / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no package"):
        join_packages(stages / "pipeline.json", stages / "notes.txt")
    assert (stages / "notes.txt").read_text() == "mine"


def test_every_missing_damaged_and_foreign_package_is_named(stages):
    join_packages(stages / "pipeline.json", stages / "whole.tar")
    (stages / "stage0.tar").unlink()
    (stages / "stage0-1.tar").write_bytes(b"nothing")
    (stages / "whole.tar").rename(stages / "stage1.tar")
    message = join_fails(stages)
    assert "stage0.tar is missing; build.sh compiles it" in message
    assert "stage0-1.tar" in message
    assert "stage1.tar holds a whole pipeline instead of a stage" in message


def test_packages_of_other_stages_are_refused(stages):
    shutil.copy(stages / "stage1.tar", stages / "stage2.tar")
    message = join_fails(stages)
    assert "stage2.tar takes relu (1x8x8x8 float32) instead of" in message
    assert "stage2.tar returns conv2d_2 (1x8x8x8 float32) instead of" in message


def test_packages_for_other_cores_are_refused(stages):
    shutil.copy(stages / "stage0.tar", stages / "stage0-1.tar")
    assert "stage0-1.tar was compiled for other cores; compile it again with --cores 'hikey970:big:2'" in join_fails(
        stages
    )


def test_packages_of_a_machine_with_other_cores_are_refused(stages):
    edit(stages / "pipeline.json", lambda values: values["stages"][1]["packages"][0]["target"].update(mcpu="another"))
    assert "stage1.tar was compiled on a machine with other cores than the one that wrote pipeline.json" in join_fails(
        stages
    )


def test_packages_for_another_architecture_are_refused(stages):
    edit(stages / "pipeline.json", lambda values: values.update(architecture="aarch64"))
    machine = load_soc("host").architecture
    if machine == "aarch64":
        pytest.skip("this machine is what the test wants another one than")
    assert f"stage0.tar is for {machine} instead of aarch64" in join_fails(stages)


def test_packages_of_different_versions_of_tvm_are_refused(pipeline_request, stages):
    pipeline = read_pipeline_file(stages / "pipeline.json")
    part, stage = stage_parts(pipeline_request.pipeline)[1], pipeline.stages[1]
    write_stage_package(part, stage, stage.packages[0], stages / "stage1.tar", HERE, tvm_version="0.26.0")
    assert "they were compiled with different versions of TVM" in join_fails(stages)


def test_an_altered_reference_is_refused(stages):
    values = map_tensors(stages / "reference.safetensors")
    write_tensors(stages / "reference.safetensors", {name: value + 1 for name, value in values.items()})
    assert "reference.safetensors was altered" in join_fails(stages)


def test_a_pipeline_that_computes_other_numbers_is_not_written(pipeline_request, stages):
    pipeline = read_pipeline_file(stages / "pipeline.json")
    part, stage = stage_parts(pipeline_request.pipeline)[1], pipeline.stages[1]
    module = part.module
    bias = module.get_parameter("middle.0.bias")
    before = bias.data.clone()
    bias.data += 1
    try:
        write_stage_package(part, stage, stage.packages[0], stages / "stage1.tar", HERE)
    finally:
        bias.data.copy_(before)
    assert "computes other numbers than eager PyTorch" in join_fails(stages, VerificationError)


def test_weights_that_differ_among_the_packages_of_a_stage_are_refused(pipeline_request, stages):
    pipeline = read_pipeline_file(stages / "pipeline.json")
    part, stage = stage_parts(pipeline_request.pipeline)[0], pipeline.stages[0]
    bias = part.module.get_parameter("first.0.bias")
    before = bias.data.clone()
    bias.data += 1
    try:
        write_stage_package(part, stage, stage.packages[1], stages / "stage0-1.tar", HERE)
    finally:
        bias.data.copy_(before)
    assert "stage0-1.tar has other values of first.0.bias than stage0.tar" in join_fails(stages)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: values.update(version=2), "version 2, this version of cospipe reads 1"),
        (lambda values: values.pop("plan"), "plan: Field required"),
        (lambda values: values["stages"].pop(), "the stages of the plan and of the files differ"),
        (
            lambda values: values["stages"][0].update(replica_builds=[0]),
            "stage0 has 2 packages, its replicas run others",
        ),
        (lambda values: values["files"].pop("reference.safetensors"), "no SHA-256 is given for reference.safetensors"),
        (lambda values: values["stages"][0].update(onnx="../stage0.onnx"), "is not a path inside the bundle"),
    ],
)
def test_mistakes_in_the_description_are_said(emitted, tmp_path, change, reason):
    file = tmp_path / "pipeline.json"
    shutil.copy(emitted / "pipeline.json", file)
    edit(file, change)
    with pytest.raises(BundleError) as caught:
        read_pipeline_file(file)
    assert reason in str(caught.value)


def test_a_description_that_is_no_json(tmp_path):
    file = tmp_path / "pipeline.json"
    file.write_text('{"format": "cospipe-pipeline"')
    assert is_pipeline_file(file)
    with pytest.raises(BundleError, match="is not a pipeline: it is not valid JSON"):
        read_pipeline_file(file)


def test_writing_again_replaces_the_pipeline_and_its_packages_but_nothing_else(pipeline_request, stages, monkeypatch):
    from cospipe.backends.tvm.tvmc import emit

    monkeypatch.setattr(emit, "export_stage", lambda module, example, path, *names: path.write_bytes(b"onnx"))
    emit_pipeline(pipeline_request, "hikey970", stages)
    assert not (stages / "stage0.tar").exists()
    (stages / "mine.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match=r"holds files that are not the pipeline's \(mine.onnx\)"):
        emit_pipeline(pipeline_request, "hikey970", stages)
    (stages / "mine.onnx").unlink()
    (stages / "pipeline.json").unlink()
    with pytest.raises(UsageError, match="exists and is no pipeline of ONNX files"):
        emit_pipeline(pipeline_request, "hikey970", stages)


def test_a_failure_leaves_the_earlier_pipeline(pipeline_request, stages, monkeypatch):
    from cospipe.backends.tvm.tvmc import emit

    def fail(*_):
        raise OSError("No space left on device")

    before = {file.name: file.read_bytes() for file in stages.iterdir()}
    monkeypatch.setattr(emit, "export_stage", fail)
    with pytest.raises(BundleError, match="No space left on device"):
        emit_pipeline(pipeline_request, "hikey970", stages)
    assert {file.name: file.read_bytes() for file in stages.iterdir()} == before
    assert [file.name for file in stages.parent.iterdir()] == ["stages"]


def test_the_description_of_a_chip_goes_with_the_script(pipeline_request, tmp_path, monkeypatch):
    from importlib import resources

    from cospipe.backends.tvm.tvmc import emit

    monkeypatch.setattr(emit, "export_stage", lambda module, example, path, *names: path.write_bytes(b"onnx"))
    board = tmp_path / "my board.toml"
    board.write_bytes((resources.files("cospipe.ir") / "socs" / "hikey970.toml").read_bytes())
    emit_pipeline(pipeline_request, str(board), tmp_path / "stages")
    assert (tmp_path / "stages" / "soc.toml").read_bytes() == board.read_bytes()
    assert "--cores soc.toml:little:1 " in (tmp_path / "stages" / "build.sh").read_text()
