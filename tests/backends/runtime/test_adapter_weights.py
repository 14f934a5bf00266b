"""Which stored weights an adapter replaces, and every way in which it does not fit a bundle."""

import dataclasses

import numpy as np
import pytest

from cospipe.backends.runtime.adapter_weights import adapter_overrides
from cospipe.ir.adapter_file import StoredAdapter, read_adapter
from cospipe.ir.errors import AdapterError
from cospipe.ir.tensor_file import map_tensors


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
