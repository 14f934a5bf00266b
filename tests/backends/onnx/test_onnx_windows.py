"""Convolutions and pooling with random windows, compared with ONNX Runtime."""

import random

import numpy as np
import pytest
import torch
from single_nodes import check_like_onnxruntime, model_of

from cospipe.backends.onnx.importer import import_model
from cospipe.ir.errors import UnsupportedModelError

CASES = 12
"""Of each operation."""
RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def random_window(choose: random.Random) -> tuple[list[int], dict[str, object]]:
    """Return the sizes of an image, and attributes; SAME comes without dilation, which ONNX Runtime gets wrong."""
    axes = choose.choice([1, 2, 2, 3])
    taps = [choose.randint(1, 3) for _ in range(axes)]
    mode = choose.choice(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
    attributes: dict[str, object] = {"kernel_shape": taps, "strides": [choose.randint(1, k) for k in taps]}
    if mode == "NOTSET":
        attributes["pads"] = [choose.randint(0, k - 1) for k in taps + taps]
        attributes["dilations"] = [choose.randint(1, 2) for _ in taps]
    else:
        attributes["auto_pad"] = mode
    return [choose.randint(7, 9) for _ in taps], attributes


@pytest.mark.parametrize("case", range(CASES))
def test_convolutions(case: int) -> None:
    choose = random.Random(case)
    groups = choose.choice([1, 2])
    for operation in ("Conv", "ConvTranspose"):
        sizes, attributes = random_window(choose)
        if operation == "ConvTranspose" and "pads" in attributes:
            attributes["output_padding"] = [choose.randint(0, stride - 1) for stride in attributes["strides"]]
        weight = floats(2 * groups, 2, *attributes["kernel_shape"])
        inputs = [floats(1, 2 * groups, *sizes), weight, floats(2 * groups)]
        check_like_onnxruntime(operation, {**attributes, "group": groups}, inputs, known=(1, 2))


@pytest.mark.parametrize("case", range(CASES))
def test_pooling(case: int) -> None:
    choose = random.Random(case)
    sizes, attributes = random_window(choose)
    attributes["ceil_mode"] = choose.choice([0, 1]) if "pads" in attributes else 0
    data = [floats(2, 3, *sizes)]
    maximum = {**attributes, "storage_order": choose.choice([0, 1])}
    check_like_onnxruntime("MaxPool", maximum, data, outputs=2)
    average = {**attributes, "count_include_pad": choose.choice([0, 1])}
    check_like_onnxruntime("AveragePool", average, data, opset=19)
    check_like_onnxruntime("LpPool", {**attributes, "p": choose.choice([1, 2, 3])}, data)


def test_output_shape_of_a_transposed_convolution() -> None:
    inputs = [floats(1, 2, 5, 6), floats(2, 3, 3, 3), floats(3)]
    for mode in ("NOTSET", "SAME_UPPER"):
        attributes = {"strides": [2, 2], "output_shape": [10, 12], "auto_pad": mode}
        check_like_onnxruntime("ConvTranspose", attributes, inputs)


def test_a_result_larger_than_what_the_windows_reach_is_filled_up() -> None:
    model = model_of("ConvTranspose", {"strides": [3], "auto_pad": "SAME_UPPER"}, [floats(1, 1, 4), floats(1, 1, 1)])
    data, weight = torch.ones(1, 1, 4), torch.full((1, 1, 1), 2.0)
    (result,) = import_model(model)(data, weight)
    assert result.flatten().tolist() == [2, 0, 0] * 4


def test_windows_that_do_not_fit_are_refused() -> None:
    model = model_of("MaxPool", {"kernel_shape": [5, 5]}, [floats(1, 1, 4, 4)])
    with pytest.raises(UnsupportedModelError, match=r"a window of \(5, 5\) elements on an input of \(4, 4\)"):
        import_model(model)
