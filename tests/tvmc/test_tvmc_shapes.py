import argparse
import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cospipe.tvmc.shapes import parse_shape_string


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("input:[10,10,10]", {"input": (10, 10, 10)}),
        ("input:[10,10,10] input2:[20,20,20,20]", {"input": (10, 10, 10), "input2": (20, 20, 20, 20)}),
        ("input: [10, 10, 10] input2: [20, 20]", {"input": (10, 10, 10), "input2": (20, 20)}),
        ("in/put:[1,3] i:n:[2] a.b:0:[4]", {"in/put": (1, 3), "i:n": (2,), "a.b:0": (4,)}),
        ("input:[-1,3,0]", {"input": (-1, 3, -1)}),
        ("a:[1],b:[2]", {"a": (1,), "b": (2,)}),
        ("scalar:[]", {"scalar": ()}),
    ],
)
def test_shapes(text, shapes):
    assert parse_shape_string(text) == shapes


@pytest.mark.parametrize(
    "text", ["", " ", "input", "input:10,10", "input:[10", "input:[10,]", "input:[a]", "a:[1] b", "a:[1] a:[1]", ":[1]"]
)
def test_bad_shapes(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_shape_string(text)


NAMES = st.from_regex(r"\A[A-Za-z][\w./:]{0,8}\w\Z")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, st.lists(st.integers(1, 9999), max_size=5), min_size=1, max_size=4))
def test_written_shapes_are_read(shapes):
    text = " ".join(f"{name}:{sizes}" for name, sizes in shapes.items())
    assert parse_shape_string(text) == {name: tuple(sizes) for name, sizes in shapes.items()}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(argparse.ArgumentTypeError):
        assert parse_shape_string(text)
