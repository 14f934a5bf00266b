"""Which nodes each call of a kernel computes, also where calls share a kernel."""

import pytest
import torch
from compiling import Function
from torch import nn

from cospipe.backends.tvm.lower import lower_stage
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.ir.capture import capture
from cospipe.ir.soc import load_soc

SOC = load_soc("host")
CORES = (SOC.clusters[0], 1, SOC.architecture)


@pytest.fixture
def calls(tmp_path):
    def compile_calls(model, *inputs):
        model = model if isinstance(model, nn.Module) else Function(model)
        graph_module = capture(model.eval(), inputs)
        lowered = lower_stage(graph_module, inputs, core_target(*CORES), kernel_core(*CORES), tmp_path / "stage.so")
        names = {node.name for node in graph_module.graph.nodes if node.op == "call_function"}
        assert {kernel.name for kernel in lowered.kernels} >= {call.kernel for call in lowered.calls}
        assert names >= {node for call in lowered.calls for node in call.nodes}
        return list(lowered.calls)

    return compile_calls


def image(channels=8):
    return torch.randn(1, channels, 12, 12, generator=torch.Generator().manual_seed(0))


def test_calls_that_share_a_kernel_compute_their_own_nodes(calls):
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())]
    found = calls(nn.Sequential(*layers, nn.Conv2d(8, 8, 3, 1, 1)), image())
    computing = [call for call in found if "convolution" in call.kernel or "winograd" in call.kernel]
    assert [call.nodes for call in computing] == [
        ("conv2d", "relu"),
        ("conv2d_1", "relu_1"),
        ("conv2d_2", "relu_2"),
        ("conv2d_3",),
    ]
    assert computing[1].kernel == computing[2].kernel != computing[3].kernel


def test_what_brings_results_into_their_form_belongs_to_the_node_behind(calls):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 1)

        def forward(self, x):
            return torch.relu(self.first(x)), self.second(x)

    found = [call for call in calls(Two(), image()) if "from_blocks" in call.kernel]
    assert sorted(call.nodes for call in found) == [("conv2d_1",), ("relu",)]


def test_an_addition_belongs_to_the_kernel_that_does_it(calls):
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            early = torch.relu(self.first(x))
            return torch.relu(self.second(early) + early)

    found = [call.nodes for call in calls(Skip(), image())]
    assert ("conv2d", "relu") in found
    assert ("conv2d_1", "add", "relu_1") in found


def test_the_same_weights_applied_twice_are_two_calls(calls):
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Conv2d(8, 8, 1)

        def forward(self, left, right):
            return torch.relu(self.shared(left)), torch.sigmoid(self.shared(right)), torch.relu(self.shared(left + 1))

    found = {call.nodes for call in calls(Twins(), image(), image() + 1)}
    assert found >= {("conv2d", "relu"), ("conv2d_1", "sigmoid")}
    assert any(nodes[-2:] == ("conv2d_2", "relu_1") for nodes in found)


def test_routines_of_tvm_belong_to_their_node(calls):
    found = calls(lambda x: torch.sort(torch.relu(x), dim=1)[0] * 2, torch.randn(3, 40))
    assert any("sort" in call.nodes for call in found)
    assert found[-1].nodes[-1].startswith("mul")


def test_views_are_no_calls_of_their_own(calls):
    (call,) = calls(lambda x: torch.relu(x).reshape(2, -1), torch.randn(4, 6))
    assert call.nodes[0] == "relu"
