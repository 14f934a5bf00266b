import torch
from torch import nn

from cospipe.ir.capture import capture


def operations(captured):
    return [str(n.target) for n in captured.graph.nodes if n.op == "call_function"]


def buffers(captured):
    return dict(captured.named_buffers())


class Masked(nn.Module):
    """A window mask built from new_zeros of the input, as Swin does."""

    def forward(self, x):
        mask = x.new_zeros((4, 4))
        mask[:2] = 1
        return x.masked_fill(mask != 0, -1.0)


class PositionBias(nn.Module):
    """A table of floating-point numbers, read at constant places."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(5))
        self.register_buffer("places", torch.arange(4).flip(0))

    def forward(self, x):
        return x + self.table[self.places.view(-1) + 1]


class Copies(nn.Module):
    def forward(self, x):
        unchanged = torch.nn.functional.pad(x[:, 0:4].clone().detach().view(4, 4).expand(4, 4), (0, 0))
        return unchanged.to(torch.float32) + 1


class Transposes(nn.Module):
    def forward(self, x):
        return x.t().reshape(2, 8)


def test_mask_becomes_a_buffer():
    x = torch.randn(4, 4)
    captured = capture(Masked(), (x,))
    assert operations(captured) == ["aten.masked_fill.Scalar"]
    assert list(buffers(captured)) == ["constant_ne"]
    assert torch.equal(captured(x)[0], Masked()(x))


def test_constants_carry_the_path_of_their_module():
    captured = capture(nn.Sequential(nn.Identity(), Masked(), Masked()), (torch.randn(4, 4),))
    assert list(buffers(captured)) == ["1.constant_ne", "2.constant_ne"]


def test_constants_of_one_module_are_numbered():
    class Twice(nn.Module):
        def forward(self, x):
            return x + x.new_zeros(4, 4) * 2 - (x.new_ones(4, 4) * 3)

    captured = capture(Twice(), (torch.randn(4, 4),))
    assert list(buffers(captured)) == ["constant_mul", "constant_mul_1"]


def test_what_depends_on_a_parameter_stays_an_operation():
    model, x = PositionBias(), torch.randn(3, 4)
    captured = capture(model, (x,))
    assert operations(captured) == ["aten.index.Tensor", "aten.add.Tensor"]
    assert list(buffers(captured)) == ["constant_add"]
    with torch.no_grad():
        model.table.mul_(2)
    assert torch.equal(captured(x)[0], model(x))


def test_operations_without_effect_are_removed():
    x = torch.randn(4, 4)
    captured = capture(Copies(), (x,))
    assert operations(captured) == ["aten.add.Tensor"]
    assert torch.equal(captured(x)[0], x + 1)


def test_copy_that_changes_the_layout_stays():
    x = torch.randn(4, 4)
    captured = capture(Transposes(), (x,))
    assert operations(captured)[1:] == ["aten.clone.default", "aten.reshape.default"]
    assert torch.equal(captured(x)[0], x.t().reshape(2, 8))


def test_unused_layers_and_tensors_are_dropped():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            self.unused(x)
            return self.used(x)

    captured = capture(Unused(), (torch.randn(4, 4),))
    assert set(captured.state_dict()) == {"used.weight", "used.bias"}
    assert operations(captured) == ["aten.linear.default"]
