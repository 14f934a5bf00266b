import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx_models import assert_agrees, save_graph

from cospipe.backends.onnx.load import load_onnx
from cospipe.ir.errors import UnsupportedModelError

FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


def _value(name, kind=FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def _graph(nodes, inputs, outputs, name="body"):
    return helper.make_graph(nodes, name, inputs, outputs)


def _rates(path):
    """At rate 16, the input doubled; otherwise its exponential: both read a value from outside."""
    then = _graph([helper.make_node("Add", ["x", "x"], ["then"])], [], [_value("then")])
    other = _graph([helper.make_node("Exp", ["x"], ["else"])], [], [_value("else")])
    nodes = [
        helper.make_node("Equal", ["rate", "sixteen"], ["is_sixteen"]),
        helper.make_node("If", ["is_sixteen"], ["y"], name="by_rate", then_branch=then, else_branch=other),
    ]
    constants = {"sixteen": np.array(16)}
    return save_graph(path, nodes, {"x": [3], "rate": []}, ["y"], constants, kinds={"rate": INT64})


@pytest.mark.parametrize("rate", [16, 8])
def test_the_branch_taken_is_inlined(tmp_path, rate):
    path = _rates(tmp_path / "rates.onnx")
    network, inputs = load_onnx(path, input_values={"rate": rate})
    assert len(inputs) == 1
    assert_agrees(network, inputs, path, ["x"], {"rate": np.array(rate)})
    assert ("Exp" in str(network)) == (rate == 8)


def test_a_branch_that_depends_on_data_is_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"If \(by_rate\): its condition 'is_sixteen' .*--input-value"):
        load_onnx(_rates(tmp_path / "rates.onnx"))


def _loop_body():
    nodes = [
        helper.make_node("Identity", ["go_on"], ["still"]),
        helper.make_node("Cast", ["round"], ["round_f"], to=FLOAT),
        helper.make_node("Add", ["state", "round_f"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "x"], ["next"]),
        helper.make_node("Identity", ["next"], ["seen"]),
    ]
    inputs = [_value("round", INT64, []), _value("go_on", BOOL, []), _value("state", FLOAT, [3])]
    return _graph(nodes, inputs, [_value("still", BOOL, []), _value("next"), _value("seen")])


def test_a_loop_with_a_known_number_of_rounds(tmp_path):
    nodes = [helper.make_node("Loop", ["rounds", "", "x"], ["last", "all"], body=_loop_body())]
    path = save_graph(tmp_path / "loop.onnx", nodes, {"x": [3]}, ["last", "all"], {"rounds": np.array(4)})
    network, inputs = load_onnx(path)
    assert_agrees(network, inputs, path, ["x"])


def test_a_loop_over_data_is_refused(tmp_path):
    nodes = [helper.make_node("Loop", ["rounds", "", "x"], ["last", "all"], name="over", body=_loop_body())]
    path = save_graph(tmp_path / "loop.onnx", nodes, {"x": [3], "rounds": []}, ["last", "all"], kinds={"rounds": INT64})
    with pytest.raises(UnsupportedModelError, match=r"Loop \(over\): the number of its rounds depends on the data"):
        load_onnx(path)


def test_scan(tmp_path):
    nodes = [helper.make_node("Add", ["sum_in", "step"], ["sum_out"]), helper.make_node("Neg", ["sum_out"], ["seen"])]
    body = _graph(
        nodes, [_value("sum_in", FLOAT, [2]), _value("step", FLOAT, [2])], [_value("sum_out"), _value("seen")]
    )
    scan = helper.make_node("Scan", ["start", "x"], ["total", "steps"], num_scan_inputs=1, body=body)
    path = save_graph(tmp_path / "scan.onnx", [scan], {"start": [2], "x": [5, 2]}, ["total", "steps"])
    network, inputs = load_onnx(path)
    assert_agrees(network, inputs, path, ["start", "x"])


def test_a_loop_ends_with_its_condition(tmp_path):
    body_nodes = [
        helper.make_node("Less", ["round", "last_round"], ["still"]),
        helper.make_node("Add", ["state", "state"], ["next"]),
    ]
    inputs = [_value("round", INT64, []), _value("go_on", BOOL, []), _value("state", FLOAT, [3])]
    body = _graph(body_nodes, inputs, [_value("still", BOOL, []), _value("next")])
    nodes = [helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)]
    constants = {"true": np.array(True), "last_round": np.array(2)}
    path = save_graph(tmp_path / "loop.onnx", nodes, {"x": [3]}, ["y"], constants)
    network, inputs = load_onnx(path)
    assert torch.equal(network(*inputs)[0], inputs[0] * 8)
    assert_agrees(network, inputs, path, ["x"])
