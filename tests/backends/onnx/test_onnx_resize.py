"""Resize in all its modes, compared with ONNX Runtime and PyTorch."""

import itertools

import numpy as np
import pytest
import torch
from single_nodes import check_like_onnxruntime, model_of
from torch.nn import functional

from cospipe.backends.onnx.importer import import_model
from cospipe.ir.capture import capture
from cospipe.ir.errors import UnsupportedModelError

RANDOM = np.random.default_rng(0)
COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
SIZES = ((12, 5), (3, 14), (1, 10))


def image(rows: int = 6, columns: int = 5) -> np.ndarray:
    return RANDOM.standard_normal((1, 2, rows, columns)).astype(np.float32)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_nearest(coordinates: str) -> None:
    for size, rounding in itertools.product(SIZES, ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")):
        attributes = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
        check_like_onnxruntime("Resize", attributes, [image(), None, None, np.array([1, 2, *size])], (3,), opset=19)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation(mode: str, coordinates: str) -> None:
    attributes = {"coordinate_transformation_mode": coordinates, "mode": mode}
    for size in SIZES:
        check_like_onnxruntime("Resize", attributes, [image(), None, None, np.array([1, 2, *size])], (3,), opset=19)
    for factors in ((2.0, 2.0), (0.6, 1.5)):
        scales = np.array([1, 1, *factors], np.float32)
        check_like_onnxruntime("Resize", attributes, [image(), None, scales], (2,), opset=19)


def test_options_of_cubic_and_antialiasing() -> None:
    size = np.array([1, 2, 3, 8])
    for more in ({"exclude_outside": 1}, {"cubic_coeff_a": -0.5}, {"antialias": 1}):
        check_like_onnxruntime("Resize", {"mode": "cubic", **more}, [image(), None, None, size], (3,))
    check_like_onnxruntime("Resize", {"mode": "linear", "antialias": 1}, [image(), None, None, size], (3,))


def test_axes_and_aspect_ratio() -> None:
    for policy in ("stretch", "not_larger", "not_smaller"):
        attributes = {"axes": [2, 3], "mode": "linear", "keep_aspect_ratio_policy": policy}
        check_like_onnxruntime("Resize", attributes, [image(), None, None, np.array([12, 7])], (3,))


def test_region_of_interest() -> None:
    region = np.array([0, 0, 0.1, 0.3, 1, 1, 0.7, 1.2], np.float32)
    attributes = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 2.5, "mode": "linear"}
    check_like_onnxruntime("Resize", attributes, [image(), region, None, np.array([1, 2, 9, 8])], (1, 3))


@pytest.mark.parametrize(
    ("attributes", "operation"),
    [
        ({"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}, "upsample_nearest2d"),
        ({"mode": "linear"}, "upsample_bilinear2d"),
        ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, "upsample_bilinear2d"),
        ({"mode": "cubic"}, "upsample_bicubic2d"),
    ],
)
def test_pytorchs_own_operation_is_used_where_it_is_the_same(attributes: dict[str, object], operation: str) -> None:
    inputs = [image(), None, np.array([1, 1, 2, 2], np.float32)]
    network = import_model(model_of("Resize", attributes, inputs, known=(2,)))
    captured = capture(network, (torch.from_numpy(inputs[0]),))
    calls = [node.target for node in captured.graph.nodes if node.op == "call_function"]
    assert [call._opname for call in calls] == [operation]


def test_corners_are_aligned_when_the_size_is_rounded() -> None:
    scales = np.array([1, 1, 0.6, 0.7], np.float32)
    attributes = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    data = image()
    (result,) = import_model(model_of("Resize", attributes, [data, None, scales], known=(2,)))(torch.from_numpy(data))
    expected = functional.interpolate(torch.from_numpy(data), (3, 3), mode="bilinear", align_corners=True)
    torch.testing.assert_close(result, expected)


def test_interpolation_of_integers_is_refused() -> None:
    inputs = [np.zeros((1, 1, 2, 2), np.uint8), None, np.array([1, 1, 2, 2], np.float32)]
    with pytest.raises(UnsupportedModelError, match="mode 'linear' on integers"):
        import_model(model_of("Resize", {"mode": "linear"}, inputs, known=(2,)))
