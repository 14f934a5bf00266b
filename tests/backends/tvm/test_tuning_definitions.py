"""A definition computes what the kernel it stands for computes: our own loops, tested elsewhere, are the judge."""

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import tirx

from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.kernels.fused import emitted_kernel
from cospipe.backends.tvm.lower import fusing_passes
from cospipe.backends.tvm.schedule import schedule_kernel
from cospipe.backends.tvm.tiling import Core
from cospipe.backends.tvm.tuning.definitions import definition
from cospipe.ir.capture import capture

CORE = Core(
    architecture="x86_64",
    simd_bytes=16,
    registers=16,
    fma_per_cycle=1.0,
    l1_bytes=32768,
    l2_bytes=524288,
    cores=1,
    memory_bytes_per_cycle=4.0,
    loads_weights_first=False,
)
TARGET = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "num-cores": 1})


class Attention(nn.Module):
    def forward(self, queries, keys):
        return queries @ keys.transpose(-1, -2)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, image):
        return torch.relu(self.layer(image) + image)


NETWORKS = {
    "convolution of a plain image": (nn.Conv2d(3, 20, 3, 2, 1), [(1, 3, 9, 11)]),
    "convolution with a residual": (Residual(), [(1, 8, 6, 7)]),
    "convolution of groups": (nn.Conv2d(16, 24, 3, padding=2, dilation=2, groups=2), [(2, 16, 7, 7)]),
    "depthwise convolution": (nn.Conv2d(12, 12, (3, 5), (2, 1), (1, 2), groups=12), [(1, 12, 9, 8)]),
    "maxima": (nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(3, 2, 1)), [(1, 3, 9, 9)]),
    "means": (nn.Sequential(nn.Conv2d(3, 8, 1), nn.AvgPool2d(2)), [(1, 3, 8, 8)]),
    "linear layer on one row": (nn.Linear(37, 10), [(1, 37)]),
    "linear layer on many rows": (nn.Linear(32, 24), [(2, 17, 32)]),
    "attention": (Attention(), [(2, 3, 9, 16), (2, 3, 9, 16)]),
}


def kernels_of(network, shapes):
    torch.manual_seed(0)
    graph = capture(network.eval(), tuple(torch.rand(shape) for shape in shapes))
    imported = import_stage(graph, tuple(torch.rand(shape) for shape in shapes))
    module = tvm.transform.Sequential(fusing_passes(CORE, allows_winograd=False))(imported.module)
    return [function for function in module.functions.values() if isinstance(function, tirx.PrimFunc)]


def computed(function, tensors):
    library = tvm.tirx.build(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}), target=TARGET)
    library["main"](*tensors)
    return tensors[-1].numpy().copy()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_definition_computes_what_our_loops_compute(name):
    defined = [(kernel, d) for kernel in kernels_of(*NETWORKS[name]) if (d := definition(kernel)) is not None]
    assert defined
    random = np.random.default_rng(0)
    for kernel, unscheduled in defined:
        shapes = [[int(extent) for extent in parameter.ty.shape] for parameter in kernel.params]
        tensors = [tvm.runtime.tensor(random.standard_normal(shape).astype("float32")) for shape in shapes]
        expected = computed(schedule_kernel(kernel, CORE), tensors)
        np.testing.assert_allclose(computed(unscheduled, tensors), expected, rtol=1e-4, atol=1e-5)


def test_parameters_stay_in_their_order():
    for kernel in kernels_of(*NETWORKS["convolution with a residual"]):
        if unscheduled := definition(kernel):
            shapes = [[list(map(int, p.ty.shape)) for p in function.params] for function in (kernel, unscheduled)]
            assert shapes[0] == shapes[1]


def test_what_only_copies_has_no_definition():
    softmax = [k for k in kernels_of(nn.Softmax(-1), [(4, 33)]) if emitted_kernel(schedule_kernel(k, CORE))]
    assert softmax
    assert [definition(kernel) for kernel in softmax] == [None] * len(softmax)
    copies = kernels_of(nn.PixelShuffle(2), [(1, 8, 4, 4)])
    assert [definition(kernel) for kernel in copies] == [None] * len(copies)
