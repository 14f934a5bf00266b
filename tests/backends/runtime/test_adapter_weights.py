"""Which stored weights an adapter replaces, and every way in which it does not fit a bundle."""

import dataclasses
import json

import numpy as np
import pytest
from small_bundle import WEIGHTS, small_adapter, small_manifest, write_manifest, write_small_bundle

from cospipe.backends.bundle import open_bundle
from cospipe.backends.runtime import adapter_weights
from cospipe.backends.runtime.adapter_weights import adapter_overrides
from cospipe.ir.adapter_file import StoredAdapter, read_adapter
from cospipe.ir.errors import AdapterError
from cospipe.ir.tensor_file import map_tensors, read_entries, write_tensors


def slots(bundle):
    return {slot.weight: (stage, slot) for stage in bundle.manifest.stages for slot in stage.adapter_slots}


def changed(stored, name=None, **changes):
    """An adapter whose header says something else, of one weight or in general."""
    header = stored.header
    if name is not None:
        weights = {**header.weights, name: header.weights[name].model_copy(update=changes)}
        changes = {"weights": weights}
    return dataclasses.replace(stored, header=header.model_copy(update=changes))


def test_the_bundle_has_room_on_every_weight_and_keeps_the_base(adaptable, small_network):
    found = slots(adaptable.bundle)
    assert set(found) == {name for name, p in small_network.named_parameters() if p.ndim > 1}
    for weight, (stage, slot) in found.items():
        stored = map_tensors(adaptable.bundle.file(stage.weights))
        np.testing.assert_array_equal(stored[weight], small_network.get_parameter(weight).detach().numpy())
        assert not stored[slot.coefficients].any()


def test_only_untouched_weights_can_be_replaced(adaptable):
    replaceable = {name for stage in adaptable.bundle.manifest.stages for name in stage.replaceable}
    assert {"last.weight", "last.bias", "middle.0.bias"} <= replaceable
    assert "first.0.bias" not in replaceable  # the batch norm is folded into it


def test_coefficients_are_scaled_and_what_is_not_adapted_is_zero(adaptable, adapters):
    stored = read_adapter(adapters["whole"])
    overrides = adapter_overrides(adaptable.bundle, adapters["whole"])
    for weight, (stage, slot) in slots(adaptable.bundle).items():
        coefficients, places = overrides[stage.name][slot.coefficients], overrides[stage.name][slot.places]
        n = stored.header.weights[weight].n if weight in stored.header.weights else 0
        assert len(coefficients) >= n
        assert not coefficients[n:].any()
        if n:
            np.testing.assert_allclose(coefficients[:n], stored.coefficients[weight] * 0.5)
            np.testing.assert_array_equal(places[:n], stored.places[weight])
    last = slots(adaptable.bundle)["last.weight"][0].name
    np.testing.assert_array_equal(overrides[last]["last.weight"], stored.trained["last.weight"])


def test_without_an_adapter_nothing_is_replaced(adaptable):
    assert not any(adapter_overrides(adaptable.bundle, None).values())


def test_another_base_is_refused(adaptable, adapters):
    stored = changed(read_adapter(adapters["conv"]), "middle.0.weight", fingerprint="0" * 32)
    with pytest.raises(AdapterError, match=r"middle\.0\.weight has other values .* another base") as failure:
        adapter_overrides(adaptable.bundle, stored)
    assert "first.0.weight" not in str(failure.value)


def test_everything_that_does_not_fit_is_listed(adaptable, adapters):
    stored = read_adapter(adapters["conv"])
    shape = (8, 8, 1, 9)
    stored = changed(stored, "middle.0.weight", shape=shape)
    stored = changed(stored, "first.0.weight", n=21)
    weights = {**stored.header.weights, "tail.weight": stored.header.weights["first.0.weight"]}
    trained = {"first.1.weight": (8,), "last.bias": (7,)}
    with pytest.raises(AdapterError) as failure:
        adapter_overrides(adaptable.bundle, changed(stored, weights=weights, trained=trained))
    message = str(failure.value)
    assert "middle.0.weight is (8, 8, 3, 3) in the bundle, (8, 8, 1, 9) in the adapter" in message
    assert "first.0.weight has 21 coefficients, the bundle has room for 20" in message
    assert "no room for an adapter on tail.weight; compile the model with --passes" in message
    assert "first.1.weight was trained whole" in message
    assert "last.bias is (5,) in the bundle, (7,) in the adapter" in message


def test_a_bundle_without_room_says_how_to_make_some(compiled, adapters):
    with pytest.raises(AdapterError, match=r"merge-adapters\{at=load\}"):
        adapter_overrides(compiled.bundle, adapters["conv"])


