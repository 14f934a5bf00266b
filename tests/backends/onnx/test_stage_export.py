"""Stages as ONNX files: the numbers of the stage, the names of the plan, and sentences for what ONNX cannot say."""

import onnx
import onnxruntime
import pytest
import torch
from compiled_plans import on_cores, request_for_replicas
from torch import nn

from cospipe.backends.onnx import export
from cospipe.backends.onnx.export import export_stage
from cospipe.backends.onnx.exported_names import graph_node_name
from cospipe.backends.tvm.pack import reference_values
from cospipe.backends.tvm.pack_request import stage_parts
from cospipe.ir.capture import capture
from cospipe.ir.errors import LoweringError, UsageError
from cospipe.ir.soc import load_soc


@pytest.fixture(scope="module")
def request_in_three(small_network, small_inputs):
    replicas = [(on_cores("big", (cpu,)),) for cpu in (4, 5, 6)]
    return request_for_replicas(small_network, small_inputs, load_soc("hikey970"), replicas)


@pytest.fixture(scope="module")
def parts(request_in_three):
    return stage_parts(request_in_three.pipeline)


@pytest.fixture(scope="module")
def values(request_in_three):
    return reference_values(request_in_three.pipeline, request_in_three.example_inputs, request_in_three.expected)


@pytest.fixture(scope="module")
def files(parts, values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    for part in parts:
        inputs = tuple(torch.from_numpy(values[name].copy()) for name in part.inputs)
        export_stage(part.module, inputs, folder / f"{part.name}.onnx", part.inputs, part.outputs)
    return [folder / f"{part.name}.onnx" for part in parts]


def exported(module, inputs, path, **options):
    graph = capture(module.eval(), inputs)
    names = [node.name for node in graph.graph.find_nodes(op="placeholder")]
    export_stage(graph, inputs, path, names, ["result"], **options)
    return onnx.load(path), names


def agrees(path, names, inputs, expected):
    results = onnxruntime.InferenceSession(path).run(
        None, dict(zip(names, (value.numpy() for value in inputs), strict=True))
    )
    scale = float(expected.abs().max())
    return abs(results[0] - expected.numpy()).max() < 1e-4 * scale


def test_stages_compute_in_onnxruntime_what_they_compute_in_pytorch(parts, files, values):
    for part, file in zip(parts, files, strict=True):
        session = onnxruntime.InferenceSession(file)
        results = session.run(list(part.outputs), {name: values[name] for name in part.inputs})
        for name, result in zip(part.outputs, results, strict=True):
            assert abs(result - values[name]).max() < 1e-4 * abs(values[name]).max(), (part.name, name)


def test_inputs_and_outputs_are_called_as_in_the_plan(parts, files):
    for part, file in zip(parts, files, strict=True):
        graph = onnx.load(file).graph
        assert [value.name for value in graph.input] == list(part.inputs)
        assert [value.name for value in graph.output] == list(part.outputs)


def test_nodes_are_called_after_their_modules_and_the_nodes_of_the_stage(parts, files):
    nodes = [node.name for node in onnx.load(files[1]).graph.node]
    assert "middle.0/conv2d_1" in nodes
    in_stage = {node.name for node in parts[1].module.graph.nodes}
    assert {graph_node_name(name) for name in nodes} <= in_stage
    assert len(set(nodes)) == len(nodes)


def test_weights_keep_the_names_they_have_in_the_model(files):
    names = {tensor.name for tensor in onnx.load(files[1]).graph.initializer}
    assert {"middle.0.weight", "middle.0.bias", "middle.2.weight"} <= names


def test_files_pass_the_checker_and_hold_no_notes_of_the_machine_that_wrote_them(files):
    for file in files:
        onnx.checker.check_model(str(file), full_check=True)
        assert b".py" not in file.read_bytes()


def test_a_transformer_layer_at_the_newest_opset(tmp_path):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    inputs = (torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0)),)
    model, names = exported(layer, inputs, tmp_path / "layer.onnx", opset=22)
    assert model.opset_import[0].version == 22
    with torch.no_grad():
        assert agrees(tmp_path / "layer.onnx", names, inputs, layer(*inputs))


def test_an_opset_that_cannot_be_written(parts, tmp_path):
    with pytest.raises(UsageError, match="opset 18 to 22, not 17"):
        export_stage(parts[0].module, (), tmp_path / "stage.onnx", (), (), opset=17)


def test_large_weights_get_a_file_of_their_own_at_the_oldest_opset_too(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_MOST_BYTES_INSIDE", 1000)
    inputs = (torch.randn(2, 64, generator=torch.Generator().manual_seed(0)),)
    linear = nn.Linear(64, 32)
    model, names = exported(linear, inputs, tmp_path / "linear.onnx", opset=18)
    assert model.opset_import[0].version == 18
    assert sorted(file.name for file in tmp_path.iterdir()) == ["linear.onnx", "linear.onnx.data"]
    assert (tmp_path / "linear.onnx.data").stat().st_size >= 64 * 32 * 4
    with torch.no_grad():
        assert agrees(tmp_path / "linear.onnx", names, inputs, linear(*inputs))


def test_an_operation_the_exporter_lacks_is_named_and_nothing_is_left(tmp_path):
    class Distribution(nn.Module):
        def forward(self, values):
            return torch.special.log_ndtr(torch.special.airy_ai(values))

    with pytest.raises(LoweringError, match=r"stage\d* cannot be written as ONNX: .*airy_ai"):
        exported(Distribution(), (torch.ones(3),), tmp_path / "stage0.onnx")
    assert list(tmp_path.iterdir()) == []


def test_adapters_that_are_folded_when_the_stage_is_loaded_have_no_place_in_onnx(small_network, small_inputs, tmp_path):
    passes = "insert-adapters{n=20,selection=low},merge-adapters{at=load}"
    replicas = [(on_cores("big", (4,)),)]
    request = request_for_replicas(small_network, small_inputs, load_soc("hikey970"), replicas, passes)
    (part,) = stage_parts(request.pipeline)
    with pytest.raises(UsageError, match=r"leave merge-adapters\{at=load\} out"):
        export_stage(part.module, small_inputs, tmp_path / "stage.onnx", part.inputs, part.outputs)


def test_missing_packages_are_named_with_the_command_that_installs_them(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda package: None)
    with pytest.raises(UsageError, match=r"needs onnx and onnxscript; install with: pip install 'cospipe\[onnx\]'"):
        export_stage(parts[0].module, (), tmp_path / "stage.onnx", (), ())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("features.0/conv2d", "conv2d"), ("features.0/linear.2", "linear"), ("layers.1.add_3.1", "add_3"), ("x", "x")],
)
def test_names_lead_back_to_the_graph(name, expected):
    assert graph_node_name(name) == expected
