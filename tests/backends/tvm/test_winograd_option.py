"""The option that turns Winograd's method off reaches the kernels, and the bundle tells what was chosen."""

import pytest
import torch
from torch import nn

import cospipe
from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.lower import lowering_passes
from cospipe.backends.tvm.target import core_target
from cospipe.backends.tvm.tiling import Core
from cospipe.ir.capture import capture
from cospipe.ir.soc import load_soc

CORE = Core("aarch64", 16, 32)


def convolution():
    torch.manual_seed(0)
    return nn.Conv2d(64, 64, 3, padding=1).eval(), (torch.randn(1, 64, 30, 30),)


def kernels(allows_winograd):
    """Return the names of the functions of a 3x3 convolution after the layout was rewritten."""
    module, inputs = convolution()
    soc = load_soc("host")
    target = core_target(soc.clusters[0], 1, soc.architecture)
    lowered = import_stage(capture(module, inputs), inputs).module
    with target:
        for step in lowering_passes(target, CORE, allows_winograd):
            lowered = step(lowered)
            if step.info.name == "RewriteLayout":
                return {variable.name_hint for variable in lowered.functions}


def test_it_decides_the_kernel():
    assert {"winograd", "convolution"} & kernels(allows_winograd=True) == {"winograd"}
    assert {"winograd", "convolution"} & kernels(allows_winograd=False) == {"convolution"}


@pytest.mark.parametrize("winograd", [True, False])
def test_it_is_recorded_and_the_numbers_are_right(tmp_path, winograd):
    module, inputs = convolution()
    bundle = cospipe.optimize(module, inputs, output=tmp_path / "bundle", max_stages=1, winograd=winograd).bundle
    assert bundle.manifest.winograd is winograd
    cospipe.verify_bundle(bundle).raise_if_failed()
