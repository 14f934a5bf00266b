import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import assert_agrees, save_graph

from cospipe.backends.onnx.load import load_onnx
from cospipe.ir.errors import CaptureError, UsageError


def _image_net(path, shape=("batch", 3, "height", "width"), opset=18):
    nodes = [helper.make_node("Relu", ["image"], ["y"])]
    return save_graph(path, nodes, {"image": shape}, ["y"], opset=opset)


def _sum(path, left, right):
    return save_graph(path, [helper.make_node("Add", ["a", "b"], ["y"])], {"a": left, "b": right}, ["y"])


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="There is no file"):
        load_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("content", [b"this is text, not protobuf", b""])
def test_not_an_onnx_file(tmp_path, content):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(CaptureError, match=r"net\.onnx is not an ONNX file"):
        load_onnx(path)


def test_truncated_file(tmp_path):
    path = _image_net(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CaptureError, match=r"net\.onnx is not a"):
        load_onnx(path)


def test_invalid_graph(tmp_path):
    nodes = [helper.make_node("Relu", ["nowhere"], ["y"])]
    path = save_graph(tmp_path / "net.onnx", nodes, {"x": [1]}, ["y"])
    with pytest.raises(CaptureError, match=r"is not a valid ONNX file.*nowhere"):
        load_onnx(path)


def _with_external_data(folder):
    constants = {"w": np.arange(600, dtype=np.float32).reshape(20, 30)}
    path = save_graph(
        folder / "net.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [2, 20]}, ["y"], constants
    )
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.data", size_threshold=0)
    return path


def test_external_data(tmp_path):
    path = _with_external_data(tmp_path)
    network, inputs = load_onnx(path)
    assert_agrees(network, inputs, path, ["x"])


def test_missing_external_data(tmp_path):
    path = _with_external_data(tmp_path)
    (tmp_path / "net.data").unlink()
    with pytest.raises(CaptureError, match=r"keeps its weights in other files.*net\.data"):
        load_onnx(path)


def test_too_new_opset(tmp_path):
    path = _image_net(tmp_path / "net.onnx", [1, 3, 8, 8])
    model = onnx.load(path)
    model.opset_import[0].version = 23
    onnx.save(model, path)
    with pytest.raises(CaptureError, match="uses opset 23; 11 to 22 are supported"):
        load_onnx(path)


def test_old_opset_is_converted(tmp_path):
    path = _image_net(tmp_path / "net.onnx", [1, 3, 8, 8], opset=9)
    network, inputs = load_onnx(path)
    assert_agrees(network, inputs, path, ["image"])


def test_weights_that_are_inputs_too(tmp_path):
    """As files of ONNX's IR 3 have them."""
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    path = save_graph(
        tmp_path / "net.onnx", nodes, {"x": [2, 3], "w": [3]}, ["y"], {"w": np.arange(3, dtype=np.float32)}
    )
    network, inputs = load_onnx(path)
    assert_agrees(network, inputs, path, ["x"])


@pytest.mark.parametrize("shapes", [[(2, 3, 8, 6)], {"image": (2, 3, 8, 6)}])
def test_given_shapes(tmp_path, shapes):
    path = _image_net(tmp_path / "net.onnx")
    network, inputs = load_onnx(path, shapes)
    assert inputs[0].shape == (2, 3, 8, 6)
    assert_agrees(network, inputs, path, ["image"])


@pytest.mark.parametrize("batch", ["N", None])
def test_an_open_batch_is_one(tmp_path, batch):
    _, inputs = load_onnx(_image_net(tmp_path / "net.onnx", [batch, 3, 4, 4]))
    assert inputs[0].shape == (1, 3, 4, 4)


def test_open_sizes_are_told(tmp_path):
    with pytest.raises(UsageError) as caught:
        load_onnx(_image_net(tmp_path / "net.onnx", ["batch", 3, None, "width"]))
    assert "--input-shape image:1,3,224,224" in str(caught.value)
    assert "image: batch,3,?,width" in str(caught.value)


def test_a_named_size_is_the_same_everywhere(tmp_path):
    path = _sum(tmp_path / "net.onnx", ["length", 2], ["length", "width"])
    _, inputs = load_onnx(path, {"a": (5, 2), "b": (5, 2)})
    assert [tuple(tensor.shape) for tensor in inputs] == [(5, 2), (5, 2)]
    with pytest.raises(UsageError, match="input 'b': dimension 0 'length' is 4, but it has to be 5"):
        load_onnx(path, [(5, 2), (4, 2)])


def test_a_name_fixed_by_one_input_is_known_for_the_other(tmp_path):
    path = _sum(tmp_path / "net.onnx", ["length", "width"], ["length", "width"])
    _, inputs = load_onnx(path, {"a": (5, 2)})
    assert inputs[1].shape == (5, 2)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(1, 3, 8)], r"1,3,8 has 3 dimension\(s\), the file batch,3,height,width"),
        ([(1, 4, 8, 8)], "dimension 1 is 4, but it has to be 3"),
        ([(0, 3, 8, 8)], "must be positive"),
        ([(1, 3, 8, 8), (1,)], r"There are 2 input shapes, but 1 input\(s\): image"),
        ({"imag": (1, 3, 8, 8)}, "There is no input 'imag'. Did you mean image"),
    ],
)
def test_wrong_shapes(tmp_path, shapes, words):
    with pytest.raises(UsageError, match=words):
        load_onnx(_image_net(tmp_path / "net.onnx"), shapes)


def _with_scalar(path):
    nodes = [
        helper.make_node("Cast", ["rate"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "factor"], ["y"]),
    ]
    return save_graph(path, nodes, {"x": [3], "rate": []}, ["y"], kinds={"rate": TensorProto.INT64})


def test_a_fixed_input_is_a_constant(tmp_path):
    path = _with_scalar(tmp_path / "net.onnx")
    network, inputs = load_onnx(path, input_values={"rate": 16000})
    assert_agrees(network, inputs, path, ["x"], {"rate": np.array(16000)})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rte": 1}, "There is no input 'rte' to give a value to. Did you mean rate"),
        ({"rate": 0.5}, "0.5 is no int64"),
        ({"rate": [1, 2]}, r"the value has the shape \[2\], the input \[\]"),
    ],
)
def test_wrong_values(tmp_path, values, words):
    with pytest.raises(UsageError, match=words):
        load_onnx(_with_scalar(tmp_path / "net.onnx"), input_values=values)
