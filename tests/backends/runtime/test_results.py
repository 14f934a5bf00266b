"""Results of a run as one .npz file, whole or not at all."""

import errno
import os

import numpy as np
import pytest

from cospipe.backends.runtime.results import ResultWriter, check_results_file
from cospipe.ir.errors import CospipeError, UsageError

RESULTS = [{"scores": np.full((1, 3), i, np.float32), "count": np.array(i)} for i in range(4)]


def write(path, results=RESULTS):
    with ResultWriter(path) as writer:
        for result in results:
            writer.add(result)


def test_each_output_is_stacked_over_the_frames(tmp_path):
    write(tmp_path / "results.npz")
    with np.load(tmp_path / "results.npz") as archive:
        assert archive["scores"].shape == (4, 1, 3)
        assert archive["count"].tolist() == [0, 1, 2, 3]
    assert os.listdir(tmp_path) == ["results.npz"]


def test_without_a_path_nothing_is_kept(tmp_path):
    writer = ResultWriter(None)
    with writer:
        writer.add(RESULTS[0])
    assert not writer._results


def test_a_failed_run_leaves_the_old_results(tmp_path):
    write(tmp_path / "results.npz")
    before = (tmp_path / "results.npz").read_bytes()
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "results.npz", (RESULTS[1 // i] for i in (1, 0)))
    assert (tmp_path / "results.npz").read_bytes() == before
    assert os.listdir(tmp_path) == ["results.npz"]


def test_a_full_disk_leaves_the_old_results_and_says_so(tmp_path, monkeypatch):
    write(tmp_path / "results.npz")
    before = (tmp_path / "results.npz").read_bytes()

    def full(stream, array, **options):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(CospipeError, match=r"could not be written to .*results\.npz: .*No space left"):
        write(tmp_path / "results.npz")
    assert (tmp_path / "results.npz").read_bytes() == before
    assert os.listdir(tmp_path) == ["results.npz"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("results.txt", "written as .npz"), ("folder.npz", "not such a file name"), ("no/results.npz", "not exist")],
)
def test_a_path_that_cannot_be_written_is_refused_before_the_run(tmp_path, name, words):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UsageError, match=words):
        check_results_file(tmp_path / name)


def test_an_output_may_be_named_like_an_argument_of_savez(tmp_path):
    write(tmp_path / "results.npz", [{"file": RESULTS[0][next(iter(RESULTS[0]))]}])
    with np.load(tmp_path / "results.npz") as written:
        assert written.files == ["file"]


def test_a_path_that_can_be_written_passes(tmp_path):
    check_results_file(tmp_path / "results.npz")
    check_results_file(None)
