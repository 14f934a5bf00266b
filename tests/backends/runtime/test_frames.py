"""Frames from files and synthetic ones; every file that cannot be used is named with its reason."""

import numpy as np
import pytest
from PIL import Image

from cospipe.backends.runtime.frame import frame_problems
from cospipe.backends.runtime.frames import ImageOptions, normalise_image, read_frames, synthetic_frames
from cospipe.ir.errors import UsageError
from cospipe.ir.manifest import Manifest, TensorSpec

OPTIONS = ImageOptions()


def manifest(*shapes, dtype="float32"):
    inputs = tuple(TensorSpec(name=f"in{i}", shape=shape, dtype=dtype) for i, shape in enumerate(shapes))
    return Manifest.model_construct(inputs=inputs)


PHOTOS, PAIR = manifest((1, 3, 8, 12)), manifest((2, 3), (4,))


def test_synthetic_frames_fit_and_repeat():
    frames = list(synthetic_frames(manifest((1, 3, 4, 4), ()), 10))
    assert len(frames) == 10
    assert not any(frame_problems(manifest((1, 3, 4, 4), ()), frame) for frame in frames)
    again = synthetic_frames(manifest((1, 3, 4, 4), ()), 10)
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(frames, again, strict=True) for name in a)
    assert not np.array_equal(frames[0]["in0"], frames[1]["in0"])


def test_synthetic_integers_are_zeros():
    frame = next(synthetic_frames(manifest((5,), dtype="int64"), 1))
    assert frame["in0"].dtype == np.int64
    assert not frame["in0"].any()


@pytest.mark.parametrize("count", [0, -3])
def test_no_frames_are_refused(count):
    with pytest.raises(UsageError, match="at least 1"):
        synthetic_frames(PHOTOS, count)


def test_arrays_come_back_from_files(tmp_path):
    pair = {"in0": np.ones((2, 3), np.float32), "in1": np.arange(4, dtype=np.float32)}
    np.savez(tmp_path / "pair.npz", **pair)
    [frame] = read_frames(PAIR, [tmp_path / "pair.npz"], OPTIONS)
    assert all(np.array_equal(frame[name], pair[name]) for name in pair)
    np.save(tmp_path / "photo.npy", np.ones((1, 3, 8, 12), np.float32))
    [frame] = read_frames(PHOTOS, [tmp_path / "photo.npy"], OPTIONS)
    assert frame["in0"].shape == (1, 3, 8, 12)


def test_an_image_is_scaled_cut_and_normalised(tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, :, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "red.png")
    [frame] = read_frames(PHOTOS, [tmp_path / "red.png"], OPTIONS)
    red, green = (1 - 0.485) / 0.229, -0.456 / 0.224
    assert frame["in0"].shape == (1, 3, 8, 12)
    assert frame["in0"][0, 0] == pytest.approx(red, abs=1e-5)
    assert frame["in0"][0, 1] == pytest.approx(green, abs=1e-5)


def test_the_middle_of_a_wide_image_is_taken(tmp_path):
    pixels = np.zeros((8, 36, 3), np.uint8)
    pixels[:, 12:24] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    [frame] = read_frames(PHOTOS, [tmp_path / "wide.png"], ImageOptions((0, 0, 0), (1, 1, 1)))
    assert frame["in0"].mean() > 0.9


def test_images_of_one_channel_or_with_transparency_become_three_channels(tmp_path):
    Image.new("L", (12, 8), 128).save(tmp_path / "grey.png")
    Image.new("RGBA", (12, 8), (128, 128, 128, 7)).save(tmp_path / "clear.png")
    frames = read_frames(PHOTOS, [tmp_path / "grey.png", tmp_path / "clear.png"], OPTIONS)
    assert np.array_equal(frames[0]["in0"], frames[1]["in0"])


def test_normalising_keeps_rows_and_columns():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    result = normalise_image(pixels, ImageOptions((0, 0, 0), (1, 1, 1)))
    assert result.shape == (1, 3, 2, 4)
    assert result[0, 2, 1, 3] == pytest.approx(pixels[1, 3, 2] / 255)


def files_with_mistakes(folder):
    """Write one file a mistake; return what is said of each."""
    np.save(folder / "double.npy", np.ones((1, 3, 8, 12)))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(folder / "names.npz", image=np.ones((1, 3, 8, 12), np.float32))
    np.save(folder / "array.npy", np.ones(3, np.float32))
    (folder / "array.npy").rename(folder / "array.npz")
    (folder / "empty.npy").write_bytes(b"")
    (folder / "half.npz").write_bytes((folder / "names.npz").read_bytes()[:60])
    (folder / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n and then noise")
    Image.effect_noise((64, 64), 90).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:900])
    (folder / "text.txt").write_text("no image")
    (folder / "folder.png").mkdir()
    return {
        "double.npy": "in0 is 1x3x8x12 float64, expected in0 (1x3x8x12 float32)",
        "objects.npy": "allow_pickle",
        "names.npz": "image is no input; in0 (1x3x8x12 float32) is missing",
        "array.npz": "it is not an .npz archive",
        "empty.npy": "",
        "half.npz": "",
        "noise.png": "",
        "cut.png": "",
        "text.txt": "",
        "folder.png": "there is no such file",
        "nowhere.npy": "there is no such file",
    }


def test_every_file_that_cannot_be_used_is_named(tmp_path):
    expected = files_with_mistakes(tmp_path)
    with pytest.raises(UsageError, match="cannot be used") as error:
        read_frames(PHOTOS, [tmp_path / name for name in expected], OPTIONS)
    lines = str(error.value).split("\n  - ")[1:]
    assert len(lines) == len(expected)
    for line, (name, reason) in zip(lines, expected.items(), strict=True):
        assert line.startswith(f"{tmp_path / name}: ")
        assert reason in line
        assert len(line) > len(f"{tmp_path / name}: ")


@pytest.mark.parametrize(
    ("network", "name", "words"),
    [
        (PAIR, "photo.png", "the network has 2 inputs"),
        (manifest((1, 1, 8, 8)), "photo.png", "images need a 1x3xHxW float32 input"),
        (manifest((1, 3, 8, 8), dtype="uint8"), "photo.png", "images need a 1x3xHxW float32 input"),
    ],
)
def test_networks_that_take_no_images_say_so(tmp_path, network, name, words):
    Image.new("RGB", (12, 8)).save(tmp_path / name)
    with pytest.raises(UsageError, match=words):
        read_frames(network, [tmp_path / name], OPTIONS)


@pytest.mark.parametrize("frame", [np.ones(3), [1, 2], "text", None])
def test_what_is_no_frame_is_told(frame):
    assert frame_problems(PAIR, frame) == [
        f"a frame is a dictionary of arrays by input name, not a {type(frame).__name__}"
    ]


def test_what_is_no_array_is_told():
    problems = frame_problems(PAIR, {"in0": [[1.0] * 3] * 2, "in1": np.float32(1)})
    assert problems == ["in0 is a list, expected in0 (2x3 float32)", "in1 is a float32, expected in1 (4 float32)"]