def test_an_adapter_can_be_given_as_it_was_read(adaptable, adapters):
    stored = read_adapter(adapters["conv"])
    assert isinstance(stored, StoredAdapter)
    by_file, by_value = (adapter_overrides(adaptable.bundle, adapter) for adapter in (adapters["conv"], stored))
    for stage, overrides in by_file.items():
        assert overrides.keys() == by_value[stage].keys()
        assert all(np.array_equal(value, by_value[stage][name]) for name, value in overrides.items())


@pytest.fixture
def small(tmp_path):
    """A bundle whose second stage stores its coefficients, and whose first stage its bias, as float16."""
    return open_bundle(write_small_bundle(tmp_path / "bundle"))


def small_adapter_with(coefficients=(), trained=()):
    stored = small_adapter()
    return dataclasses.replace(
        stored, coefficients=stored.coefficients | dict(coefficients), trained=stored.trained | dict(trained)
    )


LARGEST = float(np.finfo(np.float16).max)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coefficients": {"head": np.float32([1, 0, 0, -50000])}}, "a coefficient of head is too large for float16"),
        ({"trained": {"bias": np.float32([1, 0, 0, 65520])}}, "a number of bias is too large for float16"),
        ({"trained": {"bias": np.float64([1, 0, 0, -1e30])}}, "a number of bias is too large for float16"),
    ],
)
def test_numbers_that_the_bundle_would_store_as_infinite_are_refused(small, changes, words):
    with pytest.raises(AdapterError, match=words):
        adapter_overrides(small, small_adapter_with(**changes))


def test_the_largest_numbers_that_half_precision_holds_are_stored(small):
    stored = small_adapter_with(
        {"head": np.float32([LARGEST / 1.5] * 4)}, {"bias": np.float32([LARGEST, -LARGEST] * 2)}
    )
    overrides = adapter_overrides(small, stored)
    assert (overrides["stage0"]["bias"] == [LARGEST, -LARGEST] * 2).all()
    assert (overrides["stage1"]["head.coefficients"] == LARGEST).all()


def rewritten(folder, name, **tensors):
    """Store other arrays in a file of the small bundle, and say so in its manifest."""
    write_tensors(folder / name, WEIGHTS[name] | tensors)
    write_manifest(folder, small_manifest())
    return open_bundle(folder)


@pytest.mark.parametrize(
    "tensors",
    [
        {"conv.places": np.zeros(4, np.int32)},
        {"conv.places": np.zeros(5, np.int16)},
        {"conv.places": np.zeros(5, np.float32)},
        {"conv.coefficients": np.zeros(5, np.int32)},
    ],
)
def test_room_that_contradicts_itself_is_refused(tmp_path, tensors):
    bundle = rewritten(write_small_bundle(tmp_path / "bundle"), "stage0.safetensors", **tensors)
    with pytest.raises(AdapterError, match="room for adapters on conv contradicts itself"):
        adapter_overrides(bundle, small_adapter())


def test_a_weight_stored_as_whole_numbers_is_not_replaced(tmp_path):
    folder = write_small_bundle(tmp_path / "bundle")
    write_tensors(folder / "stage0.safetensors", WEIGHTS["stage0.safetensors"] | {"bias": np.ones(4, np.int32)})
    manifest = small_manifest()
    manifest["stages"][0]["weight_arguments"][0]["tensor"]["dtype"] = "int32"
    write_manifest(folder, manifest)
    with pytest.raises(AdapterError, match="bias is int32 in the bundle, an adapter holds floating point numbers"):
        adapter_overrides(open_bundle(folder), small_adapter())


class Entries:
    """A weight file of which nothing is mapped."""

    def __init__(self, path):
        self.entries = read_entries(path)


def test_places_that_would_not_fit_their_type_are_refused(tmp_path, monkeypatch):
    """A weight of 2^31 + 2 elements, as a file with holes: it needs no room, and is refused before it is touched."""
    monkeypatch.setattr(adapter_weights, "TensorFile", Entries)
    folder = write_small_bundle(tmp_path / "bundle")
    bundle = open_bundle(folder)
    shape = (2, 2**30 + 1)
    sparse_weights(folder / "stage0.safetensors", shape)
    weights = {"conv": small_adapter().header.weights["conv"].model_copy(update={"shape": shape})}
    with pytest.raises(AdapterError, match="conv has 2147483650 elements, more than places stored as int32 can name"):
        adapter_overrides(bundle, changed(small_adapter(), weights=weights))


def sparse_weights(path, shape):
    """Write the weights of the first stage with one float16 weight of a shape behind all others, as a hole."""
    others = {name: array for name, array in WEIGHTS["stage0.safetensors"].items() if name != "conv"}
    header, offset = {}, 0
    for name, array in others.items():
        dtype = {"float32": "F32", "float16": "F16", "int32": "I32"}[str(array.dtype)]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    end = offset + 2 * int(np.prod(shape))
    header["conv"] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
