"""The life of an adapter on an eager model: files, several on one base, merging and taking out."""

import copy
import json
import math

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import scipy.fft
import torch
from torch import nn

from cospipe.ir.adapter_file import read_adapter
from cospipe.ir.coefficient_places import matrix_shape
from cospipe.ir.eager_adapters import Adapters, adapt, load_adapter
from cospipe.ir.errors import AdapterError, UsageError
from cospipe.ir.spectral_config import SpectralConfig


def base_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 8), nn.Tanh(), nn.Linear(8, 3))


X = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(3))
CONFIG = SpectralConfig(n=20, alpha=0.5, layers="0|3", also_train="5")


def train(adapters, seed, steps=3):
    """A few real steps; also moves what is trained whole."""
    target = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(adapters.trainable_parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (adapters.model(X) - target).square().mean().backward()
        optimizer.step()


def trained_adapter(seed=1, config=CONFIG, **options):
    adapters = adapt(base_model(), config, **options)
    train(adapters, seed)
    return adapters


def dense_change(delta):
    """What scipy makes of the coefficients."""
    spectrum = np.zeros(matrix_shape(delta.shape))
    spectrum[delta.rows.numpy(), delta.columns.numpy()] = delta.coefficients.detach().double().numpy()
    return torch.from_numpy(delta.alpha * scipy.fft.idctn(spectrum, norm="ortho").reshape(delta.shape)).float()


def with_weights(changes, heads):
    """The base with changes added to weights and other values for its head; called on X."""
    state = {key: value + changes.get(key, 0) for key, value in base_model().state_dict().items()} | heads
    return torch.func.functional_call(base_model(), state, (X,)).detach()


def head_of(adapters):
    return {f"5.{key}": value.detach().clone() for key, value in adapters.model[5].state_dict().items()}


def two_adapters():
    """Two trained adapters on one base; for each the dense changes and its head."""
    adapters, facts = adapt(base_model(), CONFIG, name="cats"), {}
    train(adapters, 1)
    facts["cats"] = ({key: dense_change(delta) for key, delta in adapters.deltas().items()}, head_of(adapters))
    adapters.add(SpectralConfig(n=9, layers="3", also_train="5.bias", selection="random"), "dogs")
    train(adapters, 2)
    facts["dogs"] = ({key: dense_change(delta) for key, delta in adapters.deltas().items()}, head_of(adapters))
    return adapters, facts


# files


def test_saved_and_loaded_it_is_the_same_bit_by_bit(tmp_path):
    adapters = trained_adapter()
    adapters.save(tmp_path / "a.safetensors", base="a small network", labels=["cat", "dog", "cow"])
    model = base_model()
    loaded = load_adapter(model, tmp_path / "a.safetensors")
    assert torch.equal(model(X), adapters.model(X))
    assert {k: v.coefficients.tolist() for k, v in loaded.deltas().items()} == {
        k: v.coefficients.tolist() for k, v in adapters.deltas().items()
    }
    header = read_adapter(tmp_path / "a.safetensors").header
    assert (header.base, header.labels) == ("a small network", ("cat", "dog", "cow"))
    assert SpectralConfig(**header.config) == CONFIG
    train(loaded, 5)  # it can be trained on
    loaded.save(tmp_path / "b.safetensors")
    assert torch.equal(load_adapter(base_model(), tmp_path / "b.safetensors").model(X), model(X))


def test_the_safetensors_library_reads_it(tmp_path):
    adapters = trained_adapter()
    adapters.save(tmp_path / "a.safetensors")
    tensors = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    delta = adapters.deltas()["3.weight"]
    np.testing.assert_array_equal(tensors["coefficients.3.weight"], delta.coefficients.detach().numpy())
    np.testing.assert_array_equal(tensors["places.3.weight"], delta.rows.numpy() * 96 + delta.columns.numpy())
    np.testing.assert_array_equal(tensors["trained.5.bias"], adapters.model[5].bias.detach().numpy())
    assert sorted(tensors) == [
        "coefficients.0.weight", "coefficients.3.weight", "places.0.weight", "places.3.weight",
        "trained.5.bias", "trained.5.weight",
    ]  # fmt: skip
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        header = json.loads(file.metadata()["cospipe.adapter"])
    assert header["weights"]["0.weight"]["shape"] == [6, 2, 3, 3]


def test_a_coefficient_costs_eight_bytes(tmp_path):
    adapt(nn.Linear(300, 300), SpectralConfig(n=5000)).save(tmp_path / "a.safetensors")
    size = (tmp_path / "a.safetensors").stat().st_size
    header = 8 + int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little")
    assert size - header == 5000 * 8
    assert header < 1000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_base_in_another_precision(tmp_path, dtype):
    half = base_model().bfloat16()
    adapters = adapt(half, CONFIG)
    adapters.save(tmp_path / "a.safetensors")
    other = load_adapter(base_model().bfloat16().to(dtype), tmp_path / "a.safetensors")  # the same values
    assert {delta.coefficients.dtype for delta in other.deltas().values()} == {
        torch.float64 if dtype == torch.float64 else torch.float32
    }
    assert {parameter.dtype for parameter in other.model[5].parameters()} == {dtype}


def test_a_base_that_does_not_fit_is_told_everything(tmp_path):
    trained_adapter().save(tmp_path / "a.safetensors")
    model = base_model()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 1e-6
    model[3] = nn.Linear(96, 9)
    model[5] = nn.Linear(9, 4, bias=False)
    before = set(model.state_dict())
    with pytest.raises(AdapterError) as failure:
        load_adapter(model, tmp_path / "a.safetensors")
    assert str(failure.value).splitlines() == [
        f"{tmp_path / 'a.safetensors'} was trained on another base and does not fit this model:",
        "  - 0.weight has other values than the one the adapter was trained on",
        "  - 3.weight is (9, 96), the adapter's (8, 96)",
        "  - 5.weight is (4, 9), the adapter's (3, 8)",
        "  - there is no parameter 5.bias",
    ]
    assert set(model.state_dict()) == before
    with pytest.raises(AdapterError, match=r"there is no weight 0\.weight"):
        load_adapter(nn.Linear(4, 4), tmp_path / "a.safetensors")


def test_coefficients_that_are_not_finite_are_not_saved(tmp_path):
    adapters = trained_adapter()
    with torch.no_grad():
        adapters.deltas()["3.weight"].coefficients[1] = math.nan
        adapters.model[5].bias[0] = math.inf
    with pytest.raises(AdapterError) as failure:
        adapters.save(tmp_path / "a.safetensors")
    assert "coefficients of 3.weight: infinite or undefined numbers" in str(failure.value)
    assert "5.bias: infinite or undefined numbers" in str(failure.value)
    assert list(tmp_path.iterdir()) == []


def test_saving_while_merged_or_another_is_active(tmp_path):
    adapters, _ = two_adapters()
    for name in ("cats", "dogs"):
        adapters.switch(name)
        adapters.save(tmp_path / f"{name}.safetensors")
    expected = {name: (tmp_path / f"{name}.safetensors").read_bytes() for name in ("cats", "dogs")}
    for state in ("switched", "blended", "half", "base", "merged"):
        if state == "switched":
            adapters.switch("cats")
        elif state == "blended":
            adapters.blend({"cats": 0.5, "dogs": 0.5})
        elif state == "half":
            adapters.blend({"cats": 0.5})
        elif state == "base":
            adapters.switch(None)
        else:
            adapters.switch("cats")
            adapters.merge()
        for name in ("cats", "dogs"):
            adapters.save(tmp_path / "again.safetensors", name)
            assert (tmp_path / "again.safetensors").read_bytes() == expected[name], (state, name)


# several on one base


def test_switching_between_two_adapters_and_the_base():
    adapters, facts = two_adapters()
    assert adapters.names == ("cats", "dogs")
    for name in ("cats", "dogs", "cats"):
        adapters.switch(name)
        assert adapters.active == {name: 1.0}
        torch.testing.assert_close(adapters.model(X), with_weights(*facts[name]), atol=1e-5, rtol=1e-5)
        assert {key: v.tolist() for key, v in head_of(adapters).items()} == {
            key: v.tolist() for key, v in facts[name][1].items()
        }
    adapters.switch(None)
    assert torch.equal(adapters.model(X), base_model()(X))
    assert adapters.trainable_parameters() == []


def test_only_the_active_adapter_is_trained():
    adapters, facts = two_adapters()
    adapters.switch("cats")
    assert sum(parameter.numel() for parameter in adapters.trainable_parameters()) == 20 + 20 + 3 * 8 + 3
    train(adapters, 7)
    adapters.switch("dogs")
    assert sum(parameter.numel() for parameter in adapters.trainable_parameters()) == 9 + 3
    torch.testing.assert_close(adapters.model(X), with_weights(*facts["dogs"]), atol=1e-5, rtol=1e-5)
    adapters.switch("cats")
    assert (adapters.model(X) - with_weights(*facts["cats"])).abs().max() > 1e-3


@pytest.mark.parametrize("strengths", [{"cats": 0.3, "dogs": 0.9}, {"cats": -1.0}, {"cats": 1.0, "dogs": 0.0}, {}])
def test_a_blend_is_the_weighted_sum(strengths):
    adapters, facts = two_adapters()
    adapters.blend(strengths)
    assert adapters.trainable_parameters() == []
    base, changes = base_model().state_dict(), {}
    for name, strength in strengths.items():
        for key, change in facts[name][0].items():
            changes[key] = changes.get(key, 0) + strength * change
        for key, value in facts[name][1].items():
            changes[key] = changes.get(key, 0) + strength * (value - base[key])
    torch.testing.assert_close(adapters.model(X).detach(), with_weights(changes, {}), atol=1e-5, rtol=1e-5)
    adapters.switch("cats")  # nothing of the blend stays
    torch.testing.assert_close(adapters.model(X), with_weights(*facts["cats"]), atol=1e-5, rtol=1e-5)
    assert torch.equal(adapters.model[5].weight, facts["cats"][1]["5.weight"])


def test_a_second_adapter_starts_as_the_base():
    adapters = trained_adapter()
    adapters.add(CONFIG, "second")
    assert torch.equal(adapters.model(X), base_model()(X))


def test_one_adapter_changes_the_layer_that_another_trains_whole(tmp_path):
    adapters = trained_adapter(name="whole", config=SpectralConfig(n=20, layers="0|3", also_train="5"))
    whole = adapters.model(X).detach()
    adapters.add(SpectralConfig(n=6, layers="5"), "spectral")
    assert torch.equal(adapters.model(X), base_model()(X))
    train(adapters, 2)
    spectral = adapters.model(X).detach()
    adapters.save(tmp_path / "spectral.safetensors")
    adapters.switch("whole")
    assert torch.equal(adapters.model(X), whole)
    assert adapters.model[5].parametrizations.weight.original.requires_grad
    adapters.save(tmp_path / "whole.safetensors")
    for order in (("whole", "spectral"), ("spectral", "whole")):
        again = Adapters(base_model())
        for name in order:
            again.load(tmp_path / f"{name}.safetensors", name)
        for name, expected in (("whole", whole), ("spectral", spectral)):
            again.switch(name)
            assert torch.equal(again.model(X), expected), (order, name)
    adapters.switch("whole")
    adapters.remove()
    assert all(torch.equal(adapters.model.state_dict()[k], v) for k, v in base_model().state_dict().items())


def test_names_are_checked():
    adapters = trained_adapter(name="cats")
    with pytest.raises(UsageError, match=r"has an adapter called 'cats' already; give the new one another name"):
        adapters.add(CONFIG, "cats")
    for use in (adapters.switch, lambda name: adapters.blend({name: 1}), lambda name: adapters.save("x", name)):
        with pytest.raises(UsageError, match=r"There is no adapter 'dogs'\. Known: cats"):
            use("dogs")
    adapters.switch(None)
    with pytest.raises(UsageError, match=r"Name the adapter: cats\."):
        adapters.save("x")


# merging


def test_merged_weights_are_the_sum_and_cost_nothing():
    adapters, facts = two_adapters()
    adapters.switch("cats")
    expected = adapters.model(X).detach()
    adapters.merge()
    assert torch.equal(adapters.model(X), expected)
    base = base_model().state_dict()
    for key, change in facts["cats"][0].items():
        stored = adapters._base(key)
        torch.testing.assert_close(stored.detach(), base[key] + change)
        assert adapters.model.get_submodule(key.split(".")[0]).weight is stored  # no addition is left


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerging_is_bit_exact(dtype):
    adapters = adapt(base_model().to(dtype), CONFIG)
    with torch.no_grad():
        for delta in adapters.deltas().values():
            delta.coefficients.normal_(std=100)  # what W + dW - dW would not bring back
    before = {key: value.clone() for key, value in adapters.model.state_dict().items()}
    expected = adapters.model(X.to(dtype))
    for _ in range(2):
        adapters.merge()
        adapters.unmerge()
    assert all(torch.equal(value, before[key]) for key, value in adapters.model.state_dict().items())
    assert torch.equal(adapters.model(X.to(dtype)), expected)


def test_merging_twice_and_changing_what_is_merged_is_refused(tmp_path):
    adapters = trained_adapter()
    adapters.save(tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=r"Nothing is merged; call merge\(\) first"):
        adapters.unmerge()
    adapters.merge()
    expected = adapters.model(X)
    for what, use in {
        "merge": adapters.merge,
        "switch": lambda: adapters.switch(None),
        "add": lambda: adapters.add(CONFIG, "b"),
    }.items():
        with pytest.raises(UsageError, match=rf"merged already; call unmerge\(\) before you {what}"):
            use()
    with pytest.raises(UsageError, match="merged already"):
        adapters.load(tmp_path / "a.safetensors", "b")
    with pytest.raises(UsageError, match="merged already"):
        adapters.blend({"default": 0.5})
    assert torch.equal(adapters.model(X), expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_merging_what_is_not_finite_changes_nothing(value):
    adapters = trained_adapter()
    with torch.no_grad():
        adapters.deltas()["3.weight"].coefficients[:2] = value
        adapters.deltas()["3.weight"].alpha = 1e3
    before = {key: value.clone() for key, value in adapters.model.state_dict().items()}
    with pytest.raises(AdapterError, match=r"infinite or undefined numbers in these weights:\n  - 3\.weight$"):
        adapters.merge()
    for key, tensor in adapters.model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[key].numpy())
    with pytest.raises(UsageError, match="Nothing is merged"):
        adapters.unmerge()


def test_removing_what_is_merged_keeps_it():
    adapters = trained_adapter()
    expected = adapters.model(X).detach()
    adapters.merge()
    model = adapters.remove()
    assert list(model.state_dict()) == list(base_model().state_dict())
    assert torch.equal(model(X), expected)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("merged", [False, True])
def test_after_removal_the_model_is_a_base_like_any_other(merged):
    adapters = trained_adapter()
    if merged:
        adapters.merge()
    model = adapters.remove()
    start = copy.deepcopy(model)
    assert adapters.names == ()
    for again in (adapters, Adapters(model)):
        again.add(CONFIG)
        assert torch.equal(model(X), start(X))
        train(again, 4)
        assert (model(X) - start(X)).abs().max() > 1e-3
        again.remove()
        assert all(torch.equal(value, start.state_dict()[key]) for key, value in model.state_dict().items())


def test_inference_mode_after_training_and_training_after_inference_mode():
    adapters = trained_adapter()
    with torch.inference_mode():
        expected = adapters.model(X)
    torch.testing.assert_close(adapters.model(X).detach(), expected.clone())
    train(adapters, 2)
