import torch
from torch import nn

from cospipe.ir.annotations import LAYER
from cospipe.ir.capture import capture
from cospipe.ir.layer import LayerKind
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.insert_adapters import InsertAdapters


def annotated():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    x = torch.randn(1, 3, 8, 8)
    graph_module = capture(model, (x,))
    before = graph_module.code
    result = AnnotateLayers()(graph_module)
    assert result.modified
    assert graph_module.code == before
    return model, x, graph_module


def test_every_call_has_a_layer_and_nothing_else_has():
    _, _, graph_module = annotated()
    kinds = [layer.kind for node in graph_module.graph.nodes if (layer := LAYER.get(node))]
    assert kinds == [
        LayerKind.CONV,
        LayerKind.NORMALISATION,
        LayerKind.RESHAPE,
        LayerKind.ELEMENTWISE,
        LayerKind.RESHAPE,
        LayerKind.LINEAR,
    ]
    others = [node for node in graph_module.graph.nodes if node.op in ("placeholder", "get_attr", "output")]
    assert all(LAYER.get(node) is None for node in others)


def test_fused_names_are_nodes_of_the_graph():
    _, _, graph_module = annotated()
    fused = {
        node.name: LAYER.require(node).fused_into for node in graph_module.graph.nodes if node.op == "call_function"
    }
    assert fused["relu"] == "conv2d"
    assert {name for name in fused.values() if name} <= set(fused)


def test_numbers_do_not_change():
    model, x, graph_module = annotated()
    assert torch.equal(graph_module(x)[0], model(x))


def test_second_run_changes_nothing():
    _, _, graph_module = annotated()
    assert not AnnotateLayers()(graph_module).modified


def test_adapter_modules_are_described_and_cost_nothing():
    _, _, graph_module = annotated()
    InsertAdapters(n=4)(graph_module)
    AnnotateLayers()(graph_module)
    delta = next(node for node in graph_module.graph.nodes if node.op == "call_module")
    assert LAYER.require(delta).kind is LayerKind.RESHAPE
    assert LAYER.require(delta).total_bytes == LAYER.require(delta).macs == 0
    conv = next(node for node in graph_module.graph.nodes if "conv2d" in str(node.target))
    assert LAYER.require(conv).weight_bytes == 4 * (4 * 27 + 4)


def test_text_form():
    assert str(AnnotateLayers()) == "annotate-layers"
