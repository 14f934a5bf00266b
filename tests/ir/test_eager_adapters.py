"""Adapters on every kind of layer: what they compute and what they train, against scipy and torch.func."""

import copy

import numpy as np
import pytest
import scipy.fft
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from cospipe.ir.coefficient_places import matrix_shape
from cospipe.ir.eager_adapters import Adapters, adapt
from cospipe.ir.errors import AdapterError, UsageError
from cospipe.ir.merged_copy import merged_copy
from cospipe.ir.spectral_config import SpectralConfig


class Tied(nn.Module):
    """One matrix looks up embeddings and gives the scores, as in language models."""

    def __init__(self):
        super().__init__()
        self.embedding, self.scores = nn.Embedding(7, 4), nn.Linear(4, 7)
        self.scores.weight = self.embedding.weight

    def forward(self, words):
        return self.scores(self.embedding(words).tanh())


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x, y):
        return self.attention(x, y, y)[0]


def model_of(kind):
    torch.manual_seed(0)
    model, shapes = {
        "Linear": (lambda: nn.Linear(5, 3), [(4, 5)]),
        "Linear without bias": (lambda: nn.Linear(5, 3, bias=False), [(2, 4, 5)]),
        "Conv1d": (lambda: nn.Conv1d(3, 4, 3), [(2, 3, 8)]),
        "Conv2d": (lambda: nn.Conv2d(3, 4, (3, 5), padding=1, stride=(1, 2)), [(2, 3, 8, 9)]),
        "Conv2d grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), [(2, 4, 8, 8)]),
        "Conv2d depthwise": (lambda: nn.Conv2d(4, 4, (1, 3), groups=4), [(2, 4, 8, 8)]),
        "Conv2d reflecting": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), [(2, 3, 8, 8)]),
        "Conv3d": (lambda: nn.Conv3d(2, 3, (1, 2, 3)), [(2, 2, 4, 4, 4)]),
        "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3), [(2, 4, 5)]),
        "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, (2, 3), groups=2, stride=2), [(2, 4, 5, 5)]),
        "HF Conv1D": (lambda: Conv1D(6, 5), [(2, 4, 5)]),
        "Attention": (Attention, [(2, 3, 8), (2, 5, 8)]),
        "Attention with other sizes": (lambda: Attention(kdim=6, vdim=6), [(2, 3, 8), (2, 5, 6)]),
        "Encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True), [(2, 3, 8)]),
        "Norm between": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 2)), [(3, 5)]),
    }.get(kind, (None, None))
    if model:
        model = model().double()
        return model, tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    words = torch.tensor([[1, 2, 6], [0, 2, 2]])
    sparse = "sparse" in kind
    return (Tied() if kind == "Tied" else nn.Embedding(7, 4, padding_idx=0, sparse=sparse)).double(), (words,)


KINDS = [
    "Linear", "Linear without bias", "Conv1d", "Conv2d", "Conv2d grouped", "Conv2d depthwise", "Conv2d reflecting",
    "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "HF Conv1D", "Attention", "Attention with other sizes",
    "Encoder layer", "Norm between", "Embedding", "Embedding, sparse", "Tied",
]  # fmt: skip
OPTIONS = SpectralConfig(n=6, alpha=0.5)


def randomize(adapters, name=None, std=1.0):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for delta in adapters.deltas(name).values():
            delta.coefficients.normal_(std=std, generator=generator)


def dense_change(delta, coefficients=None):
    """What scipy makes of the coefficients."""
    spectrum = np.zeros(matrix_shape(delta.shape))
    coefficients = delta.coefficients if coefficients is None else coefficients
    spectrum[delta.rows.numpy(), delta.columns.numpy()] = coefficients.detach().double().numpy()
    return torch.from_numpy(delta.alpha * scipy.fft.idctn(spectrum, norm="ortho").reshape(delta.shape))


