import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_models import assert_agrees, save_graph
from torch import nn

from cospipe.backends.onnx.load import load_onnx
from cospipe.backends.tvm.importer import check_supported
from cospipe.ir.capture import capture, module_path
from cospipe.ir.errors import UnsupportedModelError

aten = torch.ops.aten


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Hardswish(),
        )
        self.classifier = nn.Linear(8, 5)

    def forward(self, image):
        features = self.features(image)
        larger = nn.functional.interpolate(features, scale_factor=2.0, mode="bilinear")
        return self.classifier(features.mean((2, 3))).softmax(1), larger


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True, activation="gelu")

    def forward(self, tokens):
        return self.layer(self.embedding(tokens))


def _exported(network, inputs, path, is_dynamo, names):
    torch.manual_seed(0)
    torch.onnx.export(network.eval(), inputs, str(path), dynamo=is_dynamo, input_names=names, verbose=False)
    return path


@pytest.fixture(params=[False, True], ids=["legacy", "dynamo"])
def is_dynamo(request):
    return request.param


def test_convolutions(tmp_path, is_dynamo):
    path = _exported(Convolutions(), (torch.randn(2, 3, 20, 20),), tmp_path / "net.onnx", is_dynamo, ["image"])
    network, inputs = load_onnx(path)
    assert_agrees(network, inputs, path, ["image"])
    graph_module = capture(network, inputs)
    check_supported(graph_module)
    targets = [node.target for node in graph_module.graph.nodes]
    assert targets.count(aten.conv2d.default) == 2
    assert targets.count(aten.linear.default) == 1
    assert [node.name for node in graph_module.graph.find_nodes(op="placeholder")] == ["image"]
    assert "classifier.weight" in dict(network.named_parameters())


def test_transformer_block(tmp_path, is_dynamo):
    path = _exported(Block(), (torch.randint(0, 11, (1, 7)),), tmp_path / "block.onnx", is_dynamo, ["tokens"])
    network, inputs = load_onnx(path)
    assert inputs[0].max() > 1  # drawn from all rows of the table
    assert_agrees(network, inputs, path, ["tokens"])
    graph_module = capture(network, inputs)
    check_supported(graph_module)
    assert [node.target for node in graph_module.graph.nodes].count(aten.linear.default) >= 3


def test_nodes_keep_their_names(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="/head/act/Relu"),
        helper.make_node("Exp", ["y"], ["z"], name="/head/act/Relu"),
    ]
    network, inputs = load_onnx(save_graph(tmp_path / "net.onnx", nodes, {"x": [2, 3]}, ["z"]))
    graph_module = capture(network, inputs)
    paths = [module_path(node) for node in graph_module.graph.nodes if node.op == "call_function"]
    assert paths == ["head.act.Relu", "head.act.Relu.Exp"]


def test_names_python_cannot_use(tmp_path):
    nodes = [helper.make_node("Mul", ["input.1", "a/train"], ["1"], name="a")]
    constants = {"a/train": np.full((2, 3), 2, np.float32)}
    path = save_graph(tmp_path / "net.onnx", nodes, {"input.1": [2, 3]}, ["1"], constants)
    network, inputs = load_onnx(path)
    assert_agrees(network, inputs, path, ["input.1"])
    assert list(dict(network.named_parameters())) == ["a.train_"]
    assert [node.target for node in network.graph.find_nodes(op="placeholder")] == ["input_1"]


def test_every_unsupported_node_is_told(tmp_path):
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"], name="places"),
        helper.make_node("Bernoulli", ["x"], ["noise"], name="noise"),
        helper.make_node("Add", ["noise", "noise"], ["sum"], name="sum"),
        helper.make_node("Reshape", ["x", "shape"], ["y"], name="arranged"),
    ]
    path = save_graph(
        tmp_path / "net.onnx",
        nodes,
        {"x": [2, 3], "shape": [2]},
        ["places", "sum", "y"],
        kinds={"shape": TensorProto.INT64, "places": TensorProto.INT64},
    )
    with pytest.raises(UnsupportedModelError) as caught:
        load_onnx(path)
    assert len(caught.value.problems) == 3
    assert "NonZero (places): its input 0 ('x') is computed from the data" in str(caught.value)
    assert "Bernoulli (noise): there is no rule for this operation" in str(caught.value)
    assert "Reshape (arranged): its input 1 ('shape')" in str(caught.value)


