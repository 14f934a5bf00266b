"""Compiled stages fold adapters into weights of every kind of layer when they load them."""

import copy

import pytest
import torch
from adapted_network import adapted
from torch import nn

import cospipe
from cospipe.backends.runtime.compare import relative_error


class Tied(nn.Module):
    """One matrix looks up words and gives the scores, with a layer in between."""

    def __init__(self):
        super().__init__()
        self.embedding, self.middle, self.scores = nn.Embedding(40, 16), nn.Linear(16, 16), nn.Linear(16, 40)
        self.scores.weight = self.embedding.weight

    def forward(self, words):
        return self.scores(torch.tanh(self.middle(self.embedding(words))))


class Normalised(nn.Sequential):
    """A layer and a batch norm with statistics that matter."""

    def __init__(self, layer, channels):
        norm = nn.BatchNorm2d(channels)
        super().__init__(layer, norm, nn.ReLU())
        for tensor in (norm.running_var, norm.weight.data):
            tensor.uniform_(0.5, 2)
        norm.running_mean.normal_()
        norm.bias.data.normal_()


IMAGE = torch.randn(1, 8, 9, 9, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "linear": (nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 7)), torch.randn(3, 24)),
    "conv1d": (nn.Conv1d(8, 12, 3, padding=1), IMAGE[:, :, 0]),
    "not square": (nn.Conv2d(8, 12, (3, 5), padding=(1, 2)), IMAGE),
    "grouped": (nn.Conv2d(8, 12, 3, groups=2), IMAGE),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8), IMAGE),
    "winograd": (nn.Conv2d(8, 32, 3, padding=1), IMAGE),
    "transposed": (nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2), IMAGE),
    "batch norm": (Normalised(nn.Conv2d(8, 12, 3), 12), IMAGE),
    "batch norm behind depthwise": (Normalised(nn.Conv2d(8, 8, 3, groups=8, bias=False), 8), IMAGE),
    "batch norm behind transposed": (Normalised(nn.ConvTranspose2d(8, 6, 3, groups=2), 6), IMAGE),
    "tied": (Tied(), torch.tensor([[1, 39, 5, 5]])),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_adapters_are_folded_into_this_layer(name, tmp_path):
    torch.manual_seed(1)
    network, example = NETWORKS[name]
    network = copy.deepcopy(network).eval()
    bundle = cospipe.optimize(
        network, (example,), output=tmp_path / "bundle", passes="insert-adapters{n=30},merge-adapters{at=load}"
    ).bundle
    files = {}
    for alpha, selection in ((1.0, "random"), (0.3, "low")):
        files[selection] = tmp_path / f"{selection}.safetensors"
        adapters = cospipe.adapt(copy.deepcopy(network), cospipe.SpectralConfig(n=25, alpha=alpha, selection=selection))
        with torch.no_grad():
            for delta in adapters.deltas().values():
                delta.coefficients.normal_()
        adapters.save(files[selection])
    source, target = bundle.manifest.inputs[0].name, bundle.manifest.outputs[0].name
    with cospipe.PipelineRunner(bundle) as runner:
        for file in (None, *files.values(), None):
            runner.swap_adapter(file)
            (result,) = runner.run([{source: example.numpy()}])
            with torch.no_grad():
                expected = adapted(network, file)(example).numpy()
                changes = relative_error(network(example).numpy(), expected)
            assert relative_error(result[target], expected) < 1e-5
            assert (changes > 0.05) == (file is not None)


@pytest.fixture
def trained():
    """A network with an adapter that changes it much."""
    torch.manual_seed(2)
    network = copy.deepcopy(NETWORKS["winograd"][0]).eval()
    adapters = cospipe.adapt(network, cospipe.SpectralConfig(n=30, selection="random"))
    with torch.no_grad():
        adapters.deltas()["weight"].coefficients.normal_()
    return adapters


def test_an_adapted_model_is_compiled_with_its_adapter_and_stays_as_it_is(trained, tmp_path):
    network, names = trained.model, set(trained.model.state_dict())
    bundle = cospipe.optimize(network, (IMAGE,), output=tmp_path / "bundle").bundle
    with cospipe.PipelineRunner(bundle) as runner, torch.no_grad():
        (result,) = runner.run([{bundle.manifest.inputs[0].name: IMAGE.numpy()}])
        expected = network(IMAGE).numpy()
        trained.switch(None)
        base = network(IMAGE).numpy()
    assert set(network.state_dict()) == names
    (found,) = result.values()
    assert relative_error(found, expected) < 1e-5
    assert relative_error(base, expected) > 0.05


def test_a_bundle_with_room_takes_another_base_and_then_only_its_adapters(trained, tmp_path):
    other = copy.deepcopy(NETWORKS["winograd"][0]).eval()
    trained.save(tmp_path / "adapter.safetensors")
    base = trained.remove()
    with torch.no_grad():
        other.weight.copy_(base.weight * 2)
    room = "insert-adapters{n=30},merge-adapters{at=load}"
    bundle = cospipe.optimize(base, (IMAGE,), output=tmp_path / "room", passes=room).bundle
    exchanged = cospipe.exchange_weights(bundle, other, tmp_path / "exchanged")
    cospipe.verify_bundle(exchanged).raise_if_failed()
    cospipe.PipelineRunner(bundle, adapter=tmp_path / "adapter.safetensors")
    with pytest.raises(cospipe.CospipeError, match="it is another base"):
        cospipe.PipelineRunner(exchanged, adapter=tmp_path / "adapter.safetensors")


def test_what_is_trained_whole_needs_no_room_and_can_still_be_replaced(tmp_path):
    torch.manual_seed(3)
    network, example = copy.deepcopy(NETWORKS["linear"][0]).eval(), NETWORKS["linear"][1]
    adapters = cospipe.adapt(copy.deepcopy(network), cospipe.SpectralConfig(n=20, also_train="2"))
    with torch.no_grad():
        for parameter in adapters.trainable_parameters():
            parameter.normal_()
        expected = adapters.model(example).numpy()
    adapters.save(tmp_path / "adapter.safetensors")
    room = "insert-adapters{n=20,also_train=2},merge-adapters{at=load}"
    bundle = cospipe.optimize(network, (example,), output=tmp_path / "room", passes=room).bundle
    assert [slot.weight for stage in bundle.manifest.stages for slot in stage.adapter_slots] == ["0.weight"]
    with cospipe.PipelineRunner(bundle, adapter=tmp_path / "adapter.safetensors") as runner:
        (result,) = runner.run([{bundle.manifest.inputs[0].name: example.numpy()}])
    (found,) = result.values()
    assert relative_error(found, expected) < 1e-5


def test_weights_of_an_adapted_model_can_be_exchanged_and_it_is_predicted_as_its_base(trained, tmp_path):
    base = copy.deepcopy(NETWORKS["winograd"][0]).eval()
    bundle = cospipe.optimize(base, (IMAGE,), output=tmp_path / "base").bundle
    exchanged = cospipe.exchange_weights(bundle, trained.model, tmp_path / "exchanged")
    cospipe.verify_bundle(exchanged).raise_if_failed()
    with cospipe.PipelineRunner(exchanged) as runner, torch.no_grad():
        (result,) = runner.run([{bundle.manifest.inputs[0].name: IMAGE.numpy()}])
        (found,) = result.values()
        assert relative_error(found, trained.model(IMAGE).numpy()) < 1e-5
    predictions = [cospipe.predict(model, (IMAGE,), soc="rk3588") for model in (base, trained.model)]
    assert predictions[0].total_us() == predictions[1].total_us()
