import pytest
import torch
import tvm
from torch import nn

from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.tiling import Core
from cospipe.backends.tvm.tuning.target_match import target_text
from cospipe.backends.tvm.tuning.tasks import find_tasks, parse_selection
from cospipe.ir.capture import capture
from cospipe.ir.errors import UsageError

CORE = Core(
    architecture="x86_64",
    simd_bytes=16,
    registers=16,
    fma_per_cycle=1.0,
    l1_bytes=32768,
    l2_bytes=524288,
    cores=1,
    memory_bytes_per_cycle=4.0,
    loads_weights_first=False,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("all", [0, 1, 2, 3, 4, 5]), ("0,2", [0, 2]), ("3-5", [3, 4, 5]), ("4-", [4, 5]), ("1, 0-2", [1, 0, 2])],
)
def test_tasks_are_chosen_by_numbers_and_ranges(text, expected):
    assert parse_selection(text, 6) == expected


@pytest.mark.parametrize("text", ["", "x", "6", "2-6", "3-2", "-3", "0,,1", "1.5"])
def test_a_task_that_does_not_exist_is_named(text):
    with pytest.raises(UsageError, match="is no task of this model, which has 0 to 5"):
        parse_selection(text, 6)


@pytest.fixture(scope="module")
def found():
    layers = [nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1)]
    example = (torch.rand(1, 8, 6, 6),)
    graph = capture(nn.Sequential(*layers, nn.Softmax(-1)).eval(), example)
    return find_tasks(import_stage(graph, example), CORE, allows_winograd=False)


def test_equal_kernels_are_one_task(found):
    pairs = [task for task in found.tasks if task.calls == 2]
    assert [task.kind for task in pairs] == ["convolution"]
    assert pairs[0].nodes == ("conv2d", "relu", "conv2d_1", "relu_1")


def test_tasks_are_ordered_by_their_work(found):
    operations = [task.operations for task in found.tasks]
    assert operations == sorted(operations, reverse=True)
    assert found.tasks[0].nodes == ("conv2d_2",)


def test_what_cannot_be_tuned_is_listed(found):
    assert ("softmax", ("softmax",)) in found.left_to_ours


def test_targets_share_kernels_only_on_equal_cores():
    def text(**more):
        options = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "num-cores": 2, **more}
        return target_text(tvm.target.Target(options))

    assert text() == text(mtriple="aarch64-unknown-linux-gnu")
    assert text(mattr=["+neon", "+crc"]) == text(mattr=["+crc", "+neon"])
    different = [text(mcpu="cortex-a53"), text(**{"num-cores": 4}), text(mattr=["+dotprod"]), text(mtriple="x86_64")]
    assert text() not in different
