"""Reading and splitting labelled data; every problem of a data set is told at once."""

import sys

import numpy as np
import pytest

from cospipe.backends.finetune.data import RawData, labelled_data, sorted_classes
from cospipe.backends.finetune.read_arrays import ArrayInputs
from cospipe.backends.finetune.readers import DataOptions, read_data
from cospipe.ir.errors import UsageError

TOKENIZER = "finetune_models:characters"


def read(path, seed=0, **options):
    return read_data(DataOptions(path, **options), seed)


def raw(labels, parts=None):
    inputs = ArrayInputs(np.arange(len(labels), dtype=np.float32)[:, None])
    return RawData(inputs, labels, [str(i) for i in range(max(labels) + 1)], parts or ["train"] * len(labels))


def test_arrays_keep_their_test_part_and_give_up_a_share_of_each_class(digits):
    data = read(digits)
    stored = np.load(digits)
    assert data.parts["test"] == list(range(1100, 1400))
    assert sorted(data.parts["train"] + data.parts["validation"]) == list(range(1100))
    counts = np.bincount(stored["y"])
    assert np.bincount(data.labels[data.parts["validation"]].numpy()).tolist() == [round(0.1 * n) for n in counts]
    inputs, labels = data.batch([3, 1200])
    assert np.array_equal(inputs[1], stored["x_test"][100])
    assert labels.tolist() == [stored["y"][3], stored["y_test"][100]]


def test_the_split_follows_the_seed_only(digits):
    assert read(digits, 1).parts == read(digits, 1).parts
    assert read(digits, 1).parts != read(digits, 2).parts


def test_own_validation_part_is_used():
    data = labelled_data(None, raw([0, 1, 0, 1], ["train", "", "VAL", "test"]), 0.1, 0)
    assert data.parts == {"train": [0, 1], "validation": [2], "test": [3]}


def test_a_class_with_one_example_is_trained_on():
    data = labelled_data(None, raw([0, 1, 1, 1]), 0.5, 0)
    assert 0 in data.parts["train"]
    assert len(data.parts["validation"]) == 2


def test_fingerprint_sees_inputs_labels_and_parts():
    def fingerprint(labels, values, parts=None):
        made = raw(labels, parts)
        made.inputs = ArrayInputs(np.array(values, np.float32)[:, None])
        return labelled_data(None, made, 0.3, 0).fingerprint()

    first = fingerprint([0, 1, 0, 1], [1, 2, 3, 4])
    assert first == fingerprint([0, 1, 0, 1], [1, 2, 3, 4])
    others = [fingerprint([0, 1, 1, 1], [1, 2, 3, 4]), fingerprint([0, 1, 0, 1], [1, 2, 3, 5])]
    others.append(fingerprint([0, 1, 0, 1], [1, 2, 3, 4], ["", "", "val", ""]))
    assert len({first, *others}) == 4


def test_images_are_normalised_and_named_by_folder(colours):
    from PIL import Image

    data = read(colours, input_shape=(1, 3, 20, 24))
    assert data.classes == ("blue", "green", "red")
    assert len(data.parts["test"]) == 24
    position = data.parts["test"][0]
    inputs, labels = data.batch([position])
    pixels = np.asarray(Image.open(colours / "test" / "blue" / "0.png"))
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert labels.tolist() == [0]
    assert np.allclose(inputs[0].permute(1, 2, 0), expected, atol=1e-5)


def test_texts_go_through_the_tokenizer(texts):
    data = read(texts, tokenizer=TOKENIZER)
    assert data.classes == ("few", "many")
    inputs, labels = data.batch([0, 1])
    assert bytes(inputs["input_ids"][0].tolist()).rstrip(b"\0").endswith(b", said he")
    assert labels.tolist() == [0, 1]
    assert data.parts["test"] == list(range(161, 200))


def test_classes_that_are_numbers_are_in_their_order():
    assert sorted_classes(["10", "9", "9"]) == ["9", "10"]
    assert sorted_classes(["b", "10", "9"]) == ["10", "9", "b"]


X, Y = np.zeros((6, 4), np.float32), np.array([0, 1, 2, 0, 1, 2])
NAN = np.where(np.arange(4) == 2, np.nan, X)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": NAN, "y": Y[:5]}, ["x holds infinite or undefined", "x has 6 examples, y has 5"]),
        ({"x": X}, ["no array y", "found: x"]),
        ({"x": X.astype(int), "y": Y.astype(float)}, ["x holds int64", "y holds float64"]),
        ({"x": X, "y": Y - 1}, ["y holds -1"]),
        ({"x": X, "y": Y + 10**12}, ["y holds 1000000000002", "is a class"]),
        ({"x": X, "y": Y.astype(np.uint64) + 2**63}, ["y holds 9223372036854775810"]),
        ({"x": np.full((6, 4), 1e300), "y": Y}, ["as float32", "the first in example 0"]),
        ({"x": np.where(np.arange(24).reshape(6, 4) > 13, np.inf, X), "y": Y}, ["the first in example 3"]),
        ({"x": X, "y": Y * 0}, ["only the class '0'"]),
        ({"x": X[:0], "y": Y[:0]}, ["no examples"]),
        ({"x": X, "y": Y, "x_test": X}, ["no array y_test"]),
        ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, ["(4,)", "(2,)"]),
        ({"x": X, "y": Y, "split": np.array(["train"] * 5 + ["later"])}, ["'later'"]),
        ({"x": X, "y": Y, "split": np.zeros(6)}, ["split holds float64"]),
        ({"x": X, "y": Y, "classes": np.array(["a", "b"])}, ["classes has the shape (2,)", "3 classes"]),
        ({"x": np.float32(1), "y": np.int64(1)}, ["x has the shape ()", "y holds int64 of shape ()"]),
        ({"x": X, "y": Y, "split": np.array(["test"] * 6)}, ["the training part has no examples"]),
        ({"x": X[:2], "y": Y[:2]}, ["no class has a second example"]),
    ],
)
def test_problems_of_arrays_are_listed(tmp_path, arrays, words):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(UsageError) as error:
        read(tmp_path / "data.npz")
    assert all(word in str(error.value) for word in [*words, "data.npz"])


