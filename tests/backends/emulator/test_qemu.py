"""AArch64 bundles under qemu-aarch64: real AArch64 code, a real AArch64 TVM runtime."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import cospipe
from cospipe.backends.emulator import qemu
from cospipe.backends.verify import verify_bundle
from cospipe.ir.errors import EmulatorError, UsageError

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module")
def board(small_network, small_inputs, tmp_path_factory):
    output = tmp_path_factory.mktemp("board") / "bundle"
    return cospipe.optimize(small_network, small_inputs, soc="hikey970", output=output, cores="big:2+little:1")


def test_every_stage_and_the_whole_agree_with_eager(board, emulator):
    result = verify_bundle(board.bundle, emulate=True)
    parts = {check.part for check in result.checks}
    assert parts == {stage.name for stage in board.plan.stages} | {"whole"}
    assert result.passed
    assert max(check.relative_error for check in result.checks) > 0  # other instructions, other rounding


def test_a_stage_may_use_two_cores(small_network, small_inputs, emulator, tmp_path):
    made = cospipe.optimize(
        small_network, small_inputs, soc="rk3588", output=tmp_path / "two", cores="big:2", objective="latency"
    )
    assert verify_bundle(made.bundle, emulate=True).passed


def test_exchanged_weights_change_the_result(board, small_network, emulator, tmp_path):
    other = type(small_network)().eval()
    with torch.no_grad():
        other.last.weight.mul_(2)
    exchanged = cospipe.exchange_weights(board.bundle, other, tmp_path / "exchanged")
    assert verify_bundle(exchanged, emulate=True).passed
    name = exchanged.manifest.outputs[0].name
    assert not np.allclose(exchanged.reference()[name], board.bundle.reference()[name])


def test_what_is_missing_is_all_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(qemu, "_SYSROOTS", (Path("/nowhere"),))
    with pytest.raises(EmulatorError, match=r"qemu-user(.|\n)*libc6-arm64-cross"):
        qemu.find_emulator()


def test_a_library_of_another_architecture_fails_with_its_reason(board, compiled, emulator):
    stage = compiled.bundle.manifest.stages[0]
    with pytest.raises(EmulatorError, match="stage0 failed under qemu-aarch64"):
        emulator.run_stage(compiled.bundle, stage, compiled.bundle.reference())


def test_only_aarch64_bundles_are_emulated(compiled):
    if compiled.bundle.manifest.architecture == "aarch64":
        pytest.skip("this machine is an AArch64 one")
    with pytest.raises(UsageError, match="Only AArch64 bundles are emulated"):
        verify_bundle(compiled.bundle, emulate=True)
