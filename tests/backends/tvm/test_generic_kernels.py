"""What nobody wrote a kernel for still computes the right numbers, and the compiler says what that is and costs."""

import pytest
import torch
from compiling import compare_all
from torch import nn
from torch.nn import functional as F

import cospipe
from cospipe.backends.tvm.generic_kernels import generic_nodes
from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.lower import lowering_passes
from cospipe.backends.tvm.target import core_target
from cospipe.backends.tvm.tiling import Core
from cospipe.ir.capture import capture
from cospipe.ir.manifest import GenericNode
from cospipe.ir.soc import load_soc
from cospipe.pictures import generic_text

CORE = Core("x86_64", 32, 16)


class Mixed(nn.Module):
    """Layers with kernels, elementwise operations and views between things that have none."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.volume = nn.Conv3d(2, 2, 3, padding=1)
        self.precise = nn.Conv2d(8, 4, 1).double()

    def forward(self, x):
        x = self.head(x) * 2
        y = self.volume(x.view(1, 2, 4, 8, 8)).view(1, 8, 8, 8)
        y = F.interpolate(y + x, scale_factor=2.0, mode="bilinear")
        y = torch.cat([y, y], 1)[:, :8].transpose(2, 3)
        return self.precise(y.double()).cumsum(2).flatten(1).sort(-1).values


class Convolutions(nn.Module):
    """The one operation of ATen for all convolutions, as a decomposed program has it."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4, 3, 3)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        convolution = torch.ops.aten.convolution.default
        x = convolution(x, self.weight, self.bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        return convolution(x, self.weight, None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1)


def image():
    return (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def generic(module, inputs):
    stage = capture(module.eval(), inputs)
    soc = load_soc("host")
    target = core_target(soc.clusters[0], 1, soc.architecture)
    lowered = import_stage(stage, inputs).module
    with target:
        for step in lowering_passes(target, CORE):
            lowered = step(lowered)
            if step.info.name == "NoteGenericKernels":
                return generic_nodes(lowered)


def test_names_are_those_of_the_captured_graph():
    assert generic(Mixed(), image()) == ("conv3d", "upsample_bilinear2d", "conv2d_1", "cumsum", "sort")


def test_a_node_that_is_taken_apart_is_named_once():
    class Attention(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x).double().cumsum(1)

    assert generic(Attention(), image())[-1] == "cumsum"
    assert set(generic(Attention().double(), (image()[0].double(),))) == {"scaled_dot_product_attention", "cumsum"}


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish(), nn.ConvTranspose2d(8, 4, 2, 2)),
        nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 16, 5, 2, padding=2), nn.GELU(), nn.ConvTranspose1d(16, 4, 4, 2)),
        nn.Sequential(
            nn.ZeroPad2d(1), nn.ChannelShuffle(3), nn.Sigmoid(), nn.Upsample(None, 2.0), nn.PixelUnshuffle(2)
        ),
    ],
)
def test_kernels_elementwise_operations_and_copies_are_not_named(module):
    assert generic(module, image()) == ()


def test_they_compute_what_eager_does(tmp_path):
    volume = torch.randn(2, 4, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    cases = {
        "mixed": (Mixed(), image()),
        "volume": (nn.Conv3d(4, 6, (2, 3, 4), padding="same"), (volume,)),
        "one volume": (nn.Conv3d(4, 6, 3, 2, 1, groups=2), (volume[0],)),
        "transposed volume": (nn.ConvTranspose3d(4, 6, 3, 2, 1, 1, 2, dilation=2), (volume,)),
        "one image": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), (volume[0, :, 0],)),
        "one sequence": (nn.Conv1d(4, 6, 3), (volume[0, :, 0, 0],)),
        "any convolution": (Convolutions(), (volume[:, :, 0],)),
        "double transposed convolution": (nn.ConvTranspose2d(4, 6, 3, 2, 1).double(), (volume[:, :, 0].double(),)),
        "double convolution": (nn.Conv1d(4, 6, 3, groups=2).double(), (volume[:, :, 0, 0].double(),)),
        "double layer norm": (nn.LayerNorm((4, 5)).double(), (volume.double(),)),
        "double product": (lambda a: torch.addmm(a[0], a, a.t(), beta=0.5), (volume[0, 0, :, 0, :3].double(),)),
        "double products": (lambda a: a @ a.transpose(1, 2), (volume[0, 0].double(),)),
        "recurrent": (nn.GRUCell(5, 7), (volume[0, :, 0, 0], torch.zeros(4, 7))),
    }
    errors = compare_all(cases, CORE, tmp_path)
    assert {name: error for name, error in errors.items() if not error <= 1e-5} == {}
    assert all(error <= 1e-12 for name, error in errors.items() if name.startswith("double"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return cospipe.optimize(Mixed(), image(), output=tmp_path_factory.mktemp("mixed") / "bundle", max_stages=1)


def test_the_summary_names_them_and_their_share_of_the_time(mixed):
    manifest = mixed.bundle.manifest
    assert [str(node) for node in manifest.generic_nodes] == [
        *("conv3d (volume)", "upsample_bilinear2d", "conv2d_1 (precise)", "cumsum", "sort")
    ]
    costs = {layer.node: min(layer.latency_us.values()) for layer in cospipe.predict(Mixed(), image()).layers}
    assert 0 < manifest.generic_share < 1
    assert manifest.generic_share == pytest.approx(
        sum(costs[node.name] for node in manifest.generic_nodes) / sum(costs.values()), rel=0.05
    )
    last = mixed.summary().splitlines()[-1]
    assert last.startswith("Generic schedule (no fast kernel): ")
    assert "conv3d (volume)" in last
    assert last.endswith(f": {manifest.generic_share:.0%} of the predicted time.")


def test_the_slowest_come_first_and_many_are_counted(mixed):
    nodes = tuple(GenericNode(name=f"sort_{i}", module="", predicted_us=i) for i in range(11))
    stage = mixed.bundle.manifest.stages[0].model_copy(update={"generic_nodes": nodes})
    text = generic_text(mixed.bundle.manifest.model_copy(update={"stages": (stage,)}))
    assert "): sort_10, sort_9, sort_8, sort_7, sort_6, sort_5, sort_4, sort_3 and 3 more: " in text
    none = stage.model_copy(update={"generic_nodes": ()})
    assert generic_text(mixed.bundle.manifest.model_copy(update={"stages": (none,)})) == ""
