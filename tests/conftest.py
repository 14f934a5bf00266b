"""What several test files share: a small network with skips, compiled once for this machine."""

import copy
import os
import shutil
import subprocess

import pytest
import torch
from compiled_plans import compile_replicas, on_cores
from torch import nn

import cospipe
from cospipe.ir.soc import load_soc


class SmallNetwork(nn.Module):
    """Two inputs, two outputs, a branch that skips over the middle, batch norm with real statistics."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU())
        self.last = nn.Linear(8, 5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.first[1].running_mean.normal_(0, 0.1, generator=generator)
        self.first[1].running_var.uniform_(0.5, 2, generator=generator)

    def forward(self, image, offset):
        early = self.first(image)
        late = self.middle(early) + early
        return self.last(late.mean((2, 3))) + offset, early.mean((2, 3))


@pytest.fixture(scope="session")
def small_network():
    return SmallNetwork().eval()


@pytest.fixture(scope="session")
def small_inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, 16, 16, generator=generator), torch.randn(1, 5, generator=generator)


def compile_in_three(network, inputs, soc, configurations, output, passes=""):
    """Compile a network in three stages whatever the search thinks of it; return it as ``optimize`` does.

    ``configurations`` holds the cluster and the cpu ids of each stage. The middle stage starts behind the first two
    nodes and ends before the last half. ``passes`` run first; what they compute of weights goes with its reader.
    """
    replicas = [(on_cores(cluster, cpu_ids),) for cluster, cpu_ids in configurations]
    return compile_replicas(network, inputs, soc, replicas, output, passes)


@pytest.fixture(scope="session")
def compiled(small_network, small_inputs, tmp_path_factory):
    """The small network as a bundle of three stages for this machine; where there are few cores they share them."""
    output = tmp_path_factory.mktemp("compiled") / "bundle"
    return compile_in_three(small_network, small_inputs, load_soc("host"), three_host_cores(), output)


def three_host_cores():
    cores = [(cluster.name, cpu) for cluster in load_soc("host").clusters for cpu in cluster.cpu_ids]
    return [(cores[i % len(cores)][0], (cores[i % len(cores)][1],)) for i in range(3)]


ROOM = "insert-adapters{n=20,selection=low},merge-adapters{at=load}"
"""Passes that leave room for adapters of twenty coefficients a weight."""


@pytest.fixture(scope="session")
def adaptable(small_network, small_inputs, tmp_path_factory):
    """The small network as three stages for this machine, with room for adapters."""
    output = tmp_path_factory.mktemp("adaptable") / "bundle"
    return compile_in_three(small_network, small_inputs, load_soc("host"), three_host_cores(), output, ROOM)


@pytest.fixture(scope="session")
def adapters(small_network, tmp_path_factory):
    """Files of two adapters on the small network, ``conv`` of some convolutions and ``whole`` with a last layer."""
    folder = tmp_path_factory.mktemp("adapters")
    configs = {
        "conv": cospipe.SpectralConfig(n=20, selection="random", layers="middle|first"),
        "whole": cospipe.SpectralConfig(n=12, alpha=0.5, selection="hybrid", also_train="last"),
    }
    return {name: _saved_adapter(small_network, config, folder / name) for name, config in configs.items()}


def _saved_adapter(network, config, stem):
    adapters = cospipe.adapt(copy.deepcopy(network), config)
    generator = torch.Generator().manual_seed(len(stem.name))
    with torch.no_grad():
        for parameter in adapters.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    adapters.save(f"{stem}.safetensors")
    return stem.with_suffix(".safetensors")


@pytest.fixture(scope="session")
def adaptable_board(small_network, small_inputs, tmp_path_factory):
    """The small network as three stages for a HiKey 970, with room for adapters."""
    configurations = [("big", (4, 5)), ("little", (0,)), ("big", (6, 7))]
    output = tmp_path_factory.mktemp("adaptable_board") / "bundle"
    return compile_in_three(small_network, small_inputs, load_soc("hikey970"), configurations, output, ROOM)


@pytest.fixture(scope="session")
def board(small_network, small_inputs, tmp_path_factory):
    """The small network as a bundle of three stages for a HiKey 970; two of them have two threads."""
    configurations = [("big", (4, 5)), ("little", (0,)), ("big", (6, 7))]
    output = tmp_path_factory.mktemp("board") / "bundle"
    return compile_in_three(small_network, small_inputs, load_soc("hikey970"), configurations, output)


@pytest.fixture(scope="session")
def emulator():
    """QEMU with all it needs; a machine without it skips, but CI must not."""
    from cospipe.backends.emulator.qemu import find_emulator
    from cospipe.ir.errors import EmulatorError

    try:
        return find_emulator()
    except EmulatorError as error:
        if os.environ.get("COSPIPE_REQUIRE_EMULATOR"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def qemu():
    """A qemu-aarch64 that loads plugins; CI must have QEMU, but not every Debian builds it with plugins."""
    found = shutil.which("qemu-aarch64")
    if found is None and os.environ.get("COSPIPE_REQUIRE_EMULATOR"):
        pytest.fail("qemu-aarch64 is missing")
    if found is None:
        pytest.skip("qemu-aarch64 is missing (Debian: apt-get install qemu-user)")
    if "-plugin" not in subprocess.run([found, "--help"], capture_output=True, text=True, check=False).stdout:
        pytest.skip(f"{found} was built without plugins")
    return found


@pytest.fixture(scope="session")
def plugin(qemu, tmp_path_factory):
    """The plugin, compiled for this QEMU."""
    from cospipe.backends.emulator.instruction_counter import build_plugin

    return build_plugin(tmp_path_factory.mktemp("plugin"), qemu)


@pytest.fixture(scope="session")
def llvm_tools():
    """llvm-mca and llvm-objdump, new enough for every core; CI must have them."""
    from cospipe.backends.emulator.kernel_cycles import OLDEST_LLVM
    from cospipe.backends.emulator.llvm_mca import LlvmToolError, find_llvm_tools

    try:
        return find_llvm_tools(OLDEST_LLVM)
    except LlvmToolError as error:
        if os.environ.get("COSPIPE_REQUIRE_EMULATOR"):
            raise
        pytest.skip(str(error))
