"""Training an adapter: it learns, leaves the base alone, and continues after an interruption bit by bit."""

import os
import signal

import finetune_models
import numpy as np
import pytest
import torch

import cospipe
from cospipe.backends.finetune.finetune import FineTuning, fine_tune
from cospipe.backends.finetune.readers import DataOptions
from cospipe.backends.finetune.training import TrainingOptions
from cospipe.ir.errors import AdapterError, CospipeError, UsageError
from cospipe.ir.spectral_config import SpectralConfig


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def request(path, output, model="mlp", config=None, restart=False, data=None, **training):
    training = TrainingOptions(**{"epochs": 3, **training})
    return FineTuning(
        f"finetune_models:{model}",
        output,
        data or DataOptions(path),
        SpectralConfig(**{"n": 500, **(config or {})}),
        training,
        restart,
    )


def accuracy(model, path):
    stored = np.load(path)
    with torch.no_grad():
        answers = model(torch.from_numpy(stored["x_test"])).argmax(1).numpy()
    return float((answers == stored["y_test"]).mean())


class Interrupt:
    """Sends Ctrl-C to this process at one of the calls of ``watch``."""

    def __init__(self, call):
        self.left = call

    def __call__(self, training):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("selection", ["hybrid", "random", "low", "gradient"])
def test_digits_are_learned_and_the_file_says_what_was_measured(digits, tmp_path, selection):
    output = tmp_path / "digits.safetensors"
    values = fine_tune(request(digits, output, config={"selection": selection}, epochs=5))
    base = finetune_models.mlp()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    assert accuracy(base, digits) < 0.25
    adapters = cospipe.load_adapter(base, output)
    assert values["test_accuracy"] == pytest.approx(accuracy(base, digits))
    assert values["test_accuracy"] > 0.7
    assert values["coefficients"] == 1000 == adapters.coefficient_count()
    assert values["file_bytes"] == output.stat().st_size
    assert cospipe.read_adapter(output).header.labels == tuple("0123456789")
    assert cospipe.read_adapter(output).header.base == "finetune_models:mlp"
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapters.remove().state_dict().items())
    assert list(tmp_path.iterdir()) == [output]


def test_the_best_epoch_is_kept_and_patience_ends_it(digits, tmp_path):
    # steps that are far too long: training gets worse soon
    output, accuracies = tmp_path / "a.safetensors", []
    wild = request(digits, output, learning_rate=3.0, epochs=12, patience=2, batch=64)
    seen = {}
    values = fine_tune(wild, watch=lambda training: seen.update(training=training))
    epochs = seen["training"].epochs
    accuracies = [(epoch.validation_accuracy, -epoch.validation_loss) for epoch in epochs]
    assert values["best_epoch"] == accuracies.index(max(accuracies)) + 1
    assert values["epochs"] == min(values["best_epoch"] + 2, 12)
    assert values["validation_accuracy"] == accuracies[values["best_epoch"] - 1][0]
    # what is in the file is that epoch's
    loss, share = seen["training"].evaluate("validation")
    assert (share, -loss) == max(accuracies)


def test_images_are_learned_and_the_base_is_left_alone(colours, tmp_path, monkeypatch):
    factory, made = finetune_models.conv, []
    monkeypatch.setattr(finetune_models, "conv", lambda: made.append(factory()) or made[-1])
    data = DataOptions(colours, input_shape=(1, 3, 20, 24))
    output = tmp_path / "a.safetensors"
    config = {"also_train": "5", "n": 100}
    values = fine_tune(request(None, output, "conv", config, data=data, epochs=12, batch=8, patience=12))
    assert values["classes"] == ["blue", "green", "red"]
    assert values["test_accuracy"] > 0.7
    assert values["trained_parameters"] == 128 * 3 + 3
    (trained,) = [model for model in made if hasattr(model[0], "parametrizations")]
    base = factory()
    assert torch.equal(trained[0].parametrizations.weight.original, base[0].weight)
    assert torch.equal(trained[0].bias, base[0].bias)
    norm, before = trained[1].state_dict(), base[1].state_dict()
    assert all(torch.equal(norm[name], before[name]) for name in before)
    assert not torch.equal(trained[5].weight, base[5].weight)
    assert list(cospipe.load_adapter(base, output).deltas()) == ["0.weight"]


