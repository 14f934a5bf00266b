"""The soak: some seconds of it with everything that can happen, and that it notices what must not happen."""

import os
from dataclasses import replace

import numpy as np
import pytest
from native_runner import native_runner
from soak_network import ADAPTERS, SoakPipeline, soak_pipeline
from soak_run import Life, Soak, SoakError, Unrest


@pytest.fixture
def pretended(tmp_path):
    """A pipeline that is never run: frame n of four has the result n + 10 * its adapter's position."""
    files = {name: tmp_path / name for name in ADAPTERS}
    for file in files.values():
        file.write_bytes(b"")
    expected = {
        name: [np.full((1, 2), frame + 10 * position, np.float32) for frame in range(4)]
        for position, name in enumerate(ADAPTERS)
    }
    return SoakPipeline(None, files, [np.zeros(1, np.float32)] * 4, expected)


@pytest.fixture
def soak(pretended, tmp_path):
    """A soak with one life, which began with adapter a and was given b, c and a again."""
    soak = Soak(pretended, tmp_path, 100.0)
    soak.lives.append(Life(0, 0.0, ["a", "b", "c", "a"]))
    return soak


def put_result(soak, tmp_path, number, value):
    np.save(tmp_path / "in" / f"{number:010}.npy", np.zeros(1, np.float32))
    np.savez(tmp_path / "out" / f"{number:010}.npz", y=np.full((1, 2), value, np.float32))


def check(soak, tmp_path, values):
    for number, value in enumerate(values):
        put_result(soak, tmp_path, number, value)
        soak._check_result(number)


def test_right_results_are_removed_with_their_frames(soak, tmp_path):
    check(soak, tmp_path, [0, 11, 12, 23, 0, 1])  # a, b, b, c, a, a
    assert soak.checked == 6
    assert soak.lives[0].position == 3
    assert not [*(tmp_path / "in").iterdir(), *(tmp_path / "out").iterdir()]


def test_the_result_of_another_frame_is_noticed(soak, tmp_path):
    with pytest.raises(SoakError, match="frame 1 is wrong for every adapter"):
        check(soak, tmp_path, [0, 2])


def test_an_adapter_that_was_replaced_before_is_noticed(soak, tmp_path):
    with pytest.raises(SoakError, match="Frame 2 met adapter b; it could only meet c, a"):
        check(soak, tmp_path, [0, 21, 12])


def test_results_that_are_written_out_of_order_are_noticed(soak, tmp_path):
    put_result(soak, tmp_path, 1, 1)
    put_result(soak, tmp_path, 0, 0)
    soak._check_result(0)
    with pytest.raises(SoakError, match="before that of the frame before"):
        soak._check_result(1)


def test_a_result_that_is_lost_is_noticed(soak, tmp_path):
    put_result(soak, tmp_path, 0, 0)
    put_result(soak, tmp_path, 2, 2)
    with pytest.raises(SoakError, match="There are results"):
        soak._first_without_result()


def life(seconds, growth):
    """Return a life whose memory grows by a share from its first sample to its last."""
    samples = [(float(i), int(1e8 * (1 + growth * i / seconds))) for i in range(seconds)]
    return Life(0, 0.0, ["a"], ended_s=float(seconds), resident_bytes=samples)


def test_growing_memory_is_drift_and_short_lives_do_not_count():
    assert life(120, 0.0).drift() == 0
    assert life(120, 0.1).drift() == pytest.approx(0.044, abs=0.005)
    assert life(120, -0.1).drift() < -0.04
    assert life(20, 0.1).drift() is None


@pytest.mark.slow
def test_everything_that_can_happen(tmp_path):
    """Some seconds of it, or as many minutes as COSPIPE_SOAK_MINUTES says."""
    seconds = 60 * float(os.environ.get("COSPIPE_SOAK_MINUTES", "0.12"))
    share = min(1.0, seconds / 120)  # in a short run everything happens more often
    usual = Unrest()
    unrest = Unrest(usual.swap_s * share, usual.stop_s * share, usual.kill_s * share, usual.stall_s * share)
    soak = Soak(soak_pipeline(tmp_path, native_runner()), tmp_path, 100.0)
    soak.run(seconds / 2, unrest, lambda _: None)
    soak.run(seconds / 2, replace(unrest, kill_s=0), lambda _: None)
    assert soak.lives[-1].drift() is None or abs(soak.lives[-1].drift()) < 0.1  # an hour must stay within 2 %
    assert soak.checked == soak.produced > 50
    assert sum(each.frames for each in soak.lives) == soak.checked
    assert soak.lives[-1].ended_by == "SIGTERM"
    assert soak.swaps > 3
