"""Which networks the convolutions of a table come from, when the table does not say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

from cospipe.ir.layer import LayerDescriptor

Shape = tuple[int, ...]

_NETWORKS = {
    "vgg16": 224,
    "resnet18": 224,
    "resnet50": 224,
    "densenet121": 224,
    "inception_v3": 299,
    "squeezenet1_1": 224,
    "mobilenet_v2": 224,
}
_IMAGE_CHANNELS = 3
_SHARE_FOUND = 0.8
_MOBILENET_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Output channels and stride of the blocks behind the first convolution."""


def shape_of(layer: LayerDescriptor) -> Shape:
    """Return what tells convolutions apart: channels, kernel, stride, groups and size of the result."""
    channels = layer.gemm_k * layer.groups // (layer.kernel[0] * layer.kernel[1])
    return (channels, layer.gemm_m, *layer.kernel, layer.stride, layer.groups, *layer.output_size)


def networks_among(layers: Sequence[LayerDescriptor]) -> dict[str, Counter[Shape]]:
    """Return how often each shape stands in the known networks most of whose convolutions are among these layers."""
    present = {shape_of(layer) for layer in layers}
    found = {}
    for name in (*_NETWORKS, "mobilenet_v1"):
        shapes = _mobilenet_v1() if name == "mobilenet_v1" else _shapes(name)
        there = Counter({shape: count for shape, count in shapes.items() if shape in present})
        if len(there) >= _SHARE_FOUND * len(shapes):
            found[name] = there
    return found


@cache
def _shapes(name: str) -> Counter[Shape]:
    import torch
    import torchvision

    shapes: Counter[Shape] = Counter()

    def count(module: torch.nn.Conv2d, _: object, output: torch.Tensor) -> None:
        weight = module.weight.shape
        channels = weight[1] * module.groups
        shape = (channels, weight[0], *weight[2:], module.stride[0], module.groups, *output.shape[2:])
        shapes[shape] += 1

    with torch.device("meta"), torch.no_grad():
        options = {"init_weights": False} if name == "inception_v3" else {}
        network = getattr(torchvision.models, name)(weights=None, **options).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(count)
        network(torch.empty(1, _IMAGE_CHANNELS, _NETWORKS[name], _NETWORKS[name]))
    return shapes


def _mobilenet_v1() -> Counter[Shape]:
    side, channels = 112, 32
    shapes: Counter[Shape] = Counter({(_IMAGE_CHANNELS, channels, 3, 3, 2, 1, side, side): 1})
    for columns, stride in _MOBILENET_V1:
        side //= stride
        shapes[channels, channels, 3, 3, stride, channels, side, side] += 1
        shapes[channels, columns, 1, 1, 1, 1, side, side] += 1
        channels = columns
    return shapes
