import pytest

from cospipe.input_options import parse_input_shapes, parse_input_values
from cospipe.ir.errors import UsageError


def test_shapes_in_order_and_by_name():
    assert parse_input_shapes(None) is None
    assert parse_input_shapes(["1,3,8,8", "2x4"]) == [[1, 3, 8, 8], [2, 4]]
    assert parse_input_shapes(["a:1,3", "onnx::b:2"]) == {"a": [1, 3], "onnx::b": [2]}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a:1,3", "2"], "with the names of their inputs, or none of them"),
        (["a:1", "a:2"], "two shapes for the input 'a'"),
        (["a:1,b"], "'1,b' is no input shape"),
    ],
)
def test_wrong_shapes(texts, words):
    with pytest.raises(UsageError, match=words):
        parse_input_shapes(texts)


def test_values():
    assert parse_input_values(None) == {}
    assert parse_input_values(["sr=16000", "t=0.5", "s=1,-2"]) == {"sr": 16000, "t": 0.5, "s": [1, -2]}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["16000"], "like sr=16000, not '16000'"),
        (["sr=fast"], "The value of the input 'sr' is no number: 'fast'"),
        (["sr=1", "sr=2"], "two values for the input 'sr'"),
    ],
)
def test_wrong_values(texts, words):
    with pytest.raises(UsageError, match=words):
        parse_input_values(texts)
