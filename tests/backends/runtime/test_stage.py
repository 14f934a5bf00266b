"""A stage's weights in memory: shared with the file where they can be, prepared one at a time, or refused."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import cospipe
from cospipe.backends.bundle import open_bundle
from cospipe.backends.runtime.stage import StageExecutable
from cospipe.ir.errors import BundleError
from cospipe.ir.tensor_file import TensorFile, map_tensors, write_tensors


class Mixed(nn.Module):
    """A weight that is used as it is, one that is reshaped, one that is transposed."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.same = nn.Parameter(torch.randn(64, 64, generator=generator))
        self.reshaped = nn.Parameter(torch.randn(4096, generator=generator))
        self.transposed = nn.Parameter(torch.randn(64, 64, generator=generator))

    def forward(self, x):
        image = self.reshaped.view(64, 64)
        return x * self.same + image.cos() + x.sin() * image + x * self.transposed.t()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    output = tmp_path_factory.mktemp("mixed") / "bundle"
    inputs = (torch.randn(64, 64, generator=torch.Generator().manual_seed(1)),)
    return cospipe.optimize(Mixed().eval(), inputs, output=output, max_stages=1).bundle


def load(bundle, **changes):
    files = bundle.manifest.stages[0].model_copy(update=changes)
    return StageExecutable(files, bundle.file(files.library), bundle.file(files.weights))


def mappings(file):
    """Return (first address, last, resident KiB) of every mapping of a file, as the kernel tells it."""
    text = Path("/proc/self/smaps").read_text()
    found = re.findall(rf"^(\w+)-(\w+) .*{re.escape(str(file))}\n(?:.*\n)*?Rss: +(\d+) kB", text, re.MULTILINE)
    return [(int(first, 16), int(last, 16), int(resident)) for first, last, resident in found]


def test_weights_that_are_not_packed_share_the_mapped_file(mixed):
    stage = load(mixed)
    ranges = mappings(mixed.file(stage.files.weights))
    is_shared = {}
    for argument, tensor in zip(stage.files.weight_arguments, stage.weights, strict=True):
        address = np.from_dlpack(tensor).ctypes.data
        is_shared.setdefault(argument.weights, set()).add(any(first <= address < last for first, last, _ in ranges))
    assert is_shared == {("same",): {True}, ("reshaped",): {True, False}, ("transposed",): {False}}


def test_released_pages_leave_memory_and_come_back(tmp_path):
    values = np.random.default_rng(0).random(1 << 18)  # 2 MiB
    write_tensors(tmp_path / "weights", {"values": values, "zeros": np.zeros(1024)})
    file = TensorFile(tmp_path / "weights")
    assert np.array_equal(file.tensor("values"), values)
    [(_, _, resident)] = mappings(tmp_path / "weights")
    file.release("values")
    [(_, _, remaining)] = mappings(tmp_path / "weights")
    assert resident >= 2000
    assert remaining < 200
    assert np.array_equal(file.tensor("values"), values)


def test_a_small_tensor_is_released_without_its_neighbours(tmp_path):
    write_tensors(tmp_path / "weights", {"a": np.ones(16), "b": np.full(16, 2.0)})
    file = TensorFile(tmp_path / "weights")
    before = file.tensor("b")
    file.release("a")
    assert (before == 2).all()
    assert (file.tensor("a") == 1).all()


def altered(bundle, folder, change):
    """Write the stage's weights changed; return what loads the stage with them."""
    files = bundle.manifest.stages[0]
    tensors = dict(map_tensors(bundle.file(files.weights)))
    change(tensors)
    write_tensors(folder / "weights.safetensors", tensors)
    return lambda: StageExecutable(files, bundle.file(files.library), folder / "weights.safetensors")


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("same", np.zeros((64, 32), np.float32), r"same of stage0 became \(64, 32\) float32, main takes same \(64x64"),
        ("same", np.zeros((64, 64), np.float64), r"same of stage0 became \(64, 64\) float64, main takes same \(64x64"),
        ("transposed", np.zeros((64, 32), np.float32), r"could not prepare transposed of stage0: .*64"),
    ],
)
def test_weights_of_another_shape_are_refused(mixed, tmp_path, name, array, words):
    with pytest.raises(BundleError, match=words):
        altered(mixed, tmp_path, lambda tensors: tensors.update({name: array}))()


def test_a_missing_weight_is_named(mixed, tmp_path):
    with pytest.raises(BundleError, match=r"weights\.safetensors lacks the weights same of stage0"):
        altered(mixed, tmp_path, lambda tensors: tensors.pop("same"))()


def test_a_manifest_of_other_arguments_is_refused(mixed):
    arguments = mixed.manifest.stages[0].weight_arguments
    takes = len(arguments) + 1
    with pytest.raises(BundleError, match=f"takes {takes} tensors, its manifest describes {takes - 1}"):
        load(mixed, weight_arguments=arguments[:-1])
    unknown = arguments[-1].model_copy(update={"function": "prepare_99"})
    with pytest.raises(BundleError, match=r"could not prepare .* of stage0"):
        load(mixed, weight_arguments=(*arguments[:-1], unknown))


def test_a_shape_the_file_does_not_hold_is_told_when_the_bundle_is_opened(mixed, tmp_path):
    manifest = mixed.manifest.model_dump_json(indent=2)
    copy = tmp_path / "bundle"
    copy.mkdir()
    for name in mixed.manifest.files:
        (copy / name).write_bytes(mixed.file(name).read_bytes())
    wrong = re.sub(r'("name": "same",\s+"shape": \[\s+)64', r"\g<1>32", manifest)
    assert wrong != manifest
    (copy / "manifest.json").write_text(wrong)
    with pytest.raises(BundleError, match=r"stage0\.safetensors does not hold same \(32x64 float32\)"):
        open_bundle(copy)


class Scaled(nn.Module):
    """Four weights of 16 MiB, each of which is packed anew; the file has 64 MiB."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.rand(2048, 2048) / 1024) for _ in range(4)])

    def forward(self, x):
        for weight in self.weights:
            x = x @ (weight * 2).t()
        return x


LOAD = """
import sys
from pathlib import Path
from cospipe.backends.bundle import open_bundle
from cospipe.backends.runtime.stage import StageExecutable
from cospipe.backends.runtime.tvm_runtime import load_runtime

def peak_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

bundle = open_bundle(sys.argv[1])
[stage] = bundle.manifest.stages
load_runtime()
before = peak_mib()
executable = StageExecutable(stage, bundle.file(stage.library), bundle.file(stage.weights))
print(peak_mib() - before)
"""


def test_loading_holds_one_weight_twice_not_all(tmp_path):
    made = cospipe.optimize(Scaled().eval(), (torch.rand(1, 2048),), output=tmp_path / "bundle", max_stages=1)
    assert [argument.function is None for argument in made.bundle.manifest.stages[0].weight_arguments] == [False] * 4
    command = [sys.executable, "-c", LOAD, str(made.bundle.path)]
    peak_mib = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 60 < peak_mib < 64 + 16 + 20
