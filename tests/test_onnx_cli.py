"""An ONNX file through ``cospipe optimize`` and ``run``, against ONNX Runtime."""

import numpy as np
import pytest
from command import caller
from onnx import TensorProto, helper
from onnx_models import in_onnx_runtime, save_graph

SIZES = ["--input-shape", "image:1,3,24,32"]


@pytest.fixture
def inside(tmp_path, monkeypatch, capsys):
    return caller(tmp_path, monkeypatch, capsys)


@pytest.fixture
def by_rate(tmp_path):
    """Convolutions of an image of any size; what follows depends on the value of a second input."""
    random = np.random.default_rng(0)
    weights = {
        "first": random.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "second": random.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32),
        "sixteen": np.array(16),
    }
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    sharp = helper.make_graph([helper.make_node("Tanh", ["features"], ["result"])], "sharp", [], [result])
    soft = helper.make_graph([helper.make_node("Sigmoid", ["features"], ["result"])], "soft", [], [result])
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["outline"], pads=[1] * 4),
        helper.make_node("Relu", ["outline"], ["edges"]),
        helper.make_node("Conv", ["edges", "second"], ["features"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Equal", ["rate", "sixteen"], ["is_sixteen"]),
        helper.make_node("If", ["is_sixteen"], ["y"], then_branch=sharp, else_branch=soft),
    ]
    inputs = {"image": ["batch", 3, "height", "width"], "rate": []}
    return save_graph(tmp_path / "net.onnx", nodes, inputs, ["y"], weights, kinds={"rate": TensorProto.INT64})


@pytest.mark.parametrize("rate", [16, 8])
def test_a_file_with_open_sizes_and_a_chosen_branch(by_rate, inside, tmp_path, rate):
    done = inside("optimize", by_rate, "--soc", "host", *SIZES, "--input-value", f"rate={rate}", "-o", "built")
    assert done.returncode == 0, done.stderr
    image = np.random.default_rng(1).normal(size=(1, 3, 24, 32)).astype(np.float32)
    np.savez(tmp_path / "in.npz", image=image)
    assert inside("run", "built", "-i", "in.npz", "-o", "out.npz").returncode == 0
    (expected,) = in_onnx_runtime(by_rate, {"image": image, "rate": np.array(rate)})
    with np.load(tmp_path / "out.npz") as results:
        (computed,) = results.values()
    assert np.allclose(computed.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (SIZES, "--input-value"),
        ([*SIZES, "--input-value", "rte=8"], "There is no input 'rte'"),
        (["--input-shape", "image:1,4,24,32", "--input-value", "rate=8"], "dimension 1 is 4, but it has to be 3"),
        (["--input-shape", "img:1,3,24,32", "--input-value", "rate=8"], "'img'"),
    ],
)
def test_what_does_not_fit_the_file(by_rate, inside, tmp_path, options, sentence):
    done = inside("optimize", by_rate, "--soc", "host", *options, "-o", "built")
    assert done.returncode != 0
    assert sentence in " ".join(done.stderr.split())
    assert not (tmp_path / "built").exists()
