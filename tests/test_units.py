"""Amounts with units on the command line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.ir.errors import UsageError
from cospipe.units import memory_bytes, power_mw, time_us


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50ms", 50_000),
        ("80us", 80),
        ("80 µs", 80),
        ("1.5s", 1_500_000),
        (" .5 ms ", 500),
        ("2e3us", 2000),
        ("3.s", 3e6),
    ],
)
def test_times(text, expected):
    assert time_us("--max-latency", text) == pytest.approx(expected)


@pytest.mark.parametrize(("text", "expected"), [("5W", 5000), ("2500mW", 2500), ("0.5 W", 500)])
def test_powers(text, expected):
    assert power_mw("--max-power", text) == pytest.approx(expected)


@pytest.mark.parametrize(("text", "expected"), [("200MB", 200_000_000), ("1KiB", 1024), ("1.5kB", 1500), ("7B", 7)])
def test_sizes(text, expected):
    assert memory_bytes("--max-memory", text) == expected


@given(st.floats(1e-3, 1e6), st.sampled_from([("us", 1), ("ms", 1e3), ("s", 1e6)]))
def test_any_positive_time_is_read(number, unit):
    assert time_us("--max-latency", f"{number!r}{unit[0]}") == pytest.approx(number * unit[1])


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (time_us, "50", "has no unit"),
        (time_us, "50 W", "'W' is none of its units (ns, us, ms, s, min)"),
        (time_us, "-3ms", "above zero"),
        (time_us, "0ms", "above zero"),
        (time_us, "nan ms", "above zero"),
        (time_us, "infs", "above zero"),
        (time_us, "1e400ms", "above zero"),
        (time_us, "soon", "such as 50ms"),
        (time_us, "", "such as 50ms"),
        (time_us, "1,5ms", "such as 50ms"),
        (power_mw, "5w", "'w' is none of its units"),
        (power_mw, "5MW", "'MW' is none of its units"),
        (memory_bytes, "0.4B", "at least one byte"),
        (memory_bytes, "200", "has no unit"),
        (memory_bytes, "inf GB", "above zero"),
    ],
)
def test_bad_amounts_are_told_with_their_option(read, text, said):
    with pytest.raises(UsageError) as error:
        read("--limit", text)
    assert str(error.value).startswith("--limit ")
    assert said in str(error.value)