def test_labels_of_different_integer_types_stay_integers(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=Y.astype(np.uint64), x_test=X, y_test=Y.astype(np.int8))
    data = read(tmp_path / "data.npz")
    assert data.labels.tolist() == [*Y, *Y]
    assert data.classes == ("0", "1", "2")


def test_the_ending_of_a_file_may_be_in_capitals(tmp_path, digits, texts):
    (tmp_path / "DIGITS.NPZ").write_bytes(digits.read_bytes())
    (tmp_path / "TEXTS.CSV").write_bytes(texts.read_bytes())
    assert read(tmp_path / "DIGITS.NPZ").fingerprint() == read(digits).fingerprint()
    copied, original = (read(path, tokenizer=TOKENIZER) for path in (tmp_path / "TEXTS.CSV", texts))
    assert copied.fingerprint() == original.fingerprint()


def test_a_damaged_archive_is_told(tmp_path, digits):
    (tmp_path / "cut.npz").write_bytes(digits.read_bytes()[:3000])
    with pytest.raises(UsageError, match=r"cut\.npz"):
        read(tmp_path / "cut.npz")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("text,label\n,a\nb,\nc,d,e\n", ["line 2: no text", "line 3: no label", "line 4: more fields"]),
        ("text,label,split\na,b,later\nc,d,train\n", ["line 2: split is 'later'"]),
        ("words,classes\na,b\n", ["no column text and no column label", "found: words, classes"]),
        ("", ["no column text", "found: none"]),
        ("text,text,label\na,b,c\n", ["several columns text"]),
        ("text,label\na\n", ["line 2: no label"]),
        ("text,label\n", ["no examples"]),
    ],
)
def test_problems_of_texts_are_listed(tmp_path, text, words):
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(UsageError) as error:
        read(tmp_path / "data.csv", tokenizer=TOKENIZER)
    assert all(word in str(error.value) for word in [*words, "data.csv"])


def test_text_that_is_not_utf8_is_told(tmp_path):
    (tmp_path / "data.csv").write_bytes(b"text,label\n\xff,a\n")
    with pytest.raises(UsageError, match="UTF-8"):
        read(tmp_path / "data.csv", tokenizer=TOKENIZER)


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        ("", "name the model's tokenizer"),
        ("finetune_models:three", "gives a int"),
        ("finetune_models:four", "has no 'four'"),
        ("nowhere", "'nowhere' is no tokenizer on this machine"),
    ],
)
def test_a_tokenizer_that_is_none_is_told(texts, tokenizer, words):
    with pytest.raises(UsageError, match=words):
        read(texts, tokenizer=tokenizer)


def test_problems_of_images_are_listed(tmp_path, colours):
    for name in ("a", "b", "nothing"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "fine.png").write_bytes(next(colours.rglob("*.png")).read_bytes())
    (tmp_path / "a" / "no.png").write_text("no image")
    (tmp_path / "b" / "cut.png").write_bytes(next(colours.rglob("*.png")).read_bytes()[:200])
    with pytest.raises(UsageError) as error:
        read(tmp_path, input_shape=(1, 3, 8, 8))
    assert all(word in str(error.value) for word in ("no.png", "cut.png", "nothing: no images"))
    assert "fine" not in str(error.value)


def test_a_folder_without_folders_and_other_paths_are_told(tmp_path):
    with pytest.raises(UsageError, match="no sub-folders"):
        read(tmp_path)
    with pytest.raises(UsageError, match="4x3x8x8"):
        read(tmp_path, input_shape=(4, 3, 8, 8))
    with pytest.raises(UsageError, match="1x1x8x8"):
        read(tmp_path, input_shape=(1, 1, 8, 8))
    with pytest.raises(UsageError, match="no data set"):
        read(tmp_path / "nothing.npz")
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(UsageError, match=r"\.csv file or an \.npz"):
        read(tmp_path / "data.json")
    with pytest.raises(UsageError, match="between 0 and 1"):
        DataOptions(tmp_path, validation=1.0)
    with pytest.raises(UsageError, match="tokens"):
        DataOptions(tmp_path, max_tokens=0)


@pytest.mark.parametrize(("package", "command"), [("PIL", "pip install pillow"), ("transformers", "pip install")])
def test_a_missing_package_is_named(monkeypatch, colours, texts, package, command):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=command):
        read(colours if package == "PIL" else texts, tokenizer="directory")
