"""Files, pipes and directories of frames in C++, against numpy and zipfile."""

import io
import os
import struct
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cpp_build import driver
from cpp_frames import PROGRAM_SOURCE, act, array_of, ended, started, write_plan
from cpp_readers import Refused
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
INPUTS = [["x", [2, 3], "float32"], ["y", [3], "int64"]]
any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
names = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0:"), min_size=1, max_size=8)


def frame(number):
    return {"x": np.arange(6, dtype=np.float32).reshape(2, 3) + number, "y": np.arange(3) - number}


def raw(*numbers):
    return b"".join(array.tobytes() for number in numbers for array in frame(number).values())


def hexadecimal(*numbers):
    return [[array.tobytes().hex() for array in frame(number).values()] for number in numbers]


def equal(found, expected):
    return (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


def npy(array, version=(1, 0)):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.fixture
def plan(tmp_path):
    return write_plan(tmp_path, inputs=INPUTS)


# Reading and writing numpy's files


@settings(max_examples=25, deadline=None)
@given(any_array, st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_arrays_that_numpy_writes(array, version):
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "a.npy"
        file.write_bytes(npy(array, version))
        assert equal(array_of(act("npy", file)), array)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(names, any_array, max_size=4))
def test_archives_there_and_back(arrays):
    with tempfile.TemporaryDirectory() as scratch:
        first, second = Path(scratch) / "a.npz", Path(scratch) / "b.npz"
        with zipfile.ZipFile(first, "w") as archive:
            for name, array in arrays.items():
                archive.writestr(f"{name}.npy", npy(array))
        found = {name: array_of(answer) for name, answer in act("npz", first).items()}
        act("rewrite", first, second)
        assert os.listdir(scratch).count("b.npz") == len(os.listdir(scratch)) - 1
        with np.load(second) as written:
            rewritten = dict(written)
        with zipfile.ZipFile(second) as archive:
            assert archive.testzip() is None
    assert found.keys() == rewritten.keys() == arrays.keys()
    assert all(equal(found[name], array) and equal(rewritten[name], array) for name, array in arrays.items())


def test_archives_of_savez_to_a_file_and_to_a_pipe(tmp_path):
    arrays = {"x": np.arange(1000.0), "scalar": np.array(True)}
    np.savez(tmp_path / "file.npz", **arrays)

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise io.UnsupportedOperation

        def tell(self):
            raise io.UnsupportedOperation

    pipe = Pipe()
    np.savez(pipe, **arrays)  # sizes behind the data instead of before them
    (tmp_path / "pipe.npz").write_bytes(pipe.getvalue())
    for name in ("file.npz", "pipe.npz"):
        found = act("npz", tmp_path / name)
        assert all(equal(array_of(found[key]), array) for key, array in arrays.items())


def header(text, numbers=b""):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + numbers


def described(descr="'<f4'", order="False", shape="(2,)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


BAD_ARRAYS = {
    "empty": (b"", "not an .npy array"),
    "text": (b"hello, world", "not an .npy array"),
    "only magic": (b"\x93NUMPY", "cut off"),
    "version 4": (b"\x93NUMPY\x04\x00" + bytes(20), "unknown version"),
    "cut off in its length": (b"\x93NUMPY\x02\x00\xff", "cut off"),
    "a header longer than the file": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "cut off"),
    "cut off": (npy(np.zeros(9))[:-1], "71 bytes of numbers"),
    "too long": (npy(np.zeros(9)) + b"x", "73 bytes of numbers"),
    "big-endian": (npy(np.zeros(2, ">f4")), "big-endian"),
    "Fortran's order": (npy(np.zeros((2, 3), order="F")), "Fortran"),
    "objects": (header(described("'|O'"), b"\x80\x04."), "Python objects"),
    "records": (npy(np.zeros(2, [("a", "<f4"), ("b", "<i4")])), "records"),
    "complex": (npy(np.zeros(2, "<c8")), "networks do not take"),
    "unsigned": (npy(np.zeros(2, "<u4")), "networks do not take"),
    "too large": (header(described(shape="(4611686018427387904, 4)")), "does not fit into any memory"),
    "far too large": (header(described(shape=f"({'9' * 30},)")), "does not fit into any memory"),
    "negative": (header(described(shape="(-1,)")), "none that numpy writes"),
    "too many dimensions": (header(described(shape=f"({'1, ' * 17})")), "too many dimensions"),
    "no tuple": (header(described(shape="(2)"), bytes(8)), "none that numpy writes"),
    "a list": (header(described(shape="[2]"), bytes(8)), "none that numpy writes"),
    "code": (header("__import__('os').abort()\n"), "none that numpy writes"),
    "a number for a truth": (header(described(order="0"), bytes(8)), "none that numpy writes"),
    "a key twice": (header(described().replace("'descr'", "'shape': (2,), 'descr'"), bytes(8)), "none that numpy"),
    "a key too many": (header(described().replace("{", "{'more': 1, "), bytes(8)), "none that numpy writes"),
    "a key missing": (header("{'descr': '<f4', 'shape': (2,)}", bytes(8)), "none that numpy writes"),
    "something behind": (header(described() + "0", bytes(8)), "none that numpy writes"),
    "not closed": (header("{'descr': '<f4"), "none that numpy writes"),
    "an open tuple": (header("{'shape': (2,"), "none that numpy writes"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_arrays_that_are_refused(tmp_path, data, reason):
    file = tmp_path / "bad.npy"
    file.write_bytes(data)
    with pytest.raises(Refused, match=reason) as refused:
        act("npy", file)
    assert str(refused.value).startswith(f"{file}: ")


def changed(data, old, new):
    assert data.count(old) >= 1
    return data.replace(old, new)


def patched(data, signature, offset, new):
    """Change bytes behind the last record with this signature."""
    place = data.rindex(signature) + offset
    return data[:place] + new + data[place + len(new) :]


def zipped(*members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return file.getvalue()


ONE = zipped(("x.npy", npy(np.arange(4))))
TWO = zipped(("x.npy", npy(np.arange(4))), ("y.npy", npy(np.arange(4))))
CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
BAD_ARCHIVES = {
    "empty": (b"", "not an .npz archive"),
    "an array": (npy(np.zeros(40)), "not an .npz archive"),
    "cut off": (ONE[:-1], "not an .npz archive"),
    "something behind": (ONE + b"x", "not an .npz archive"),
    "something before": (b"x" + ONE, "damaged"),
    "compressed": (zipped(("x.npy", npy(np.zeros(99))), compression=zipfile.ZIP_DEFLATED), "savez_compressed"),
    "encrypted": (patched(ONE, CENTRAL, 8, b"\x01"), "encrypted"),
    "damaged": (changed(ONE, np.int64(2).tobytes() + np.int64(3).tobytes(), bytes(16)), "checksum is wrong"),
    "another checksum": (patched(ONE, CENTRAL, 16, b"1234"), "checksum is wrong"),
    "no array": (zipped(("x.txt", b"hello")), "not an .npy array"),
    "a bad array": (zipped(("x.npy", b"hello")), "x: it is not an .npy array"),
    "a name twice": (changed(TWO, b"y.npy", b"x.npy"), "'x.npy' twice"),
    "another name": (patched(ONE, CENTRAL, 46, b"z"), "not where its directory says"),
    "more members": (patched(ONE, END, 10, b"\x02\x00"), "damaged"),
    "fewer members": (patched(TWO, END, 10, b"\x01\x00"), "directory is damaged"),
    "a directory elsewhere": (patched(ONE, END, 16, b"\x01\x00\x00\x00"), "directory is damaged"),
    "no directory": (patched(ONE, CENTRAL, 0, b"XX"), "directory is damaged"),
    "a larger size": (patched(ONE, CENTRAL, 20, b"\xff\xff\x00\x00" * 2), "larger than the archive"),
    "two sizes": (patched(ONE, CENTRAL, 20, b"\x01\x00\x00\x00"), "larger than the archive"),
    "zip64 without its sizes": (patched(ONE, CENTRAL, 20, b"\xff" * 8), "size in its directory is damaged"),
    "a header elsewhere": (patched(ONE, CENTRAL, 42, b"\xf0\xff\xff\x7f"), "not where its directory says"),
    "a long name": (patched(ONE, CENTRAL, 28, b"\xff\xff"), "cut off, or damaged"),
    "a long extra field": (patched(ONE, CENTRAL, 30, b"\xff\xff"), "cut off, or damaged"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_ARCHIVES.values(), ids=BAD_ARCHIVES.keys())
def test_archives_that_are_refused(tmp_path, data, reason):
    file = tmp_path / "bad.npz"
    file.write_bytes(data)
    with pytest.raises(Refused, match=reason) as refused:
        act("npz", file)
    assert str(refused.value).startswith(str(file))


def test_members_that_share_bytes_are_refused(tmp_path):
    inner = zipped(("y.npy", npy(np.arange(4))))
    inner = inner[: inner.index(CENTRAL)]
    outer = bytearray(zipped(("x.npy", inner), ("y.npy", b"")))
    second = outer.rindex(CENTRAL)
    struct.pack_into("<I", outer, second + 42, outer.index(inner))
    struct.pack_into("<II", outer, second + 20, 10, 10)
    (tmp_path / "bad.npz").write_bytes(outer)
    with pytest.raises(Refused, match=r"'x.npy' and 'y.npy' overlap"):
        act("npz", tmp_path / "bad.npz")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    for name, reason in (("missing.npy", "no such file"), (".", "not a file"), ("pipe.npy", "not a file")):
        with pytest.raises(Refused, match=reason):
            act("npy", tmp_path / name)


# Frames from files


def test_frames_of_files(tmp_path, plan):
    files = [tmp_path / f"{i}.npz" for i in range(3)]
    for i, file in enumerate(files):
        np.savez(file, **frame(i))
    answer = act("copy", plan, "files", 2, *files, "--hex")
    assert answer == {"frames": hexadecimal(0, 1, 2, 0, 1, 2), "number": 6, "count": 6}
    assert act("copy", plan, "first", 4, "files", 2, *files, "--hex")["frames"] == hexadecimal(0, 1, 2, 0)


def test_all_files_that_do_not_fit_are_listed(tmp_path, plan):
    np.savez(tmp_path / "other.npz", x=np.zeros((2, 3)), z=np.zeros(1))
    np.save(tmp_path / "one.npy", np.zeros(2))
    np.savez_compressed(tmp_path / "small.npz", **frame(0))
    files = [tmp_path / name for name in ("other.npz", "one.npy", "small.npz", "missing.npz", "cat.jpg")]
    with pytest.raises(Refused) as refused:
        act("copy", plan, "files", 1, *files, "--hex")
    assert refused.value.is_usage
    first, *lines = str(refused.value).splitlines()
    assert first == "These inputs cannot be used:"
    assert [line.partition(": ")[0] for line in lines] == [f"  - {file}" for file in files]
    other = "z is no input; y (3 int64) is missing; x is 2x3 float64, expected x (2x3 float32)"
    assert lines[0] == f"  - {files[0]}: {other}"
    assert "2 inputs; give an .npz file with all of them" in lines[1]


def test_synthetic_frames_are_four_that_repeat(tmp_path):
    specs = [[dtype, [500], dtype] for dtype in DTYPES]
    plan = write_plan(tmp_path, inputs=specs)
    frames = act("copy", plan, "synthetic", 6, "--hex")["frames"]
    assert frames == act("copy", plan, "first", 6, "synthetic", 0, "--hex")["frames"]
    assert [frames.index(each) for each in frames] == [0, 1, 2, 3, 0, 1]
    for dtype, text in zip(DTYPES, frames[0], strict=True):
        numbers = np.frombuffer(bytes.fromhex(text), dtype).astype(np.float64)
        if dtype.startswith("float"):
            assert abs(numbers.mean()) < 0.2
            assert abs(numbers.std() - 1) < 0.2
        else:
            assert not numbers.any()


# Raw frames and results


def test_raw_frames_of_a_file_a_pipe_and_a_named_pipe(tmp_path, plan):
    file, pipe = tmp_path / "frames.raw", tmp_path / "pipe"
    file.write_bytes(raw(*range(400)))
    expected = hexadecimal(*range(400))
    answer = act("copy", plan, "raw", file, "--hex")
    assert (answer["frames"], answer["count"]) == (expected, 400)
    assert act("copy", plan, "raw", "-", "--hex", stdin=file.read_bytes())["frames"] == expected
    os.mkfifo(pipe)
    process = started("copy", plan, "raw", pipe, "--hex")
    time.sleep(0.1)  # it waits for whoever writes
    pipe.write_bytes(file.read_bytes())
    assert ended(process)["frames"] == expected


@pytest.mark.parametrize("name", ["-", "frames.raw"])
def test_a_raw_frame_that_is_cut_off(tmp_path, plan, name):
    data = raw(0, 1)[:-1]
    (tmp_path / "frames.raw").write_bytes(data)
    size = len(raw(0))
    with pytest.raises(Refused, match=f"Raw frame 1 is cut off: {size - 1} of {size} bytes are there."):
        act("copy", plan, "raw", name, "--hex", stdin=data, cwd=tmp_path)


def test_raw_frames_that_cannot_be(tmp_path, plan):
    for name in ("missing", "."):
        with pytest.raises(Refused, match="The raw frames cannot be read from"):
            act("copy", plan, "raw", tmp_path / name, "--hex")
    nothing = write_plan(tmp_path, inputs=[["x", [0], "int8"]])
    with pytest.raises(Refused, match="has no bytes"):
        act("copy", nothing, "raw", "-", "--hex")


def test_raw_results(tmp_path, plan):
    file = tmp_path / "results.raw"
    file.write_bytes(b"old" * 1000)
    act("copy", plan, "raw", "-", "--raw", file, stdin=raw(0, 1))
    assert file.read_bytes() == raw(0, 1)


def test_a_full_disk_and_a_reader_that_went_away(tmp_path, plan):
    with pytest.raises(Refused, match="could not be written to /dev/full: No space left on device"):
        act("copy", plan, "raw", "-", "--raw", "/dev/full", stdin=raw(0))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = started("copy", plan, "synthetic", "0", "--raw", pipe)
    with pipe.open("rb") as reader:
        reader.read(100)
    with pytest.raises(Refused, match="its reader went away"):
        ended(process)


def test_stacked_results(tmp_path, plan):
    file = tmp_path / "results.npz"
    act("copy", plan, "raw", "-", "--npz", file, stdin=raw(0, 1, 2))
    with np.load(file) as found:
        assert sorted(found) == ["x", "y"]
        assert all(equal(found[name], np.stack([frame(i)[name] for i in range(3)])) for name in found)
    assert sorted(os.listdir(tmp_path)) == ["plan.json", "results.npz"]


def test_stacked_results_of_a_run_that_fails_are_not_written(tmp_path, plan):
    with pytest.raises(Refused, match="cut off"):
        act("copy", plan, "raw", "-", "--npz", tmp_path / "results.npz", stdin=raw(0, 1)[:-1])
    assert os.listdir(tmp_path) == ["plan.json"]


def test_results_that_cannot_be_written(tmp_path, plan):
    for name, reason in (("results.txt", "not such a file name"), ("none/results.npz", "does not exist")):
        with pytest.raises(Refused, match=reason):
            act("copy", plan, "raw", "-", "--npz", tmp_path / name, stdin=raw(0))
    command = (
        f"ulimit -f 1; trap '' XFSZ; exec {driver(PROGRAM_SOURCE)} copy {plan} synthetic 4000 --npz {tmp_path}/big.npz"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert b"big.npz: File too large" in done.stdout
    assert os.listdir(tmp_path) == ["plan.json"]


# Spools


@pytest.fixture
def spool(tmp_path):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    return tmp_path


def put(spool, name, number):
    scratch = spool / "in" / ".new"
    scratch.write_bytes(npz(**frame(number)))
    scratch.rename(spool / "in" / name)


def results(spool):
    found = {}
    for file in sorted((spool / "out").iterdir()):
        with np.load(file) as arrays:
            found[file.name] = int(arrays["x"][0, 0])
    return found


def run_spool(spool, plan, follow=0, most=10**9):
    return act("spool", plan, spool / "in", spool / "out", follow, most)


def test_a_spool_is_run_in_order_and_goes_on_where_it_was(spool, plan):
    for i in (3, 0, 2, 1, 4):
        put(spool, f"{i}.npz", i)
    (spool / "in" / "notes.txt").write_text("not a frame")
    (spool / "in" / ".5.npz").write_text("still being written")
    assert run_spool(spool, plan, most=2) == 2
    assert results(spool) == {"0.npz": 0, "1.npz": 1}
    (spool / "out" / ".2.npz.new").write_text("of a runner that was killed")
    os.utime(spool / "out" / "0.npz", (1, 1))
    assert run_spool(spool, plan) == 3
    assert results(spool) == {f"{i}.npz": i for i in range(5)}
    assert (spool / "out" / "0.npz").stat().st_mtime == 1
    times = [(spool / "out" / f"{i}.npz").stat().st_mtime_ns for i in range(2, 5)]
    assert times == sorted(times)
    assert run_spool(spool, plan) == 0


def test_new_frames_are_waited_for(spool, plan):
    put(spool, "000.npz", 0)
    process = started("spool", plan, spool / "in", spool / "out", 1, 50)
    for i in range(1, 50):
        put(spool, f"{i:03}.npz", i)
        time.sleep(0.002)
    assert ended(process) == 50  # and the stop ends the wait for one more
    assert results(spool) == {f"{i:03}.npz": i for i in range(50)}


def test_a_frame_that_comes_too_late_is_an_error(spool, plan):
    put(spool, "5.npz", 5)
    process = started("spool", plan, spool / "in", spool / "out", 1, 10)
    assert process.stderr.readline() == b"ready\n"
    put(spool, "3.npz", 3)
    with pytest.raises(Refused, match=r"in/3.npz came after 5.npz"):
        ended(process)
    assert results(spool) == {"5.npz": 5}


def test_a_damaged_frame_is_named(spool, plan):
    put(spool, "0.npz", 0)
    (spool / "in" / "1.npz").write_bytes(npz(**frame(1))[:-1])
    with pytest.raises(Refused, match=r"in/1.npz: it is not an .npz archive.*Take it away") as refused:
        run_spool(spool, plan)
    assert not refused.value.is_usage
    assert results(spool) == {"0.npz": 0}


def test_spools_that_cannot_be(spool, plan):
    with pytest.raises(Refused, match="cannot be in the same directory"):
        act("spool", plan, spool / "in", spool / "in", 0, 1)
    with pytest.raises(Refused, match="none cannot be used: No such file or directory"):
        act("spool", plan, spool / "in", spool / "none", 0, 1)
    for name in ("0.npy", "0.npz"):
        put(spool, name, 0)
    with pytest.raises(Refused, match=r"would have the same result"):
        run_spool(spool, plan)


def test_two_runners_do_not_share_a_spool(spool, plan):
    process = started("spool", plan, spool / "in", spool / "out", 1, 1)
    assert process.stderr.readline() == b"ready\n"
    with pytest.raises(Refused, match="Another cospipe-run"):
        run_spool(spool, plan)
    put(spool, "0.npz", 0)
    assert ended(process) == 1


def test_a_spool_that_is_killed_again_and_again(spool, plan):
    for i in range(300):
        put(spool, f"{i:03}.npz", i)
    done = 0
    for _ in range(4):
        process = started("spool", plan, spool / "in", spool / "out", 0, 10**9)
        wanted = done + 20
        while len(list((spool / "out").glob("[!.]*.npz"))) < wanted and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.communicate()
        done = len(results_without_scratch(spool))
        assert results_without_scratch(spool) == [f"{i:03}.npz" for i in range(done)]
    run_spool(spool, plan)
    assert results(spool) == {f"{i:03}.npz": i for i in range(300)}


def results_without_scratch(spool):
    return sorted(file.name for file in (spool / "out").glob("[!.]*.npz"))
