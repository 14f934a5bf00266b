"""Models by name, their inputs, and random weights that hide no layer."""

import pytest
import torch
import torchvision
from models import FIVE, PRESETS, UNSEEN, InputSpec, Network, load_network, model_specs, randomise
from torch import nn

from cospipe.ir.errors import UsageError


class Chain(nn.Module):
    """Eight linear layers as torch makes them, which shrink their input; a tiny scale, and a head of zeros."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(8))
        self.norm = nn.BatchNorm1d(32)
        self.head = nn.Linear(32, 10)
        self.layer_scale = nn.Parameter(torch.full((32,), 1e-6))
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(self.layer_scale * self.norm(x))


def randomised_chain():
    network = Network(Chain().eval().requires_grad_(False), (torch.randn(4, 32, generator=seeded(1)),))
    randomise(network, seeded(2))
    return network


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [("1x3x299x299", (1, 3, 299, 299), "float32"), ("1x128:int64", (1, 128), "int64"), ("7", (7,), "float32")],
)
def test_an_input_is_a_shape_and_a_type(text, shape, dtype):
    spec = InputSpec.parse(text)
    tensor = spec.tensor(seeded(0))
    assert (spec.shape, spec.dtype) == (shape, dtype)
    assert tensor.shape == shape
    assert tensor.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("text", ["", "1x", "1x0x3", "1,3", "axb", "1x128:int63", "1x3:bfloat16"])
def test_other_inputs_are_answered_by_a_sentence(text):
    with pytest.raises(UsageError, match=r"no input|not known here"):
        InputSpec.parse(text)


def test_token_ids_fit_any_vocabulary():
    ids = InputSpec((4, 500), "int64").tensor(seeded(0))
    assert ids.min() >= 0
    assert ids.max() < 1000
    assert len(ids.unique()) > 100


def test_presets_names_and_factories_become_specs_once():
    specs = model_specs(["five", "resnet18", "alexnet", "torch.nn:Identity", "minilm_l6"])
    assert specs[:5] == [f"torchvision.models:{name}" for name in FIVE]
    assert specs[5:] == ["torchvision.models:resnet18", "torch.nn:Identity", "models:minilm_l6"]


def test_presets_are_known_networks_and_share_none():
    known = [*torchvision.models.list_models(), "minilm_l6"]
    assert {name for names in PRESETS.values() for name in names} <= set(known)
    assert not set(FIVE) & set(UNSEEN)


def test_all_unknown_models_are_told_at_once():
    with pytest.raises(UsageError) as caught:
        model_specs(["resnet500", "no_such_package:net", "resnet18"])
    assert "resnet50" in str(caught.value)
    assert "no_such_package" in str(caught.value)
    assert "resnet18:" not in str(caught.value)


def test_layers_of_a_random_network_put_out_values_of_scale_one():
    network = randomised_chain()
    deviations = []
    for layer in [*network.module.layers, network.module.head]:
        layer.register_forward_hook(lambda module, inputs, output: deviations.append(float(output.std())))
    network.module(*network.inputs)
    assert deviations == pytest.approx([1.0] * 9, rel=1e-4)


def test_an_error_in_any_layer_is_seen_at_the_output():
    network = randomised_chain()
    expected = network.module(*network.inputs)
    for parameter in network.module.parameters():
        before = parameter.data.clone()
        parameter.data = before.roll(1, 0) * 2
        error = (network.module(*network.inputs) - expected).abs().max() / expected.abs().max()
        parameter.data = before
        assert error > 0.01


def test_batch_norm_is_randomised_and_the_seed_decides():
    first, second = randomised_chain().module, randomised_chain().module
    assert first.norm.running_var.std() > 0.1
    assert first.norm.weight.std() > 0.1
    assert all(torch.equal(first.state_dict()[name], value) for name, value in second.state_dict().items())


def test_weights_that_are_kept_are_the_factory_s():
    network = load_network("test_benchmark_models:Chain", [InputSpec((4, 32))], keep_weights=True)
    assert torch.equal(network.module.layers[0].weight, Chain().layers[0].weight)
    changed = load_network("test_benchmark_models:Chain", [InputSpec((4, 32))], keep_weights=False)
    assert not torch.equal(changed.module.layers[0].weight, network.module.layers[0].weight)
