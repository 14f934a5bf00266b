"""Packages for AArch64, linked by zig and by GCC, run under QEMU against eager PyTorch."""

import os
import shutil
import sys

import numpy as np
import pytest
import torch
from tvmc_models import ThreeKinds, example_image, tvmc, write_onnx

from cospipe.backends.emulator.qemu import find_emulator
from cospipe.backends.tvm.tvmc.package import open_package
from cospipe.ir.errors import EmulatorError

SHAPE = (1, 3, 12, 12)
GCC = "aarch64-linux-gnu-gcc"


def _missing(reason):
    if os.environ.get("COSPIPE_REQUIRE_EMULATOR"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def emulator():
    try:
        return find_emulator()
    except EmulatorError as error:
        _missing(str(error))


@pytest.mark.emulated
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-f", "tar"),
        ("--cross-compiler", f"{sys.executable} -m ziglang cc -target aarch64-linux-gnu.2.28"),
        ("--cross-compiler", GCC, "--cross-compiler-options", "-Wl,-O1 -s"),
    ],
    ids=["zig", "objects", "zig named", "gcc"],
)
def test_package_for_aarch64(emulator, tmp_path, arguments):
    if GCC in arguments and shutil.which(GCC) is None:
        _missing(f"{GCC} is missing (Debian: apt-get install gcc-aarch64-linux-gnu)")
    network, image = ThreeKinds().eval(), example_image(*SHAPE)
    model = write_onnx(network, (image,), tmp_path / "net.onnx", input_names=["image"], output_names=["scores"])
    target = "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72 -mattr=+neon -num-cores=2"
    assert tvmc("compile", model, "--target", target, "-o", tmp_path / "net.tar", *arguments) == 0
    package = open_package(tmp_path / "net.tar")
    assert (package.metadata.architecture, package.metadata.core_type) == ("aarch64", "cortex-a72")
    values = {"image": image.numpy()}
    results = emulator.run_library(package.stage_files(), package.shared_library(), package.weights, values)
    with torch.no_grad():
        np.testing.assert_allclose(results["scores"], network(image).numpy(), atol=1e-5)