def changed_state(base, adapters):
    """The base's parameters, with scipy's changes added; they require gradients."""
    changes = {name: dense_change(delta) for name, delta in adapters.deltas().items()}
    state = {name: tensor.detach().clone() for name, tensor in base.named_parameters()}  # tied ones are named once
    return {name: (tensor + changes.get(name, 0)).to(tensor.dtype).requires_grad_() for name, tensor in state.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_starts_bit_exact(kind):
    model, inputs = model_of(kind)
    expected = model(*inputs)
    with torch.no_grad():
        # torch's attention takes another way when nothing requires a gradient
        without_gradients = copy.deepcopy(model).requires_grad_(False)(*inputs)
    adapters = adapt(model, OPTIONS)
    assert torch.equal(model(*inputs), expected)
    with torch.no_grad():
        assert torch.equal(model(*inputs), without_gradients)
    assert adapters.coefficient_count() == 6 * len(adapters.deltas())


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_gradients_equal_the_dense_formula(kind):
    model, inputs = model_of(kind)
    base = copy.deepcopy(model)
    adapters = adapt(model, OPTIONS)
    randomize(adapters)
    state = changed_state(base, adapters)
    expected, found = torch.func.functional_call(base, state, inputs), model(*inputs)
    torch.testing.assert_close(found, expected)
    probe = torch.randn_like(expected)
    deltas = adapters.deltas()
    assert deltas
    (expected * probe).sum().backward()
    right = {name: state[name].grad for name in deltas}
    of_inputs = [x.grad.clone() for x in inputs if x.requires_grad]
    for x in inputs:
        x.grad = None
    (model(*inputs) * probe).sum().backward()
    for name, delta in deltas.items():
        gradient = right[name].to_dense() if right[name].is_sparse else right[name]
        spectrum = scipy.fft.dctn(gradient.numpy().reshape(matrix_shape(delta.shape)), norm="ortho")
        wanted = delta.alpha * spectrum[delta.rows.numpy(), delta.columns.numpy()]
        np.testing.assert_allclose(delta.coefficients.grad.numpy(), wanted, atol=1e-10)
    torch.testing.assert_close([x.grad for x in inputs if x.requires_grad], of_inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_only_coefficients_are_trained_and_taking_them_off_leaves_the_base(kind):
    model, inputs = model_of(kind)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before, expected = copy.deepcopy(model.state_dict()), model(*inputs)
    parameters = [id(parameter) for parameter in model.parameters()]
    adapters = adapt(model, OPTIONS)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {id(delta.coefficients) for delta in adapters.deltas().values()}
    assert {id(parameter) for parameter in adapters.trainable_parameters()} == trained
    randomize(adapters)
    plain = adapters.remove()
    assert plain is model
    assert list(model.state_dict()) == list(before)
    assert [id(parameter) for parameter in model.parameters()] == parameters
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert type(model) is type(model_of(kind)[0])
    assert torch.equal(model(*inputs), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_copy_trains_independently_and_outlives_the_original(kind):
    model, inputs = model_of(kind)
    adapters = adapt(model, OPTIONS)
    randomize(adapters)
    expected = model(*inputs)
    other = copy.deepcopy(model)
    trained = [parameter for parameter in other.parameters() if parameter.requires_grad]
    assert len(trained) == len(adapters.deltas())
    other(*inputs).pow(3).sum().backward()
    torch.optim.SGD(trained, lr=0.1).step()
    assert torch.equal(model(*inputs), expected)
    assert all(delta.coefficients.grad is None for delta in adapters.deltas().values())
    changed = other(*inputs)
    assert (changed - expected).abs().max() > 1e-4
    adapters.remove()
    assert torch.equal(other(*inputs), changed)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_copy_is_a_plain_model_that_computes_the_same(kind):
    model, inputs = model_of(kind)
    names = set(model.state_dict())
    adapters = adapt(model, OPTIONS)
    randomize(adapters)
    expected = model(*inputs)
    plain = merged_copy(model)
    assert set(plain.state_dict()) == names
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    torch.testing.assert_close(plain(*inputs), expected)
    assert torch.equal(model(*inputs), expected)  # the original still has its adapters
    assert merged_copy(plain) is plain


def test_a_copy_of_the_adapters_goes_with_its_model():
    model, inputs = model_of("Norm between")
    adapters = adapt(model, OPTIONS)
    randomize(adapters)
    expected = model(*inputs)
    other = copy.deepcopy(adapters)
    other.remove()
    assert other.model is not model
    assert torch.equal(model(*inputs), expected)
    assert (other.model(*inputs) - expected).abs().max() > 1e-3


def test_tied_weights_get_one_adapter():
    model, _ = model_of("Tied")
    adapters = adapt(model, OPTIONS)
    assert list(adapters.deltas()) == ["embedding.weight"]
    randomize(adapters)
    assert torch.equal(model.embedding.weight, model.scores.weight)
    adapters.merge()
    assert model.embedding.parametrizations.weight.original is model.scores.parametrizations.weight.original
    adapters.remove()
    assert model.embedding.weight is model.scores.weight


def test_a_language_model_of_hugging_face():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, attn_pdrop=0.0)
    model, words = GPT2LMHeadModel(config).eval(), torch.randint(0, 40, (2, 9))
    base = copy.deepcopy(model)
    expected = model(words).logits
    adapters = adapt(model, SpectralConfig(n=30, layers="*.c_attn|transformer.wte"))
    assert list(adapters.deltas()) == [
        "transformer.wte.weight",  # tied with lm_head
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.1.attn.c_attn.weight",
    ]
    assert torch.equal(model(words).logits, expected)
    randomize(adapters, std=0.3)
    state = changed_state(base, adapters)
    right = torch.func.functional_call(base, state, (words,)).logits
    torch.testing.assert_close(model(words).logits, right, atol=1e-4, rtol=1e-4)
    loss = model(words, labels=words).loss
    loss.backward()
    functional.cross_entropy(right[:, :-1].flatten(0, 1), words[:, 1:].flatten()).backward()
    for name, delta in adapters.deltas().items():
        spectrum = scipy.fft.dctn(state[name].grad.numpy(), norm="ortho")
        wanted = spectrum[delta.rows.numpy(), delta.columns.numpy()]
        np.testing.assert_allclose(delta.coefficients.grad.numpy(), wanted, atol=1e-5)


def test_a_new_head_is_trained_with_the_coefficients():
    model, inputs = model_of("Norm between")
    adapters = adapt(model, SpectralConfig(n=5, also_train="2"))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["0.parametrizations.weight.0.coefficients", "2.weight", "2.bias"]
    model(*inputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in adapters.trainable_parameters())


def test_accumulated_gradients_equal_those_of_one_batch():
    model, _ = model_of("Norm between")
    adapters = adapt(model, OPTIONS)
    randomize(adapters)
    x = torch.randn(8, 5, dtype=torch.float64)
    whole = torch.autograd.grad(model(x).square().sum(), adapters.trainable_parameters())
    for part in x.split(3):
        model(part).square().sum().backward()
    torch.testing.assert_close([p.grad for p in adapters.trainable_parameters()], list(whole))


def trained_losses(model, adapters, x, target, steps=40, autocast=False):
    optimizer, losses = torch.optim.Adam(adapters.trainable_parameters(), lr=0.03), []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = functional.mse_loss(model(x).float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("precision", ["single", "autocast", "half"])
def test_training_lowers_the_loss(precision):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 1))
    x = torch.randn(32, 1, 8, 8)
    target = x.mean((1, 2, 3))[:, None] * 5
    if precision == "half":
        model, x = model.bfloat16(), x.bfloat16()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapters = adapt(model, SpectralConfig(n=40))
    losses = trained_losses(model, adapters, x, target, autocast=precision == "autocast")
    assert losses[-1] < losses[0] / 4
    assert all(delta.coefficients.dtype == torch.float32 for delta in adapters.deltas().values())
    adapters.remove()
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())


