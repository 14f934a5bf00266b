"""Operations in the form of older opsets, compared with ONNX Runtime; onnx's own tests have the newest form only."""

import numpy as np
import pytest
from single_nodes import check_like_onnxruntime

RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("operation", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_takes_the_axes_behind_as_one_before_opset_13(operation: str, opset: int) -> None:
    for attributes in ({}, {"axis": 0}, {"axis": 1}, {"axis": -1}, {"axis": -2}):
        check_like_onnxruntime(operation, attributes, [floats(2, 3, 4)], opset=opset)


def test_bounds_of_clip_may_be_missing_known_or_computed() -> None:
    data, low, high = floats(3, 4) * 9, np.float32(-1), np.float32(6)
    for inputs in ([data], [data, low], [data, None, high], [data, low, high], [data, high, low]):
        for known in ((), (1, 2)):
            check_like_onnxruntime("Clip", {}, inputs, known, opset=11)


def test_axes_as_an_attribute() -> None:
    data = floats(2, 1, 3, 1)
    check_like_onnxruntime("Squeeze", {"axes": [1, -1]}, [data], opset=11)
    check_like_onnxruntime("Unsqueeze", {"axes": [0, 2]}, [data], opset=11)
    for operation in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2"):
        check_like_onnxruntime(operation, {"axes": [0, 2], "keepdims": 0}, [data], opset=11)


def test_sizes_of_split_as_an_attribute() -> None:
    check_like_onnxruntime("Split", {"axis": 1, "split": [1, 3]}, [floats(2, 4)], outputs=2, opset=11)


def test_mode_of_dropout() -> None:
    check_like_onnxruntime("Dropout", {"ratio": 0.5}, [floats(2, 4)], opset=11)
    check_like_onnxruntime("Dropout", {}, [floats(2, 4), np.float32(0.5)], known=(1,), outputs=2, opset=12)


@pytest.mark.parametrize("opset", [11, 14, 15])
def test_batch_normalization(opset: int) -> None:
    weights = [floats(3), floats(3), floats(3), np.abs(floats(3))]
    check_like_onnxruntime("BatchNormalization", {"epsilon": 0.1}, [floats(2, 3, 4, 4), *weights], opset=opset)


def test_group_normalization_has_a_scale_for_each_group_before_opset_21() -> None:
    data = floats(2, 4, 3, 3)
    check_like_onnxruntime("GroupNormalization", {"num_groups": 2}, [data, floats(2), floats(2)], opset=18)
    check_like_onnxruntime("GroupNormalization", {"num_groups": 2}, [data, floats(4), floats(4)], opset=21)


def test_regions_are_not_shifted_before_opset_16() -> None:
    corners = np.array([[0, 0, 9, 9], [3, 2, 14, 15], [-3, 1, 1.5, 1.2]], np.float32)
    attributes = {"output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.5}
    for opset in (11, 16):
        check_like_onnxruntime("RoiAlign", attributes, [floats(2, 3, 8, 9), corners, np.array([0, 1, 1])], opset=opset)


def test_axis_of_a_fourier_transform_is_an_input_since_opset_20() -> None:
    check_like_onnxruntime("DFT", {"axis": 1, "onesided": 1}, [floats(2, 7, 1)], opset=17)
    check_like_onnxruntime("DFT", {"inverse": 1}, [floats(2, 8, 2), None, np.int64(-2)], known=(2,), opset=20)


def test_modes_of_grid_sample_have_other_names_before_opset_20() -> None:
    inputs = [floats(1, 2, 5, 6), floats(1, 4, 3, 2)]
    for old, new in (("bilinear", "linear"), ("bicubic", "cubic"), ("nearest", "nearest")):
        for border in ("zeros", "border", "reflection"):
            check_like_onnxruntime("GridSample", {"mode": old, "padding_mode": border}, inputs, opset=16)
            check_like_onnxruntime("GridSample", {"mode": new, "padding_mode": border}, inputs, opset=20)
