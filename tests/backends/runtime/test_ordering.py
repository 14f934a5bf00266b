"""Frames that overtake each other leave in order, and none is finished before the one before it."""

from hypothesis import given
from hypothesis import strategies as st

from cospipe.backends.runtime.job import Job
from cospipe.backends.runtime.ordering import InOrder


@given(st.integers(0, 30).flatmap(lambda count: st.permutations(range(count))))
def test_every_frame_leaves_once_and_in_order_as_early_as_it_can(arrivals):
    order, left = InOrder(), []
    for time_s, number in enumerate(arrivals):
        left += list(order.pass_on(Job(None, number, {}, finished_s=float(time_s))))
        there = set(arrivals[: time_s + 1])
        assert len(left) == next(n for n in range(len(arrivals) + 1) if n not in there)
    assert [job.number for job in left] == list(range(len(arrivals)))
    arrived = {number: time_s for time_s, number in enumerate(arrivals)}
    assert [job.finished_s for job in left] == [max(arrived[n] for n in range(i + 1)) for i in range(len(arrivals))]
