"""Percentiles of a histogram against sorted times: the nearest rank, within a quarter of a percent."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.backends.runtime.histogram import Histogram, merged

TIMES_US = st.lists(st.floats(0.1, 1e9), min_size=1, max_size=60)


def filled(times_us):
    histogram = Histogram()
    for time_us in times_us:
        histogram.add(time_us)
    return histogram


@given(times_us=TIMES_US, percent=st.sampled_from([1, 50, 90, 99, 100]))
def test_percentiles_are_the_nearest_rank(times_us, percent):
    expected = np.percentile(times_us, percent, method="inverted_cdf")
    assert filled(times_us).percentile(percent) == pytest.approx(expected, rel=0.0026)


@given(first=TIMES_US, second=TIMES_US)
def test_two_together_are_as_if_they_were_one(first, second):
    both, one = merged([filled(first), filled(second)]), filled(first + second)
    assert both.count == one.count == len(first + second)
    assert both.percentile(50) == one.percentile(50)
    assert both.total_us == pytest.approx(math.fsum(first + second))


def test_without_times_there_is_no_percentile():
    assert Histogram().percentile(50) is None
    assert merged([]).count == 0


@pytest.mark.parametrize(("time_us", "end_us"), [(0, 0.1), (-1, 0.1), (1e15, 1e9)])
def test_what_is_outside_falls_into_the_ends(time_us, end_us):
    assert filled([time_us]).percentile(50) == pytest.approx(end_us, rel=0.006)
