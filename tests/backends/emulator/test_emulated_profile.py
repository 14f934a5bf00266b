"""Profiles from emulation: a small network on two types of cores, and everything that can be wrong beforehand."""

import subprocess

import pytest
import torch
from torch import nn

from cospipe.backends.emulator import cycle_counter, emulated_profile
from cospipe.backends.emulator.cycle_counter import find_cycle_counter
from cospipe.backends.emulator.emulated_profile import counter_for, emulate, emulate_profile
from cospipe.backends.emulator.executed_blocks import executed_blocks
from cospipe.backends.emulator.instruction_counter import Counts
from cospipe.backends.profiling.networks import prepare_network
from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.errors import EmulatorError, LoweringError, UsageError
from cospipe.ir.graph_fingerprint import graph_fingerprint
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import NetworkProfile
from cospipe.ir.soc import load_soc

pytestmark = pytest.mark.emulated

SOC = load_soc("rk3588")
BIG, BIG_TWO, LITTLE = (CoreConfiguration.parse(text) for text in ("big:1", "big:2", "little:1"))


def network():
    """Equal layers, of which those in the middle share a kernel; large enough for several threads."""
    torch.manual_seed(0)
    equal = [layer for _ in range(3) for layer in (nn.Conv2d(32, 32, 1), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), *equal).eval()


INPUTS = (torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),)


@pytest.fixture(scope="module")
def counter(emulator, plugin, llvm_tools):
    return find_cycle_counter(["cortex-a76", "cortex-a55"])


@pytest.fixture(scope="module")
def runs(counter):
    prepared = prepare_network("small", network(), INPUTS)
    return {cores: emulate(prepared, SOC, cores, counter, lambda step: None) for cores in (BIG, BIG_TWO, LITTLE)}


def test_every_layer_has_a_time_and_the_network_their_sum(runs):
    for run in runs.values():
        profile = run.profile()
        assert [kernel.nodes for kernel in profile.kernels] == [
            ("conv2d", "relu"),
            ("conv2d_1", "relu_1"),
            ("conv2d_2", "relu_2"),
            ("conv2d_3", "relu_3"),
        ]
        assert all(kernel.median_us == kernel.p90_us > 0 for kernel in profile.kernels)
        assert profile.network_us == pytest.approx(sum(kernel.median_us for kernel in profile.kernels))
        assert profile.clock_mhz == (2400,) * run.configuration.cores or profile.clock_mhz == (1800,)
        assert profile.cpu_ids == ()


def test_every_multiply_add_of_the_network_is_counted(runs):
    macs = (3 * 9 * 32 + 3 * 32 * 32) * 32 * 32
    for run in runs.values():
        fma = sum(run.of_layer(layer).fma for layer in run.layers)
        assert fma == pytest.approx(macs / 4, rel=0.02)  # what lies outside the image is not multiplied


def test_equal_layers_cost_the_same_and_no_core_beats_its_peak(runs):
    for run in runs.values():
        first, second = (run.of_layer(layer) for layer in run.layers[1:3])
        assert first == second
        peak = SOC.cluster(run.configuration.cluster).flop_per_cycle
        assert first.cycles >= first.fma * 8 / peak / run.configuration.cores


def test_two_threads_need_half_the_cycles_each_and_are_forked(runs):
    alone, together = (runs[cores].of_layer(runs[cores].layers[1]) for cores in (BIG, BIG_TWO))
    assert together.cycles == pytest.approx(alone.cycles / 2, rel=0.1)
    assert (alone.forks, together.forks) == (0, 1)


def test_a_layer_takes_no_less_than_moving_its_bytes(runs):
    run, slow_memory = runs[BIG], SOC.cluster("big").model_copy(update={"memory_bandwidth_gb_per_s": (0.001,) * 4})
    soc = SOC.model_copy(update={"clusters": (slow_memory, SOC.cluster("little"))})
    layer = run.layers[0]
    starved = emulated_profile.EmulatedRun(soc, BIG, run.lowered, run.kernels, run.layers).kernel_time(layer)
    model = AnalyticLatencyModel(soc)
    assert starved.median_us == pytest.approx(
        model.moving_us(layer.layer, BIG) + model.launch_cycles / slow_memory.max_clock_mhz, rel=1e-3
    )
    assert starved.median_us > 100 * run.kernel_time(layer).median_us


def test_the_blocks_of_a_library_hold_exactly_what_the_plugin_counted_there(counter, monkeypatch):
    seen = []

    def look(report, library, functions, instructions):
        counts = [block.counts for file, _, block in report.located() if file == str(library)]
        blocks = executed_blocks(report, library, functions, instructions)
        seen.append((sum(counts, start=Counts()).instructions, sum(block.executed_instructions for block in blocks)))
        return blocks

    monkeypatch.setattr(cycle_counter, "executed_blocks", look)
    emulate(prepare_network("small", network(), INPUTS), SOC, BIG_TWO, counter, lambda step: None)
    ((counted, in_blocks),) = seen
    assert counted == in_blocks > 100_000


def test_a_profile_of_the_network(counter):
    steps = []
    model = network()
    profile = emulate_profile(model, INPUTS, SOC, [LITTLE], steps.append)
    assert steps == ["capturing", "compiling", "emulating"]
    assert NetworkProfile.model_validate_json(profile.model_dump_json()) == profile
    assert (profile.model, set(profile.configurations)) == ("Sequential", {"little:1"})
    assert profile.fingerprint == graph_fingerprint(prepare_network("x", model, INPUTS).graph_module.graph)


def test_a_network_that_computes_something_else_has_no_profile(counter):
    prepared = prepare_network("small", network(), INPUTS)
    wrong = prepared.expected[0] + abs(prepared.expected[0]).max() / 100
    other = type(prepared)(prepared.name, prepared.graph_module, prepared.inputs, (wrong,), prepared.fingerprint)
    with pytest.raises(LoweringError, match=r"Emulated for big:1 it is .* off eager PyTorch"):
        emulate(other, SOC, BIG, counter, lambda step: None)


def test_only_aarch64_chips_are_emulated():
    with pytest.raises(UsageError, match=r"odroid-xu4 is no AArch64 chip but armv7.*for example rk3588"):
        emulate_profile(network(), INPUTS, load_soc("odroid-xu4"), [BIG], lambda step: None)


def test_cores_that_the_chip_does_not_have_are_told():
    with pytest.raises(UsageError, match="5 cores asked for, 4 there"):
        counter_for(SOC, [CoreConfiguration("big", 5)])


def test_all_that_is_missing_is_told_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulatorError, match=r"qemu-user(.|\n)*llvm-mca and llvm-objdump 17 or newer"):
        counter_for(SOC, [BIG])


def test_a_core_that_llvm_does_not_know_is_told(counter):
    strange = SOC.cluster("big").model_copy(update={"core_type": "cortex-a7777"})
    soc = SOC.model_copy(update={"clusters": (strange, SOC.cluster("little"))})
    with pytest.raises(EmulatorError, match="describes no AArch64 core 'cortex-a7777'"):
        counter_for(soc, [BIG, LITTLE])


def test_a_qemu_without_plugins_is_told(emulator, monkeypatch, tmp_path):
    old = tmp_path / "qemu-aarch64"
    old.write_text("#!/bin/sh\necho usage: qemu-aarch64 [options] program\n")
    old.chmod(0o755)
    assert subprocess.run([old], check=True, capture_output=True).stdout
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(EmulatorError, match="built without plugins"):
        counter_for(SOC, [BIG])
