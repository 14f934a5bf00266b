"""Frames meet the weights that were current when they were accepted; nothing else stays in memory."""

import sys
import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from cospipe.backends.runtime.generations import WeightGenerations


@given(st.lists(st.sampled_from(["accept", "leave", "leave last", "swap"]), max_size=60))
def test_a_generation_stays_as_long_as_a_frame_needs_it_and_no_longer(actions):
    generations = WeightGenerations([["0a"], ["0b"]])
    generations.begin_run("run")
    inside, current, accepted = [], 0, 0
    for action in actions:
        if action == "accept":
            inside.append(generations.enter("run"))
            accepted += 1
            assert inside[-1] == current
        elif action == "swap":
            current += 1
            assert generations.add([[f"{current}a"], [f"{current}b"]]) == accepted
        elif inside:
            generations.leave(inside.pop(0 if action == "leave" else -1))
        assert len(generations) == len({current, *inside})
        for generation in {current, *inside}:
            assert [generations.get(generation, build) for build in (0, 1)] == [[f"{generation}a"], [f"{generation}b"]]


def test_frames_of_an_earlier_run_are_not_counted():
    generations = WeightGenerations([[]])
    generations.begin_run("old")
    generations.enter("old")
    generations.begin_run("new")
    generations.enter("old")
    generations.enter("new")
    assert generations.add([[]]) == 1


def test_weights_may_come_while_frames_come_and_go():
    generations, is_over, problems = WeightGenerations([[0]]), threading.Event(), []

    def swap():
        number = 0
        while not is_over.is_set():
            number += 1
            generations.add([[number]])

    def frames():
        while not is_over.is_set():
            generation = generations.enter("run")
            if generations.get(generation, 0) != [generation]:
                problems.append(generation)
            generations.leave(generation)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work) for work in (swap, frames, frames)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    is_over.set()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert not problems
    assert len(generations) == 1
