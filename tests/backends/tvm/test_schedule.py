"""Scheduled kernels: outer loops on the cores, inner ones in vector registers, accumulators on the stack."""

import logging
import re
from math import prod

import pytest
import torch
import tvm
from compiling import Function, compile_and_compare
from torch import nn
from tvm import s_tir, tirx

from cospipe.backends.tvm import schedule
from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.lower import lowering_passes
from cospipe.backends.tvm.target import core_target
from cospipe.backends.tvm.tiling import Core
from cospipe.ir.capture import capture
from cospipe.ir.soc import load_soc

ARM = Core("aarch64", 16, 32)
STACK_BYTES = 1024
_BUFFER_PASSES = (  # TVM's own, which give each buffer its place and size
    "LowerInitBlock",
    "PlanAndUpdateBufferAllocationLocation",
    "ConvertBlocksToOpaque",
    "CompactBufferAllocation",
)


def scheduled_kernels(model, inputs):
    """Return the scheduled functions of a module compiled for one core of a HiKey 970."""
    target = core_target(load_soc("hikey970").clusters[0], 1, "aarch64")
    module = import_stage(capture(model.eval(), inputs), inputs).module
    with target:
        for step in lowering_passes(target, ARM):
            module = step(module)
            if step.info.name == "ScheduleKernels":
                break
    return [function for function in module.functions.values() if isinstance(function, tirx.PrimFunc)]


def loops(function, kind):
    """Return the extents of the loops of a kind: parallel, vectorized or unroll."""
    return [int(extent) for extent in re.findall(rf"T\.{kind}\((?:T\.int64\()?(\d+)", function.script())]


def buffers(function):
    """Return the sizes in bytes of the FP64 buffers inside a kernel, as large as they are really used."""
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    for step in _BUFFER_PASSES:
        module = getattr(s_tir.transform, step)()(module)
    shapes = re.findall(r"alloc_buffer\(\(((?:T\.int64\(\d+\),? ?|\d+,? ?)+)\)", module["main"].script())
    return [8 * prod(int(extent) for extent in re.findall(r"\d+", shape.replace("int64", ""))) for shape in shapes]


LARGE = {  # in double precision, for which there are no kernels of our own
    "convolution": (nn.Conv2d(16, 32, 3, padding=1), torch.randn(1, 16, 28, 28)),
    "pointwise": (nn.Conv2d(32, 64, 1), torch.randn(1, 32, 28, 28)),
    "depthwise": (nn.Conv2d(32, 32, 3, padding=1, groups=32), torch.randn(1, 32, 28, 28)),
    "tokens": (nn.Linear(96, 192), torch.randn(2, 49, 96)),
    "product": (Function(lambda x: x @ x.transpose(-1, -2)), torch.randn(1, 4, 32, 32)),
}


@pytest.mark.parametrize("case", LARGE)
def test_the_reduction_is_tiled(case, caplog):
    model, example = LARGE[case]
    with caplog.at_level(logging.WARNING, logger="cospipe"):
        kernels = scheduled_kernels(model.double(), (example.double(),))
    main = max(kernels, key=lambda function: len(loops(function, "unroll")))
    assert loops(main, "parallel")
    assert loops(main, "unroll")
    assert max(loops(main, "vectorized")) <= 4 * ARM.lanes
    assert "could not be tiled" not in caplog.text


@pytest.mark.parametrize("case", LARGE)
def test_accumulators_stay_on_the_stack(case):
    model, example = LARGE[case]
    main = max(
        scheduled_kernels(model.double(), (example.double(),)), key=lambda function: len(loops(function, "unroll"))
    )
    assert 0 < min(buffers(main)) <= STACK_BYTES


def test_a_small_kernel_runs_on_one_core():
    kernels = scheduled_kernels(nn.Conv2d(2, 2, 1), (torch.randn(1, 2, 4, 4),))
    assert kernels
    assert not any(loops(kernel, "parallel") for kernel in kernels)


def test_a_kernel_no_tile_fits_is_slow_but_right(monkeypatch, tmp_path, caplog):
    def refuse(self, reduction):
        self.schedule.vectorize(self.schedule.get_loops(reduction)[-1])  # a reduction cannot be vectorised

    monkeypatch.setattr(schedule._Kernel, "tile", refuse)
    inputs = (torch.randn(1, 8, 9, 9).double(),)
    with caplog.at_level(logging.WARNING, logger="cospipe"):
        errors = compile_and_compare(nn.Conv2d(8, 8, 3).double(), inputs, ARM, tmp_path)
    assert errors[0] <= 1e-4
    assert "could not be tiled" in caplog.text
