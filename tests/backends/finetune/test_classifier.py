"""Calling models in the way their ``forward`` wants."""

import numpy as np
import pytest
import torch
from torch import nn

from cospipe.backends.finetune.classifier import Classifier, answers, backward, count_outputs
from cospipe.backends.finetune.data import LabelledData
from cospipe.backends.finetune.read_arrays import ArrayInputs
from cospipe.ir.errors import CospipeError, UsageError


class Answer(nn.Module):
    """Gives its first input in a wrapping of choice."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(x)


def data(columns=3):
    values = np.arange(4 * columns, dtype=np.float32).reshape(4, columns)
    parts = {"train": [0, 1, 2], "validation": [3], "test": []}
    return LabelledData(ArrayInputs(values), torch.tensor([0, 1, 2, 0]), ("a", "b", "c"), parts)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x, x * 0),
        lambda x: [x],
        lambda x: {"logits": x, "loss": x * 0},
        lambda x: {"loss": x * 0, "logits": x},
        lambda x: {"first": x, "second": x * 0},
    ],
)
def test_the_first_output_or_the_one_called_logits_is_taken(wrap):
    logits, labels = answers(Classifier(Answer(wrap)), data(), [2, 0])
    assert logits.tolist() == [[6, 7, 8], [0, 1, 2]]
    assert labels.tolist() == [2, 0]


def test_only_arguments_that_forward_takes_are_given():
    class Two(nn.Module):
        def forward(self, ids, mask):
            return ids * mask

    class Any(nn.Module):
        def forward(self, **named):
            return sum(named.values())

    batch = {name: torch.full((1, 2), value) for name, value in (("ids", 2.0), ("mask", 3.0), ("extra", 5.0))}
    assert Classifier(Two()).logits(batch).tolist() == [[6, 6]]
    assert Classifier(Any()).logits(batch).tolist() == [[10, 10]]


def test_numbers_are_given_in_the_type_of_the_model_and_come_back_in_fp32():
    model = nn.Linear(3, 4).bfloat16()
    logits, _ = answers(Classifier(model), data(), [0, 1])
    expected = model(torch.arange(6.0).reshape(2, 3).bfloat16()).float()
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda x: x[0], r"has the shape \(3,\) for two examples"),
        (lambda x: x[:, :2], "tells 2 classes apart, the data have 3: a, b, c"),
        (lambda x: (), "its first output is a NoneType"),
        (lambda x: {"logits": "text"}, "its first output is a str"),
        (lambda x: x @ x, "net cannot take the data"),
    ],
)
def test_models_that_are_no_classifiers_of_the_data_are_told(wrap, words):
    with pytest.raises(UsageError, match=words):
        count_outputs(Classifier(Answer(wrap)), data(), "net")


def test_outputs_are_counted():
    assert count_outputs(Classifier(nn.Linear(3, 5)), data(), "net") == 5


def test_examples_on_which_a_model_fails_are_named():
    with pytest.raises(CospipeError, match=r"fails on the examples 4, 1: "):
        answers(Classifier(nn.Linear(2, 3)), data(), [3, 0])


def test_a_loss_without_a_gradient_is_told():
    with pytest.raises(UsageError, match="do not depend on what is trained"):
        backward(torch.tensor(1.0))
