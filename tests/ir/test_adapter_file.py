"""Adapter files: what is written, and every way in which one can be wrong."""

import contextlib
import json
import math
import os

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cospipe.ir.adapter_file import (
    AdaptedWeight,
    AdapterHeader,
    StoredAdapter,
    fingerprint,
    read_adapter,
    write_adapter,
)
from cospipe.ir.errors import AdapterError, CospipeError, UsageError

FINGERPRINT = "0123456789abcdef" * 2


def example(**header):
    weights = {
        "a.weight": AdaptedWeight(shape=(4, 6), n=3, alpha=1.0, fingerprint=FINGERPRINT),
        "b.weight": AdaptedWeight(shape=(2, 3, 3, 3), n=2, alpha=0.5, fingerprint=FINGERPRINT),
    }
    return StoredAdapter(
        AdapterHeader(base="net", config={"n": 3}, weights=weights, trained={"head": (2, 2)}, **header),
        {"a.weight": np.array([1, -2, 3], np.float32), "b.weight": np.array([0.25, 1e-30], np.float32)},
        {"a.weight": np.array([0, 7, 23]), "b.weight": np.array([53, 1])},
        {"head": np.arange(4, dtype=np.float32).reshape(2, 2)},
    )


def altered(path, tensors=(), header=None, metadata=None):
    """Write the example with the safetensors library, with some tensors replaced (None: left out) or another header."""
    write_adapter(path, example())
    found = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "np") as file:
        known = dict(file.metadata())
    found |= dict(tensors)
    if header is not None:
        content = json.loads(known["cospipe.adapter"])
        header(content)
        known["cospipe.adapter"] = json.dumps(content)
    kept = {name: tensor for name, tensor in found.items() if tensor is not None}
    safetensors.numpy.save_file(kept, path, known if metadata is None else metadata)
    return path


def problem(path):
    with pytest.raises(AdapterError) as failure:
        read_adapter(path)
    assert str(failure.value).endswith((".", "twice", "elements", "missing", "numbers")) or "\n" in str(failure.value)
    return str(failure.value)


def test_what_is_read_is_what_was_written(tmp_path):
    write_adapter(tmp_path / "new" / "a.safetensors", example())
    found, expected = read_adapter(tmp_path / "new" / "a.safetensors"), example()
    assert found.header == expected.header
    for kind in ("coefficients", "places", "trained"):
        arrays, right = getattr(found, kind), getattr(expected, kind)
        assert arrays.keys() == right.keys()
        assert all(np.array_equal(arrays[name], right[name]) for name in right)
    assert found.places["a.weight"].dtype == np.int32
    assert found.coefficient_count == 5


def test_files_of_the_safetensors_library_are_read(tmp_path):
    assert read_adapter(altered(tmp_path / "a")).header == example().header


def test_places_of_huge_matrices_are_wide(tmp_path):
    weight = AdaptedWeight(shape=(2**17, 2**17), n=1, alpha=1.0, fingerprint=FINGERPRINT)
    header = AdapterHeader(weights={"w": weight})
    last = 2**34 - 1
    write_adapter(tmp_path / "a", StoredAdapter(header, {"w": np.ones(1, np.float32)}, {"w": np.array([last])}))
    assert read_adapter(tmp_path / "a").places["w"].tolist() == [last]


def test_an_earlier_file_stays_whole_when_the_new_one_cannot_be_written(tmp_path):
    write_adapter(tmp_path / "a", example())
    before = (tmp_path / "a").read_bytes()
    broken = example()
    broken.coefficients["a.weight"][0] = math.inf
    with pytest.raises(AdapterError, match="was not written"):
        write_adapter(tmp_path / "a", broken)
    assert (tmp_path / "a").read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterError, match="could not be written"):
        write_adapter(tmp_path / "file" / "a", example())


def test_incomplete_adapters_are_not_written(tmp_path):
    adapter = example()
    del adapter.places["a.weight"]
    with pytest.raises(AdapterError, match=r"places of a\.weight: missing"):
        write_adapter(tmp_path / "a", adapter)


def test_no_such_file(tmp_path):
    with pytest.raises(UsageError, match="There is no adapter file"):
        read_adapter(tmp_path / "a")
    with pytest.raises(UsageError, match="There is no adapter file"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04" * 40, b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]"])
