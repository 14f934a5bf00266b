"""Raw bytes in and out: what is written can be read again, and what is cut off is told."""

import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from cospipe.backends.runtime.raw_frames import RawWriter, raw_frames
from cospipe.ir.errors import CospipeError, UsageError
from cospipe.ir.manifest import TensorSpec

MANIFEST = SimpleNamespace(
    inputs=(
        TensorSpec(name="image", shape=(2, 3), dtype="float32"),
        TensorSpec(name="count", shape=(), dtype="int64"),
        TensorSpec(name="mask", shape=(3, 0), dtype="bool"),
    )
)
FRAME_BYTES = 6 * 4 + 8


def frames(count):
    generator = np.random.default_rng(0)
    for number in range(count):
        image = generator.standard_normal((2, 3)).astype(np.float32)
        yield {"image": image, "count": np.array(number), "mask": np.zeros((3, 0), bool)}


def test_frames_come_back_from_what_was_written(tmp_path):
    with RawWriter(tmp_path / "frames") as writer:
        for frame in frames(5):
            writer.add(frame)
    assert (tmp_path / "frames").stat().st_size == 5 * FRAME_BYTES
    found = list(raw_frames(MANIFEST, tmp_path / "frames"))
    assert len(found) == 5
    for frame, expected in zip(found, frames(5), strict=True):
        assert frame.keys() == expected.keys()
        for name, array in frame.items():
            assert array.dtype == expected[name].dtype
            assert np.array_equal(array, expected[name])


def test_rows_that_are_not_contiguous_are_written_in_order(tmp_path):
    turned = np.arange(6, dtype=np.int32).reshape(2, 3).T
    with RawWriter(tmp_path / "results") as writer:
        writer.add({"out": turned})
    assert np.array_equal(np.fromfile(tmp_path / "results", np.int32), [0, 3, 1, 4, 2, 5])


def test_bytes_that_come_bit_by_bit_become_whole_frames():
    source, sink = os.pipe()
    expected = b"".join(array.tobytes() for frame in frames(3) for array in frame.values())

    def write():
        for i in range(0, len(expected), 7):
            os.write(sink, expected[i : i + 7])
        os.close(sink)

    thread = threading.Thread(target=write)
    thread.start()
    found = b"".join(array.tobytes() for frame in raw_frames(MANIFEST, source) for array in frame.values())
    thread.join()
    assert found == expected


def test_an_empty_file_holds_no_frames(tmp_path):
    (tmp_path / "none").touch()
    assert list(raw_frames(MANIFEST, tmp_path / "none")) == []


def test_a_frame_that_is_cut_off_is_told_behind_those_before(tmp_path):
    (tmp_path / "cut").write_bytes(bytes(2 * FRAME_BYTES + 5))
    found = []
    with pytest.raises(UsageError, match=rf"Raw frame 2 is cut off: 5 of {FRAME_BYTES} bytes"):
        found.extend(raw_frames(MANIFEST, tmp_path / "cut"))
    with pytest.raises(UsageError, match="cannot be read"):
        raw_frames(MANIFEST, tmp_path / "nowhere")


def test_frames_without_bytes_are_refused(tmp_path):
    (tmp_path / "none").touch()
    with pytest.raises(UsageError, match="has no bytes"):
        raw_frames(SimpleNamespace(inputs=MANIFEST.inputs[2:]), tmp_path / "none")


def test_a_reader_that_went_away_and_a_full_disk_get_a_sentence(tmp_path):
    frame = next(frames(1))
    with RawWriter("/dev/full") as writer, pytest.raises(CospipeError, match="written to /dev/full: No space left"):
        writer.add(frame)
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with RawWriter(tmp_path / "fifo") as writer:
        os.close(reader)
        with pytest.raises(CospipeError, match="Broken pipe"):
            writer.add(frame)
    with pytest.raises(CospipeError, match="could not be written"), RawWriter(tmp_path / "nowhere" / "results"):
        pass


def test_without_a_file_nothing_is_written():
    with RawWriter(None) as writer:
        writer.add(next(frames(1)))