def test_texts_are_learned_through_named_inputs_and_outputs(texts, tmp_path):
    data = DataOptions(texts, tokenizer="finetune_models:characters")
    output = tmp_path / "a.safetensors"
    values = fine_tune(request(None, output, "WordCounter", data=data, epochs=10, learning_rate=0.05, patience=10))
    assert values["classes"] == ["few", "many"]
    assert values["test_accuracy"] > 0.85


# an epoch has 31 steps of 32 examples, and 4 batches validate
@pytest.mark.parametrize("calls", [[1], [20], [33], [36], [40, 9], [31 * 3 + 4 * 3 + 2]])
@pytest.mark.parametrize("selection", ["hybrid", "gradient"])
def test_an_interrupted_training_continues_bit_by_bit(digits, tmp_path, calls, selection):
    config = {"selection": selection, "also_train": "2.bias"}
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    expected = fine_tune(request(digits, whole, config=config))
    for call in calls:
        with pytest.raises(KeyboardInterrupt):
            fine_tune(request(digits, parts, config=config), watch=Interrupt(call))
        assert [file.name for file in sorted(tmp_path.iterdir())] == ["parts.safetensors.checkpoint", whole.name]
    values = fine_tune(request(digits, parts, config=config))
    assert parts.read_bytes() == whole.read_bytes()
    changing = {"seconds", "adapter"}
    assert {k: v for k, v in values.items() if k not in changing} == {
        k: v for k, v in expected.items() if k not in changing
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == ["parts.safetensors", "whole.safetensors"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# the only epoch, whose losses are added up over both runs; and one after the best, which only the checkpoint still has
@pytest.mark.parametrize(("options", "behind"), [({"epochs": 1}, 0), ({"learning_rate": 3.0, "epochs": 50}, 1)])
def test_sums_and_best_values_are_continued(digits, tmp_path, options, behind):
    outputs = [tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"]
    expected = fine_tune(request(digits, outputs[0], patience=2, **options))
    assert expected["epochs"] == expected["best_epoch"] + 2 * behind

    def interrupt(training):
        if len(training.epochs) == expected["epochs"] - 1 and training.step == 9:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fine_tune(request(digits, outputs[1], patience=2, **options), watch=interrupt)
    values = fine_tune(request(digits, outputs[1], patience=2, **options))
    assert [values[key] for key in expected if key not in ("seconds", "adapter")] == [
        expected[key] for key in expected if key not in ("seconds", "adapter")
    ]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_new_last_layer_continues_from_the_same_values(digits, tmp_path):
    outputs = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    requests = [request(digits, output, "new_head", {"also_train": "2"}) for output in outputs]
    fine_tune(requests[0])
    with pytest.raises(KeyboardInterrupt):
        fine_tune(requests[1], watch=Interrupt(10))
    fine_tune(requests[1])
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_the_second_interruption_ends_at_once_and_keeps_the_last_epoch(digits, tmp_path):
    output = tmp_path / "a.safetensors"

    def twice(training):
        if len(training.epochs) == 1 and training.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fine_tune(request(digits, output), watch=twice)
    kept = torch.load(request(digits, output).checkpoint_path, weights_only=True)
    assert (len(kept["state"]["epochs"]), kept["state"]["step"]) == (1, 0)
    assert not output.exists()


@pytest.fixture
def interrupted(digits, tmp_path):
    output = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(request(digits, output), watch=Interrupt(5))
    return output


def test_other_options_do_not_continue(digits, interrupted):
    with pytest.raises(UsageError) as error:
        fine_tune(request(digits, interrupted, config={"n": 400}, learning_rate=0.5))
    told = str(error.value)
    assert "n: 500 then, 400 now" in told
    assert "learning_rate: 0.01 then, 0.5 now" in told
    assert "--restart" in told
    assert "epochs" not in told
    values = fine_tune(request(digits, interrupted, learning_rate=0.005, restart=True))
    assert values["epochs"] == 3


def test_other_data_do_not_continue(digits, interrupted):
    stored = dict(np.load(digits))
    np.savez(interrupted.parent / "other.npz", **{**stored, "x": stored["x"] * 2})
    with pytest.raises(UsageError, match="the data: "):
        fine_tune(request(interrupted.parent / "other.npz", interrupted))


@pytest.mark.parametrize("how", ["cut", "text", "other", "empty"])
def test_a_damaged_checkpoint_is_told(digits, interrupted, how):
    checkpoint = request(digits, interrupted).checkpoint_path
    if how == "other":
        kept = torch.load(checkpoint, weights_only=True)
        torch.save({**kept, "state": {}}, checkpoint)
    else:
        whole = checkpoint.read_bytes()
        checkpoint.write_bytes({"cut": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[how])
    with pytest.raises(UsageError, match="damaged"):
        fine_tune(request(digits, interrupted))


def test_code_in_a_checkpoint_is_not_run(digits, interrupted):
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(interrupted.parent / "ran"),)

    request(digits, interrupted).checkpoint_path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UsageError, match="damaged"):
        fine_tune(request(digits, interrupted))
    assert not (interrupted.parent / "ran").exists()


def test_a_loss_that_is_not_finite_is_told_and_not_continued(digits, tmp_path):
    output = tmp_path / "a.safetensors"
    with pytest.raises(AdapterError, match="lower the learning rate, which is 1e\\+30"):
        fine_tune(request(digits, output, learning_rate=1e30))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("narrow", "tells 5 classes apart, the data have 10"),
        ("unseeded", "gives other values each time"),
        ("conv", "cannot take the data"),
        ("three", "not a torch.nn.Module"),
        ("Detached", "do not depend on what is trained"),
        ("Empty", "its first output is a NoneType, not a tensor of logits"),
    ],
)
def test_models_that_do_not_fit_are_told(digits, tmp_path, model, words):
    with pytest.raises(UsageError, match=words):
        fine_tune(request(digits, tmp_path / "a.safetensors", model))
    assert list(tmp_path.iterdir()) == []


