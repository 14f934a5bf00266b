from collections import Counter

import numpy as np
import pytest
import scipy.fft
import torch
from torch import nn

from cospipe.ir.adapters import delta_nodes
from cospipe.ir.capture import capture
from cospipe.ir.coefficient_places import matrix_shape
from cospipe.ir.errors import PassError, UsageError
from cospipe.ir.spectral_delta import SpectralDelta
from cospipe.passes.insert_adapters import InsertAdapters
from cospipe.passes.pipeline import parse_pipeline

MODELS = [
    (nn.Linear(5, 3), (2, 5)),
    (nn.Conv2d(3, 4, (3, 5), padding=1), (1, 3, 8, 8)),
    (nn.Conv2d(4, 6, 3, groups=2, stride=2), (1, 4, 8, 8)),
    (nn.Conv2d(4, 4, 3, groups=4, padding="same"), (1, 4, 8, 8)),
    (nn.Conv1d(3, 4, 3), (1, 3, 8)),
    (nn.Conv3d(2, 3, (1, 2, 3)), (1, 2, 4, 4, 4)),
    (nn.ConvTranspose1d(4, 6, 3), (1, 4, 5)),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), (1, 4, 5, 5)),
    (nn.ConvTranspose3d(2, 3, 2), (1, 2, 3, 3, 3)),
]


class Tied(nn.Module):
    """One matrix looks up embeddings and gives the scores, as in language models."""

    def __init__(self):
        super().__init__()
        self.embedding, self.scores = nn.Embedding(7, 4), nn.Linear(4, 7)
        self.scores.weight = self.embedding.weight

    def forward(self, words):
        return self.scores(self.embedding(words))


def adapted(model, *shape, **options):
    inputs = (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)
    graph_module = capture(model, inputs)
    return InsertAdapters(**options)(graph_module).graph_module, inputs


def deltas(graph_module):
    return {node.target: graph_module.get_submodule(node.target) for node in delta_nodes(graph_module)}


def set_coefficients(graph_module):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for delta in deltas(graph_module).values():
            delta.coefficients.normal_(generator=generator)


def dense_change(delta):
    """What scipy makes of the coefficients."""
    spectrum = np.zeros(matrix_shape(delta.shape))
    spectrum[delta.rows.numpy(), delta.columns.numpy()] = delta.coefficients.detach().numpy()
    return torch.from_numpy(delta.alpha * scipy.fft.idctn(spectrum, norm="ortho").reshape(delta.shape)).float()


def with_changed_weights(model, graph_module):
    """The eager model with every weight replaced by weight + delta."""
    changes = {name.removesuffix("_delta"): dense_change(delta) for name, delta in deltas(graph_module).items()}
    state = {name: tensor + changes.get(name, 0) for name, tensor in model.state_dict().items()}
    return lambda *inputs: torch.func.functional_call(model, state, inputs)


@pytest.mark.parametrize(("model", "shape"), MODELS)
def test_operations_and_edge(model, shape):
    before = Counter(node.op for node in capture(model, (torch.randn(shape),)).graph.nodes)
    graph_module, _ = adapted(model, *shape, n=5)
    after = Counter(node.op for node in graph_module.graph.nodes)
    assert after - before == {"call_module": 1}
    (delta,) = delta_nodes(graph_module)
    (layer,) = delta.users
    (weight,) = delta.args
    assert (delta.target, weight.target, set(weight.users)) == ("weight_delta", "weight", {delta})
    assert layer.args[1] is delta
    assert delta.meta["val"].shape == model.weight.shape


@pytest.mark.parametrize(("model", "shape"), MODELS)
def test_starts_as_the_same_function(model, shape):
    graph_module, inputs = adapted(model, *shape, n=5)
    assert torch.equal(graph_module(*inputs)[0], model(*inputs))


@pytest.mark.parametrize(("model", "shape"), MODELS)
def test_numbers_with_coefficients(model, shape):
    graph_module, inputs = adapted(model, *shape, n=5, alpha=0.5)
    set_coefficients(graph_module)
    expected = with_changed_weights(model, graph_module)(*inputs)
    assert (expected - model(*inputs)).abs().max() > 0.01
    torch.testing.assert_close(graph_module(*inputs)[0], expected)


