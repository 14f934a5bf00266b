"""The rule of RoiAlign: pooling of regions whose corners the network computes."""

from __future__ import annotations

import torch
from torch import Tensor

from cospipe.backends.onnx.node import Computation, OnnxNode, Rule

_HAS_COORDINATE_MODE = 16


def _roi_align(node: OnnxNode) -> Computation:
    """Sample a fixed number of points in each bin of a region, by products with interpolation matrices."""
    samples = int(node.attribute("sampling_ratio", 0))
    if samples < 1:
        raise node.unsupported("sampling_ratio 0 (as many points as the data say)")
    mode = str(node.attribute("mode", "avg"))
    if mode != "avg":
        raise node.unsupported(f"mode {mode!r}")
    default = "half_pixel" if node.opset >= _HAS_COORDINATE_MODE else "output_half_pixel"
    is_shifted = str(node.attribute("coordinate_transformation_mode", default)) == "half_pixel"
    scale = float(node.attribute("spatial_scale", 1.0))
    bins = [int(node.attribute(name, 1)) for name in ("output_height", "output_width")]
    image_size, channels, regions = node.shape(0)[2:], node.shape(0)[1], node.shape(1)[0]

    def compute(image: Tensor, corners: Tensor, batch: Tensor) -> Tensor:
        scaled = corners * scale - (0.5 if is_shifted else 0.0)
        starts, extents = scaled[:, :2], scaled[:, 2:] - scaled[:, :2]
        if not is_shifted:
            extents = extents.clamp(min=1.0)
        rows, columns = (
            _interpolation(starts[:, x], extents[:, x], bins[y], samples, image_size[y]) for x, y in ((1, 0), (0, 1))
        )
        chosen = image.index_select(0, batch)
        points = torch.matmul(torch.matmul(rows, chosen), columns.transpose(-1, -2))
        return points.reshape(regions, channels, bins[0], samples, bins[1], samples).mean((3, 5))

    return compute


def _interpolation(start: Tensor, extent: Tensor, bins: int, samples: int, size: int) -> Tensor:
    """Return the matrices (regions, 1, points, size) which interpolate between the elements of an axis."""
    parts = (torch.arange(bins * samples, dtype=start.dtype) + 0.5) / (bins * samples)
    positions = start.unsqueeze(1) + parts * extent.unsqueeze(1)
    is_inside = (positions >= -1.0) & (positions <= size)
    distances = (positions.clamp(0.0, size - 1.0).unsqueeze(-1) - torch.arange(size, dtype=start.dtype)).abs()
    weights = (1 - distances).clamp(min=0.0) * is_inside.unsqueeze(-1).to(start.dtype)
    return weights.unsqueeze(1)


RULES: dict[str, Rule] = {"RoiAlign": _roi_align}