def test_under_autocast_the_merged_weight_is_rounded_only_once():
    torch.manual_seed(0)
    model, x = nn.Linear(64, 32), torch.randn(4, 64)
    adapters = adapt(model, SpectralConfig(n=100))
    randomize(adapters)
    (delta,) = adapters.deltas().values()
    merged = (model.parametrizations.weight.original.double() + dense_change(delta)).float()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = model(x), functional.linear(x, merged, model.bias)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    assert (found == expected).float().mean() > 0.95


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_adapted_model_equals_eager(backend):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 2))
    adapters = adapt(model, SpectralConfig(n=20, also_train="5.bias"))
    randomize(adapters, std=0.2)
    x = torch.randn(3, 2, 6, 6)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    probe = torch.randn(3, 2)
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)
    for found, right in zip(
        torch.autograd.grad(compiled(x), adapters.trainable_parameters(), probe),
        torch.autograd.grad(model(x), adapters.trainable_parameters(), probe),
        strict=True,
    ):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)


def test_calibration_chooses_by_the_summed_gradient_and_leaves_no_trace():
    model, (x,) = model_of("Norm between")
    base, batches = copy.deepcopy(model), x.detach().split(2)
    model[1].weight.grad = torch.ones(6, dtype=torch.float64)
    model[2].bias.requires_grad_(False)

    def calibrate(model):
        for batch in batches:
            model(batch).square().sum().backward()

    adapters = adapt(model, SpectralConfig(n=7, selection="gradient", layers="0"), calibrate=calibrate)
    base(x).square().sum().backward()
    spectrum = np.abs(scipy.fft.dctn(base[0].weight.grad.numpy(), norm="ortho")).ravel()
    (delta,) = adapters.deltas().values()
    assert set((delta.rows * 5 + delta.columns).tolist()) == set(np.argsort(-spectrum)[:7].tolist())
    assert torch.equal(model[1].weight.grad, torch.ones(6, dtype=torch.float64))
    assert model[0].parametrizations.weight.original.grad is None
    adapters.remove()
    assert [p.requires_grad for p in model.parameters()] == [True] * 5 + [False]


