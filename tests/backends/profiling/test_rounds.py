"""Timing in rounds, with a network whose times and interruptions are made up."""

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cospipe.backends.profiling.rounds import (
    MOST_TIMES_AS_MANY,
    WARM_UP_ROUNDS,
    counting_times,
    time_rounds,
    without_garbage_collection,
)


class Script:
    """Plays rounds: time of the whole and whether it is interrupted, times of kernels and whether those are clean."""

    def __init__(self, *rounds):
        warm_up = [(1e6, True, [1e6] * len(rounds[0][2]), [True] * len(rounds[0][2]))] * WARM_UP_ROUNDS
        self.rounds, self.place, self.interruptions = [*warm_up, *rounds], 0, 0

    def run_whole(self):
        whole_us, interrupted, *_ = self.rounds[self.place]
        self.interruptions += interrupted
        return whole_us

    def run_clocked(self):
        self.place += 1
        return self.rounds[self.place - 1][2:]

    def switches(self):
        return self.interruptions


def sorted_times(times_us):
    return sorted(times_us.tolist())


def test_the_first_rounds_warm_up():
    script = Script((10.0, False, [4.0, 5.0], [True, True]), (12.0, False, [4.5, 6.0], [True, True]))
    timing = time_rounds(script, rounds=2)
    assert sorted_times(timing.of_network()) == [10.0, 12.0]
    assert sorted_times(timing.of_kernels([1])) == [5.0, 6.0]
    assert sorted_times(timing.of_kernels([0, 1])) == [9.0, 10.5]


def test_interrupted_rounds_are_repeated_and_do_not_count():
    good, bad = (10.0, False, [9.0], [True]), (70.0, True, [80.0], [False])
    script = Script(good, bad, good, bad, good, good)
    timing = time_rounds(script, rounds=3)
    assert script.place == WARM_UP_ROUNDS + 5
    assert sorted_times(timing.of_network()) == [10.0] * 3
    assert sorted_times(timing.of_kernels([0])) == [9.0] * 3


def test_kernels_and_the_whole_count_apart():
    script = Script(
        (10.0, False, [50.0, 1.0], [False, True]),
        (60.0, True, [9.0, 70.0], [True, False]),
        (11.0, False, [8.0, 2.0], [True, True]),
    )
    timing = time_rounds(script, rounds=2)
    assert sorted_times(timing.of_network()) == [10.0, 11.0]
    assert sorted_times(timing.of_kernels([0])) == [8.0, 9.0]
    assert sorted_times(timing.of_kernels([1])) == [1.0, 2.0]
    assert sorted_times(timing.of_kernels([0, 1])) == [10.0]  # only the last round disturbed neither


def test_on_a_busy_machine_the_shortest_times_count():
    script = Script(*((10.0 + place, True, [5.0 + place], [False]) for place in range(30)))
    timing = time_rounds(script, rounds=6)
    assert script.place == WARM_UP_ROUNDS + 6 * MOST_TIMES_AS_MANY
    assert sorted_times(timing.of_network()) == [10.0, 11.0]
    assert sorted_times(timing.of_kernels([0])) == [5.0, 6.0]


def test_every_round_is_told():
    told = []
    time_rounds(Script(*[(1.0, False, [1.0], [True])] * 4), rounds=4, progress=lambda: told.append(1))
    assert len(told) == 4


@given(times=st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), min_size=1, max_size=30), wanted=st.integers(1, 12))
def test_which_times_count(times, wanted):
    times_us, is_clean = (np.array(column) for column in zip(*times, strict=True))
    counting = sorted_times(counting_times(times_us, is_clean, wanted))
    clean = sorted_times(times_us[is_clean])
    others = sorted_times(times_us[~is_clean])
    filled = max(0, -(-wanted // 3) - len(clean))
    assert counting == sorted([*clean, *others[:filled]])


def test_garbage_collection_comes_back_after_an_error():
    def interrupted():
        with without_garbage_collection():
            assert not gc.isenabled()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert gc.isenabled()
