"""JSON of others: what is plain is read, what two readers could read differently is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.ir.json_text import MOST_DEPTH, MOST_VALUES, parse_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts), max_leaves=20)


@given(value=VALUES)
def test_plain_json_is_read_as_pythons_library_reads_it(value):
    text = json.dumps(value)
    assert parse_json(text) == json.loads(text)
    assert parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"{\0}", "not valid JSON"),
        ("{}".encode("utf-16"), "not valid JSON"),
        (b'"\x1b"', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
        (b'{"a": 1, "b": {"a": 1}, "a": 1}', "names 'a' twice"),
        (b'[{"a": {"b": 1, "\\u0062": 2}}]', "names 'b' twice"),
        (b"[NaN]", "NaN is no number"),
        (b"-Infinity", "-Infinity is no number"),
        (b"[-1e400]", "the number -1e400 is too large"),
        (b"[" * 10**6, "nested more than 64 deep"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
        (b"[" + b"0," * MOST_VALUES + b"0]", "more than 2097152 values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_json_gets_a_sentence(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_the_limits_themselves_are_within():
    assert parse_json(b"[" * MOST_DEPTH + b"]" * MOST_DEPTH)
    assert len(parse_json(b"[" + b"0," * (MOST_VALUES - 4) + b"0]")) == MOST_VALUES - 3