def test_other_files(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert "safetensors file" in problem(tmp_path / "a")


def test_safetensors_of_something_else(tmp_path):
    safetensors.numpy.save_file({"w": np.zeros(3)}, tmp_path / "a")
    assert "is a safetensors file, but no adapter of cospipe" in problem(tmp_path / "a")


def test_every_truncation_is_noticed(tmp_path):
    write_adapter(tmp_path / "a", example())
    content = (tmp_path / "a").read_bytes()
    for length in range(len(content)):
        (tmp_path / "a").write_bytes(content[:length])
        problem(tmp_path / "a")


@given(position=st.integers(0, 1500), byte=st.integers(0, 255))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_altered_byte_gives_an_adapter_or_a_sentence(tmp_path, position, byte):
    write_adapter(tmp_path / "a", example())
    content = bytearray((tmp_path / "a").read_bytes())
    content[position % len(content)] = byte
    (tmp_path / "a").write_bytes(content)
    with contextlib.suppress(CospipeError):  # any other error fails
        assert read_adapter(tmp_path / "a").header.format == "cospipe-adapter"


def test_numbers_that_make_no_sense_are_all_listed(tmp_path):
    path = altered(
        tmp_path / "a",
        {
            "coefficients.a.weight": np.array([1, math.nan, 3], np.float32),
            "places.a.weight": np.array([0, 24, 3], np.int32),
            "places.b.weight": np.array([5, 5], np.int32),
            "trained.head": np.full((2, 2), math.inf, np.float32),
        },
    )
    assert problem(path).splitlines() == [
        f"{path} contradicts itself and is not used:",
        "  - coefficients of a.weight: infinite or undefined numbers",
        "  - head: infinite or undefined numbers",
        "  - places of a.weight: outside of its 24 elements",
        "  - places of b.weight: one is named twice",
    ]
    assert "outside" in problem(altered(path, {"places.a.weight": np.array([0, -1, 3], np.int32)}))


def test_shapes_that_make_no_sense_are_all_listed(tmp_path):
    path = altered(
        tmp_path / "a",
        {
            "coefficients.a.weight": np.zeros((3, 1), np.float32),
            "places.a.weight": np.zeros(3, np.float32),
            "places.b.weight": None,
            "trained.head": np.zeros(4, np.float32),
            "surprise": np.zeros(1),
        },
    )
    text = problem(path)
    for line in (
        "surprise is not named in its header",
        "coefficients of a.weight: float32 of shape (3, 1), its header says (3,)",
        "places of a.weight: float32 of shape (3,), its header says (3,)",
        "places of b.weight: missing",
        "head: float32 of shape (4,), its header says (2, 2)",
    ):
        assert f"  - {line}" in text.splitlines()


def test_more_coefficients_than_elements(tmp_path):
    def shrink(header):
        header["weights"]["a.weight"]["shape"] = [1, 2]

    assert "a.weight has 3 coefficients, but only 2 elements" in problem(altered(tmp_path / "a", header=shrink))


def test_a_future_version(tmp_path):
    def from_the_future(header):
        header["version"], header["news"] = 2, True

    text = problem(altered(tmp_path / "a", header=from_the_future))
    assert text == f"{tmp_path / 'a'} is of format version 2, this version of cospipe reads 1; update cospipe."


def test_mistakes_of_the_header_are_all_listed(tmp_path):
    def spoil(header):
        header["surprise"] = 1
        header["version"] = "one"
        header["weights"]["a.weight"]["n"] = 0
        header["weights"]["a.weight"]["alpha"] = "much"
        header["weights"]["b.weight"]["shape"] = [3]
        header["weights"]["b.weight"]["fingerprint"] = "xyz"

    text = problem(altered(tmp_path / "a", header=spoil))
    places = ["surprise", "version", "weights.a.weight.n", "weights.a.weight.alpha", "weights.b.weight.shape"]
    assert all(f"  - {place}" in text for place in [*places, "weights.b.weight.fingerprint"])
    for value in ("not json", "[]", "null"):
        metadata = {"cospipe.adapter": value}
        assert "The header of" in problem(altered(tmp_path / "a", metadata=metadata))


def test_options_that_make_no_sense_are_all_listed(tmp_path):
    def spoil(header):
        header["config"] = {"n": "many", "news": 1, "alpha": "x"}

    text = problem(altered(tmp_path / "a", header=spoil))
    for line in ("config: there is no option news", "config: n is 'many'", "config: alpha is 'x'"):
        assert f"  - {line}" in text.splitlines()
    assert "selection=best" in problem(
        altered(tmp_path / "a", header=lambda header: header.update(config={"selection": "best"}))
    )


def test_fingerprints_follow_values_and_shape_not_precision():
    weight = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float16)
    found = fingerprint(weight)
    assert len(found) == 32
    assert fingerprint(weight.astype(np.float64)) == fingerprint(np.asfortranarray(weight)) == found
    assert fingerprint(weight.reshape(6, 4)) != found
    assert fingerprint(np.nextafter(weight, np.float16(9))) != found
    assert fingerprint(np.zeros((1, 2), np.float32)) == "69f2b1dfe80bb8f9142d00c5e5ecb131"  # for ever


@pytest.mark.parametrize("shape", [[0, 2**70], [0, 2**62, 2**62]])
def test_no_elements_in_an_impossible_shape_are_refused(tmp_path, shape):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    text = json.dumps({"__metadata__": {"cospipe.adapter": "{}"}, "trained.a": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    assert "has the shape (0, " in problem(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("name", "alpha"), [("coefficients.a.weight", 1.0), ("head", 1.0), ("", 1e39), ("", 1e38)])
def test_numbers_too_large_for_single_precision_are_refused(tmp_path, name, alpha):
    tensors = {
        "coefficients.a.weight": {"coefficients.a.weight": np.array([1, 1e300, 1])},
        "head": {"trained.head": np.full((2, 2), 1e39)},
        "": {"coefficients.a.weight": np.full(3, 10, np.float32)},
    }
    path = altered(
        tmp_path / "a.safetensors", tensors[name], lambda header: header["weights"]["a.weight"].update(alpha=alpha)
    )
    assert "infinite or undefined numbers" in problem(path)


def test_what_was_read_stays_when_the_file_is_overwritten_in_place(tmp_path):
    path = tmp_path / "a.safetensors"
    write_adapter(path, example())
    read = read_adapter(path)
    path.write_bytes(b"")
    assert np.array_equal(read.coefficients["a.weight"], example().coefficients["a.weight"])
    assert np.array_equal(read.trained["head"], example().trained["head"])
