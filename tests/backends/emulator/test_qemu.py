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


def test_every_stage_the_whole_and_a_stream_agree_with_eager(board, emulator):
    result = verify_bundle(board.bundle, emulate=True)
    parts = {check.part for check in result.checks}
    assert parts == {stage.name for stage in board.plan.stages} | {"whole", "stream"}
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
    files = compiled.bundle.file(stage.library), compiled.bundle.file(stage.weights)
    with pytest.raises(EmulatorError, match="stage0 failed under qemu-aarch64"):
        emulator.run_library(stage, *files, compiled.bundle.reference())


def test_only_aarch64_bundles_are_emulated(compiled):
    if compiled.bundle.manifest.architecture == "aarch64":
        pytest.skip("this machine is an AArch64 one")
    with pytest.raises(UsageError, match="Only AArch64 bundles are emulated"):
        verify_bundle(compiled.bundle, emulate=True)


class Unusual(torch.nn.Module):
    """A number as input and as weight, an integer and a truth value as output, a scalar as output."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x, shift):
        moved = x * self.factor + shift
        return moved.argmax(1), moved > 0, moved.mean(), moved.double()


def test_tensors_of_all_kinds_cross_the_border(emulator, tmp_path):
    inputs = (torch.randn(3, 7, generator=torch.Generator().manual_seed(0)), torch.tensor(0.25))
    made = cospipe.optimize(Unusual(), inputs, soc="rk3399", output=tmp_path / "kinds")
    assert [spec.dtype for spec in made.bundle.manifest.outputs] == ["int64", "bool", "float32", "float64"]
    verify_bundle(made.bundle, emulate=True).raise_if_failed()


def test_a_missing_cpp_library_is_named(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/ld-linux-aarch64.so.1").touch()
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(qemu, "_SYSROOTS", (tmp_path,))
    with pytest.raises(EmulatorError, match=r"libstdc\+\+6-arm64-cross"):
        qemu.find_emulator()
    with pytest.raises(EmulatorError, match=f"C\\+\\+ library is missing in {tmp_path}"):
        qemu.find_qemu(tmp_path)


def test_results_of_another_size_are_refused(board, emulator):
    stage = board.bundle.manifest.stages[0]
    files = board.bundle.file(stage.library), board.bundle.file(stage.weights)
    wrong = stage.model_copy(update={"outputs": (*stage.outputs, stage.outputs[0])})
    with pytest.raises(EmulatorError, match=r"stage0 returned .* bytes under qemu-aarch64, expected"):
        emulator.run_library(wrong, *files, board.bundle.reference())