def test_gradients_that_are_there_already_are_used():
    model, (x,) = model_of("Linear")
    model(x).square().sum().backward()
    spectrum = np.abs(scipy.fft.dctn(model.weight.grad.numpy(), norm="ortho")).ravel()
    (delta,) = adapt(model, SpectralConfig(n=4, selection="gradient")).deltas().values()
    assert set((delta.rows * 5 + delta.columns).tolist()) == set(np.argsort(-spectrum)[:4].tolist())


def test_unsuitable_requests():
    model, _ = model_of("Norm between")
    with pytest.raises(UsageError, match=r"No weight matches 'heads\.\*'\. Known: 0\.weight, 2\.weight\."):
        adapt(model, SpectralConfig(layers="heads.*"))
    with pytest.raises(UsageError, match=r"needs the gradient of 0\.weight"):
        adapt(model, SpectralConfig(n=3, selection="gradient"))
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(UsageError, match=r"2\.weight holds infinite or undefined numbers"):
        adapt(model, SpectralConfig(n=3))
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    adapt(model, SpectralConfig(n=3, selection="random"))
    with pytest.raises(UsageError, match="has adapters already"):
        Adapters(model)


def test_the_shapes_of_llama_3_1_8b_on_the_meta_device():
    """0.05 M trained numbers at the paper's setting, without a byte of the 8 billion."""

    def attention():
        sizes = {"q_proj": 4096, "k_proj": 1024, "v_proj": 1024, "o_proj": 4096}
        return nn.ModuleDict({name: nn.Linear(4096, size, bias=False) for name, size in sizes.items()})

    with torch.device("meta"):
        model = nn.ModuleList(attention() for _ in range(32))
    adapters = adapt(model, SpectralConfig(n=700, layers="*.q_proj|*.v_proj"))
    assert sum(parameter.numel() for parameter in adapters.trainable_parameters()) == 44_800
    assert model[0]["q_proj"](torch.empty(2, 4096, device="meta")).shape == (2, 4096)


def test_a_mistyped_head_is_refused_and_nothing_is_changed():
    model, _ = model_of("Norm between")
    before = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    with pytest.raises(UsageError, match=r"No parameter matches '2\.weigth' of also_train\. Did you mean 2\.weight"):
        adapt(model, SpectralConfig(n=5, also_train="2.weigth"))
    assert [(name, parameter.requires_grad) for name, parameter in model.named_parameters()] == before


def test_a_merged_copy_keeps_tied_weights_tied_and_refuses_numbers_that_are_not_finite():
    model, inputs = model_of("Tied")
    adapters = adapt(model, OPTIONS)
    (delta,) = adapters.deltas().values()
    with torch.no_grad():
        delta.coefficients.fill_(0.3)
    merged = merged_copy(model)
    assert len(list(merged.parameters())) == len(list(model_of("Tied")[0].parameters()))
    torch.testing.assert_close(merged(*inputs), model(*inputs))
    with torch.no_grad():
        delta.coefficients[0] = float("nan")
    with pytest.raises(AdapterError, match="infinite or undefined numbers in weight of"):
        merged_copy(model)