def test_calibration_without_gradients_is_told(digits, tmp_path):
    with pytest.raises(UsageError, match="do not depend on what is trained"):
        fine_tune(request(digits, tmp_path / "a.safetensors", "Detached", {"selection": "gradient"}))


def test_outputs_that_are_not_finite_are_not_blamed_on_the_learning_rate(digits, tmp_path):
    with pytest.raises(AdapterError, match="before anything was trained"):
        fine_tune(request(digits, tmp_path / "a.safetensors", "Scaled"))


def test_a_model_that_fails_in_the_middle_is_told_with_the_examples(digits, tmp_path):
    with pytest.raises(CospipeError, match=r"fails on the examples \d+, .*: index out of range in self"):
        fine_tune(request(digits, tmp_path / "a.safetensors", "Tires"))


def test_more_outputs_than_classes_are_allowed(digits, tmp_path):
    values = fine_tune(request(digits, tmp_path / "a.safetensors", "wide", epochs=1))
    assert (values["outputs"], len(values["classes"])) == (14, 10)


def test_outputs_that_cannot_be_written_are_told_before_training(digits, tmp_path):
    (tmp_path / "thesis.safetensors").write_text("years of work")
    for name, words in (
        ("a.pt", "not such a file name"),
        ("nowhere/a.safetensors", "no directory"),
        ("thesis.safetensors", "not overwritten"),
    ):
        with pytest.raises(UsageError, match=words):
            fine_tune(request(digits, tmp_path / name))
    assert (tmp_path / "thesis.safetensors").read_text() == "years of work"


def test_patterns_that_match_nothing_are_told(digits, tmp_path):
    output = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match="'head' of also_train"):
        fine_tune(request(digits, output, config={"also_train": "head"}))
    with pytest.raises(UsageError, match="No weight matches 'attention'"):
        fine_tune(request(digits, output, config={"layers": "attention"}))


def test_options_without_sense_are_listed():
    with pytest.raises(UsageError) as error:
        TrainingOptions(learning_rate=float("nan"), epochs=0, batch=-1, patience=0, weight_decay=-1)
    for name in ("learning_rate", "epochs", "batch", "patience", "weight_decay"):
        assert name in str(error.value)
