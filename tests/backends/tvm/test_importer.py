"""Everything that cannot be compiled is named at once, before any work starts."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cospipe.backends.tvm.importer import check_supported, import_stage
from cospipe.ir.capture import capture
from cospipe.ir.errors import UnsupportedModelError

IMAGE = (torch.ones(1, 3, 8, 8),)


class KthValue(nn.Module):
    def forward(self, x):
        return x.kthvalue(2, dim=1).values


class Cummax(nn.Module):
    def forward(self, x):
        return x.cummax(dim=-1).values


def test_all_unsupported_operations_are_named_with_node_and_module():
    tail = nn.Sequential(OrderedDict(second=KthValue()))
    model = nn.Sequential(OrderedDict(head=nn.Conv2d(3, 4, 3), first=Cummax(), tail=tail))
    with pytest.raises(UnsupportedModelError) as error:
        check_supported(capture(model, IMAGE))
    assert len(error.value.problems) == 2
    assert "cummax.default (node cummax, in first)" in error.value.problems
    assert "kthvalue.default (node kthvalue, in tail.second)" in error.value.problems


def test_an_operation_of_the_model_itself_says_so():
    with pytest.raises(UnsupportedModelError, match="in the model itself"):
        check_supported(capture(KthValue(), IMAGE))


@pytest.mark.parametrize("operation", [nn.Unfold(3), nn.AdaptiveMaxPool2d(2)])
def test_what_would_fail_later_is_refused_early(operation):
    with pytest.raises(UnsupportedModelError):
        check_supported(capture(operation, IMAGE))


def test_what_the_importer_gets_wrong_is_refused():
    class Smaller(nn.Module):
        def forward(self, x):
            return F.interpolate(x, size=(5, 4), mode="bilinear", antialias=True)

    with pytest.raises(UnsupportedModelError, match="upsample_bilinear2d_aa"):
        check_supported(capture(Smaller(), IMAGE))


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_numbers_of_other_types_are_named_once(dtype):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).to(dtype)
    with pytest.raises(UnsupportedModelError, match=str(dtype).removeprefix("torch.")) as error:
        check_supported(capture(model, (torch.ones(1, 8, dtype=dtype),)))
    assert len(error.value.problems) == 1


def test_outputs_that_depend_on_no_input_are_named():
    class Anchors(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x.relu(), torch.ones(4), self.scale

    with pytest.raises(UnsupportedModelError) as error:
        check_supported(capture(Anchors(), IMAGE))
    assert [problem.split(";")[0] for problem in error.value.problems] == [
        "output constant_ones depends on no input",
        "output scale depends on no input",
    ]


def test_weights_are_inputs_by_name_and_nothing_is_baked_in():
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), act=nn.ReLU(), last=nn.Conv2d(4, 2, 3, bias=False)))
    imported = import_stage(capture(model, IMAGE), IMAGE)
    assert sorted(imported.weight_names) == ["conv.bias", "conv.weight", "last.weight"]
    main = imported.module["main"]
    shapes = [tuple(int(extent) for extent in variable.ty.shape) for variable in main.params]
    stored = dict(model.named_parameters())
    assert shapes == [(1, 3, 8, 8), *(tuple(stored[name].shape) for name in imported.weight_names)]


@pytest.mark.parametrize("reads_positions", [False, True])
def test_positions_of_maxima_are_refused(reads_positions):
    """TVM's importer makes something else of them."""

    class Pooled(nn.Module):
        def forward(self, image):
            maxima, positions = nn.functional.max_pool2d(image, 2, return_indices=True)
            return maxima + positions if reads_positions else maxima

    captured = capture(Pooled(), (torch.randn(1, 2, 8, 8),))
    if not reads_positions:
        return check_supported(captured)
    with pytest.raises(UnsupportedModelError, match=r"max_pool2d_with_indices\.default \(node max_pool2d"):
        check_supported(captured)