def test_outputs_that_are_inputs_or_constants(tmp_path):
    nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Neg", ["x"], ["y"])]
    path = save_graph(tmp_path / "net.onnx", nodes, {"x": [3]}, ["same", "c", "y"], {"c": np.ones(2, np.float32)})
    network, inputs = load_onnx(path)
    assert_agrees(network, inputs, path, ["x"])


def test_an_input_that_nobody_reads(tmp_path):
    path = save_graph(tmp_path / "n.onnx", [helper.make_node("Neg", ["x"], ["y"])], {"x": [3], "unread": [2]}, ["y"])
    network, inputs = load_onnx(path)
    assert [tuple(tensor.shape) for tensor in inputs] == [(3,), (2,)]
    assert_agrees(network, inputs, path, ["x", "unread"])


def test_a_matrix_that_others_read_too(tmp_path):
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "table"], ["logits"]),
        helper.make_node("Add", ["bias", "logits"], ["y"]),
    ]
    random = np.random.default_rng(0)
    constants = {"table": random.normal(size=(6, 6)).astype(np.float32), "bias": np.arange(6, dtype=np.float32)}
    path = save_graph(
        tmp_path / "tied.onnx", nodes, {"tokens": [2, 3]}, ["y"], constants, kinds={"tokens": TensorProto.INT64}
    )
    network, inputs = load_onnx(path)
    assert_agrees(network, inputs, path, ["tokens"])
    (layer,) = capture(network, inputs).graph.find_nodes(op="call_function", target=aten.linear.default)
    assert len(layer.args) == 3  # with the bias


def test_negative_indices_count_from_the_end(tmp_path):
    constants = {"table": np.arange(12, dtype=np.float32).reshape(4, 3)}
    nodes = [helper.make_node("Gather", ["table", "i"], ["y"])]
    path = save_graph(tmp_path / "t.onnx", nodes, {"i": [4]}, ["y"], constants, kinds={"i": TensorProto.INT64})
    network, _ = load_onnx(path)
    assert_agrees(network, (torch.tensor([-1, 0, -4, 3]),), path, ["i"])


def test_local_functions_are_inlined(tmp_path):
    double = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    nodes = [helper.make_node("Twice", ["x"], ["y"], domain="own")]
    path = save_graph(tmp_path / "f.onnx", nodes, {"x": [3]}, ["y"], functions=[double])
    network, inputs = load_onnx(path)
    assert_agrees(network, inputs, path, ["x"])


def test_goes_on_without_the_simplifier(tmp_path, monkeypatch, caplog):
    def fails(*_args, **_options):
        raise RuntimeError("no idea")

    monkeypatch.setattr("onnxslim.slim", fails)
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["size"]),
        helper.make_node("Concat", ["size", "minus"], ["flat"], axis=0),
        helper.make_node("Reshape", ["x", "flat"], ["y"]),
    ]
    constants = {"one": np.array([1]), "minus": np.array([-1])}
    path = save_graph(tmp_path / "net.onnx", nodes, {"x": [2, 3]}, ["y"], constants)
    network, inputs = load_onnx(path)
    assert "onnxslim fails and the graph stays as it is: no idea" in caplog.text
    assert_agrees(network, inputs, path, ["x"])
    assert len(list(network.buffers())) == 0  # shapes leave no trace


def test_strings_are_refused(tmp_path):
    constant = helper.make_tensor("words", TensorProto.STRING, [1], [b"a"])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["words"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [1])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [1])],
        [constant],
    )
    path = tmp_path / "strings.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    with pytest.raises(UnsupportedModelError, match="input 'x' has the type string, which is not supported"):
        load_onnx(path)