def test_only_coefficients_are_trained_and_the_users_model_stays_trainable():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).eval()
    graph_module, inputs = adapted(model, 1, 3, 8, 8, n=6)
    trained = [name for name, parameter in graph_module.named_parameters() if parameter.requires_grad]
    assert trained == ["0.weight_delta.coefficients", "3.weight_delta.coefficients"]
    assert all(parameter.requires_grad for parameter in model.parameters())
    graph_module(*inputs)[0].square().sum().backward()
    assert all(delta.coefficients.grad.any() for delta in deltas(graph_module).values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    graph_module, (x,) = adapted(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)), 32, 6, n=20)
    target = x.sum(1, keepdim=True)
    optimizer = torch.optim.Adam([p for p in graph_module.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (graph_module(x)[0] - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_pattern_chooses_the_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    graph_module, _ = adapted(model, 2, 4, n=3, layers="1.*")
    assert set(deltas(graph_module)) == {"1.0.weight_delta", "1.2.weight_delta"}


def test_tied_weight_gets_one_delta_that_every_reader_sees():
    model, words = Tied(), torch.tensor([[1, 2, 6]])
    graph_module = capture(model, (words,))
    InsertAdapters(n=5)(graph_module)
    assert len(deltas(graph_module)) == 1
    set_coefficients(graph_module)
    (name,) = deltas(graph_module)
    changed = model.scores.weight + dense_change(deltas(graph_module)[name])
    expected = nn.functional.linear(nn.functional.embedding(words, changed), changed, model.scores.bias)
    torch.testing.assert_close(graph_module(words)[0], expected)


def test_small_weights_get_as_many_coefficients_as_elements():
    graph_module, _ = adapted(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 40)), 2, 5, n=50)
    assert [len(delta.coefficients) for delta in deltas(graph_module).values()] == [15, 50]


def test_places_depend_on_seed_and_name_only():
    def places(seed, layers):
        model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
        options = {"n": 20, "seed": seed, "layers": layers, "selection": "random"}
        found = deltas(adapted(model, 2, 30, **options)[0])
        return {name: torch.stack([delta.rows, delta.columns]) for name, delta in found.items()}

    both, second, other = places(0, "*"), places(0, "1.*"), places(1, "*")
    assert torch.equal(both["1.weight_delta"], second["1.weight_delta"])
    assert not torch.equal(both["0.weight_delta"], both["1.weight_delta"])
    assert not torch.equal(both["0.weight_delta"], other["0.weight_delta"])


def test_adapted_graph_can_be_exported():
    graph_module, inputs = adapted(nn.Conv2d(3, 4, 3), 1, 3, 8, 8, n=5)
    set_coefficients(graph_module)
    program = torch.export.export(graph_module, inputs)
    torch.testing.assert_close(program.module()(*inputs)[0], graph_module(*inputs)[0])
    assert isinstance(graph_module.get_submodule("weight_delta"), SpectralDelta)


def test_second_run_is_refused_and_changes_nothing():
    graph_module, _ = adapted(nn.Linear(5, 3), 2, 5, n=4)
    code = graph_module.code
    with pytest.raises(PassError, match=r"has adapters already .weight_delta, \.\.\..; run the pass 'merge-adapters'"):
        InsertAdapters(n=4)(graph_module)
    assert graph_module.code == code


def test_pattern_without_a_match_names_the_weights():
    graph_module = capture(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (torch.randn(2, 4),))
    with pytest.raises(PassError, match=r"matches 'head\.\*'. Known: 0\.weight\.$"):
        InsertAdapters(layers="head.*")(graph_module)
    assert all(parameter.requires_grad for parameter in graph_module.parameters())


def test_computed_weights_are_no_weights():
    class Computed(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight * 2, self.bias)

    with pytest.raises(PassError, match=r"Known: none\."):
        InsertAdapters()(capture(Computed(4, 3), (torch.randn(2, 4),)))


@pytest.mark.parametrize(
    ("options", "word"), [({"n": 0}, "n=0"), ({"alpha": 0.0}, "alpha=0.0"), ({"alpha": 1e999}, "inf")]
)
def test_senseless_options(options, word):
    with pytest.raises(UsageError, match=word):
        InsertAdapters(**options)


def test_text_form():
    assert str(InsertAdapters()) == "insert-adapters"
    assert str(InsertAdapters(n=700, layers="*.q.*")) == "insert-adapters{n=700,layers=*.q.*}"


def test_every_option_survives_its_text_form():
    options = {
        "n": 7,
        "alpha": 0.5,
        "selection": "low",
        "delta": 0.25,
        "distance": "corner",
        "seed": 3,
        "layers": "*.query:1000|*.value:500",
        "also_train": "classifier|*.norm",
    }
    for changed in (InsertAdapters(**options), InsertAdapters(budget=9)):
        assert parse_pipeline(str(changed)) == (changed,)


def test_parameters_trained_whole_are_copies():
    model, words = Tied(), torch.tensor([[1, 2, 6]])
    model.first = nn.Linear(4, 4)
    model.forward = lambda words: model.scores(model.first(model.embedding(words)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    insert = InsertAdapters(n=3, layers="first", also_train="embedding|scores")
    graph_module = insert(capture(model, (words,))).graph_module
    trained = [parameter for parameter in graph_module.parameters() if parameter.requires_grad]
    assert sorted(tuple(parameter.shape) for parameter in trained) == [(3,), (7,), (7, 4)]
    graph_module(words)[0].square().sum().backward()
    torch.optim.SGD(trained, lr=0.1).step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert len({id(p) for n, p in graph_module.named_parameters() if p.shape == (7, 4)}) == 1


def test_gradients_choose_places():
    model, x = nn.Linear(5, 4), torch.randn(3, 5)
    model(x).square().sum().backward()
    spectrum = np.abs(scipy.fft.dctn(model.weight.grad.double().numpy(), norm="ortho")).ravel()
    graph_module = InsertAdapters(n=6, selection="gradient")(capture(model, (x,))).graph_module
    (delta,) = deltas(graph_module).values()
    assert set((delta.rows * 5 + delta.columns).tolist()) == set(np.argsort(-spectrum)[:6].tolist())


def test_gradient_selection_without_gradients_is_refused():
    with pytest.raises(UsageError, match=r"needs the gradient of weight: run loss\.backward\(\)"):
        InsertAdapters(n=6, selection="gradient")(capture(nn.Linear(5, 4), (torch.randn(2, 5),)))
