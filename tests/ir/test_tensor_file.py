"""Weight files: the safetensors library reads them, and every mapped tensor is aligned."""

import json
import mmap

import hypothesis.extra.numpy as st_numpy
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cospipe.ir.errors import BundleError
from cospipe.ir.tensor_file import ALIGNMENT_BYTES, aligned, map_tensors, write_tensors

DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"])
ARRAYS = DTYPES.flatmap(
    lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
)
TENSORS = st.dictionaries(st.text("abcdefg.0_", min_size=1), ARRAYS, max_size=6)


def same(left, right):
    return {k: (v.dtype, v.shape, v.tobytes()) for k, v in left.items()} == {
        k: (v.dtype, v.shape, v.tobytes()) for k, v in right.items()
    }


@given(tensors=TENSORS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_safetensors_library_reads_what_is_written(tensors, tmp_path):
    write_tensors(tmp_path / "weights", tensors)
    assert same(safetensors.numpy.load_file(tmp_path / "weights"), tensors)


@given(tensors=TENSORS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_the_safetensors_library_writes_is_mapped_aligned(tensors, tmp_path):
    safetensors.numpy.save_file(tensors, tmp_path / "weights")
    mapped = map_tensors(tmp_path / "weights")
    assert same(mapped, tensors)
    assert all(array.ctypes.data % ALIGNMENT_BYTES == 0 for array in mapped.values())


def test_tensors_of_whole_cache_lines_are_mapped_not_copied(tmp_path):
    write_tensors(tmp_path / "weights", {"odd": np.zeros(3, np.float32), "even": np.zeros(64, np.float32)})
    mapped = map_tensors(tmp_path / "weights")
    memory = mapped["even"]
    while isinstance(memory, np.ndarray):
        memory = memory.base
    assert isinstance(memory, mmap.mmap)


def test_writing_to_a_mapped_tensor_leaves_the_file_alone(tmp_path):
    write_tensors(tmp_path / "weights", {"w": np.zeros(64, np.float32)})
    map_tensors(tmp_path / "weights")["w"][:] = 1
    assert not map_tensors(tmp_path / "weights")["w"].any()


def test_a_file_may_be_written_from_its_own_mapping(tmp_path):
    write_tensors(tmp_path / "weights", {"w": np.ones(4096, np.float32)})
    mapped = map_tensors(tmp_path / "weights")
    write_tensors(tmp_path / "weights", {"w": mapped["w"] * 2, "same": mapped["w"]})
    again = map_tensors(tmp_path / "weights")
    assert (again["w"] == 2).all()
    assert (again["same"] == 1).all()
    assert [file.name for file in tmp_path.iterdir()] == ["weights"]


def test_aligned_copies_only_what_is_not():
    room = np.zeros(65, np.float32)
    start = next(i for i in range(16) if room[i:].ctypes.data % ALIGNMENT_BYTES == 0)
    assert aligned(room[start : start + 4]) is not None
    assert aligned(room[start + 1 :]).ctypes.data % ALIGNMENT_BYTES == 0
    assert np.shares_memory(aligned(room[start : start + 4]), room)


def entry(dtype='"F32"', shape="[1]", offsets="[0, 4]"):
    return f'{{"w": {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}}}'.encode()


def write_header(path, header):
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"0000")


def test_the_header_of_the_next_test_is_right_before_it_is_damaged(tmp_path):
    write_header(tmp_path / "weights", entry())
    assert map_tensors(tmp_path / "weights")["w"].shape == (1,)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"[]", "no object"),
        (b"nope", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[" * 5000, "nested more than 64 deep"),
        (b'{"a":' * 65 + b"{}" + b"}" * 65, "nested more than 64 deep"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"w": 7}', "the fields data_offsets, dtype, shape and no other"),
        (b'{"w": {}}', "the fields data_offsets, dtype, shape and no other"),
        (entry()[:-2] + b', "more": 1}}', "the fields data_offsets, dtype, shape and no other"),
        (entry()[:-1] + b"," + entry()[1:], "it names 'w' twice"),
        (entry()[:-2] + b', "dtype": "F32"}}', "it names 'dtype' twice"),
        (b'{"__metadata__": {"a": 1}}', "its metadata is not text"),
        (b'{"__metadata__": []}', "its metadata is not text"),
        (b'{"__metadata__": {"a": NaN}}', "NaN is no number"),
        (entry(offsets="[0, 8]", shape="[2]"), "does not fit"),
        (entry(offsets="[-4, 0]"), "data_offsets of w must be a list of whole numbers from 0"),
        (entry(offsets="[4, 0]", shape="[-1]"), "shape of w must be a list of whole numbers from 0"),
        (entry(offsets="[4, 0]"), "does not fit"),
        (entry(offsets="[1e999, 4]"), "1e999 is too large"),
        (entry(shape="[9]"), "does not fit"),
        (entry(shape="[1152921504606846976, 0]"), "does not fit"),
        (entry(shape="[4611686018427387904, 4, 0]", offsets="[0, 0]"), "no memory could hold"),
        (entry(offsets="[0.0, 4.0]"), "whole numbers"),
        (entry(offsets='["0", "4"]'), "whole numbers"),
        (entry(offsets='"04"'), "whole numbers"),
        (entry(offsets="[0]"), "two numbers"),
        (entry(shape='["1"]'), "whole numbers"),
        (entry(shape="[true]"), "whole numbers"),
        (entry(shape=str([1] * 40)), "40 dimensions"),
        (entry(dtype='"BF16"'), "BF16"),
        (entry(dtype="null"), "element type None of w"),
        (entry(dtype="[]"), "element type"),
    ],
)
def test_a_damaged_header_gets_a_sentence(tmp_path, header, words):
    write_header(tmp_path / "weights", header)
    with pytest.raises(BundleError, match=f"weights is not a valid safetensors file: .*{words}"):
        map_tensors(tmp_path / "weights")


@pytest.mark.parametrize("data", [b"", b"1234567", (2**40).to_bytes(8, "little") + b"{}", b"\xff" * 8])
def test_a_file_that_is_cut_off_gets_a_sentence(tmp_path, data):
    (tmp_path / "weights").write_bytes(data)
    with pytest.raises(BundleError, match="cut off inside its header"):
        map_tensors(tmp_path / "weights")


def tensors_at(**offsets):
    return json.dumps(
        {
            name: {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
            for name, (start, end) in offsets.items()
        }
    ).encode()


@pytest.mark.parametrize(
    "offsets", [{"a": (0, 2), "b": (1, 3)}, {"a": (0, 4), "b": (1, 2)}, {"a": (1, 2), "b": (1, 2)}]
)
def test_no_byte_belongs_to_two_tensors(tmp_path, offsets):
    write_header(tmp_path / "weights", tensors_at(**offsets))
    with pytest.raises(BundleError, match="b lies over a"):
        map_tensors(tmp_path / "weights")


def test_tensors_may_lie_side_by_side_and_empty_ones_anywhere(tmp_path):
    write_header(tmp_path / "weights", tensors_at(a=(0, 2), b=(2, 4), c=(1, 1), d=(4, 4)))
    sizes = {name: array.size for name, array in map_tensors(tmp_path / "weights").items()}
    assert sizes == {"a": 2, "b": 2, "c": 0, "d": 0}


def test_a_header_longer_than_the_safetensors_library_allows_is_not_read(tmp_path):
    with (tmp_path / "weights").open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(200_000_000)  # holes: it needs no room
    with pytest.raises(BundleError, match="its header has 100000001 bytes"):
        map_tensors(tmp_path / "weights")
