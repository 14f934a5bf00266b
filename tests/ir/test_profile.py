"""The file of a profile: written whole, read with every mistake told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_examples import CONVOLUTION, POOLING, kernel, network, on_cores, profile

from cospipe.ir.errors import UsageError
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import MeasuredLayer, Profile, read_profile, write_profile

EXAMPLE = profile(
    network({"big:1": on_cores(kernel("conv", 40.0, others=("relu",)), kernel("pool", 2.5, POOLING))}),
    network({"little:1": on_cores(kernel("conv", 90.0))}, model="nets:two", fingerprint="cd" * 32),
)


def values():
    return json.loads(EXAMPLE.model_dump_json())


def refusal(tmp_path, written):
    file = tmp_path / "board.json"
    file.write_text(written if isinstance(written, str) else json.dumps(written))
    with pytest.raises(UsageError) as raised:
        read_profile(file)
    return str(raised.value)


def test_what_was_written_is_read(tmp_path):
    file = tmp_path / "new" / "board.json"
    write_profile(EXAMPLE, file)
    assert read_profile(file) == EXAMPLE
    assert [path.name for path in file.parent.iterdir()] == ["board.json"]


@given(times=st.lists(st.floats(0, 1e9), min_size=1, max_size=4), whole=st.floats(0, 1e9))
def test_every_time_survives_the_file(times, whole):
    written = profile(
        network({"big:1": on_cores(*(kernel(f"n{i}", us) for i, us in enumerate(times)), network_us=whole)})
    )
    assert Profile.model_validate_json(written.model_dump_json()) == written


def test_rows_name_network_cores_and_core_type():
    conv, pool, other = EXAMPLE.layers()
    assert conv == MeasuredLayer("nets:one", CONVOLUTION, "cortex-a73", CoreConfiguration("big", 1), 40.0)
    assert (pool.layer, pool.time_us) == (POOLING, 2.5)
    assert (other.network, other.core_type) == ("nets:two", "cortex-a53")


def test_a_network_takes_further_configurations():
    more = network({"big:2": on_cores(kernel("conv", 22.0)), "big:1": on_cores(kernel("conv", 39.0))})
    merged = EXAMPLE.with_network(more)
    (first, second) = merged.networks
    assert second == EXAMPLE.networks[1]
    assert {text: measured.network_us for text, measured in first.configurations.items()} == {
        "big:1": 39.0,
        "big:2": 22.0,
    }
    assert EXAMPLE.with_network(network({}, fingerprint="ef" * 32)).networks[:2] == EXAMPLE.networks


def test_a_network_is_found_by_its_graph():
    assert EXAMPLE.network("cd" * 32) is EXAMPLE.networks[1]
    assert EXAMPLE.network("00" * 32) is None


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"none\.json' cannot be read"):
        read_profile(tmp_path / "none.json")


def test_a_truncated_file(tmp_path):
    whole = EXAMPLE.model_dump_json()
    assert "is not a profile this version reads" in refusal(tmp_path, whole[: len(whole) // 2])


def test_an_empty_file(tmp_path):
    assert "is not a profile" in refusal(tmp_path, "")


def test_all_mistakes_are_told(tmp_path):
    written = values()
    measured = written["networks"][0]["configurations"]["big:1"]
    measured["kernels"][0]["median_us"] = -1
    measured["network_us"] = -0.5
    measured["clock_mhz"] = [0]
    text = refusal(tmp_path, written)
    assert "networks.0.configurations.big:1.kernels.0.median_us: Input should be greater than or equal to 0" in text
    assert "networks.0.configurations.big:1.network_us" in text
    assert "networks.0.configurations.big:1.clock_mhz.0" in text


def test_times_that_are_no_numbers(tmp_path):
    text = EXAMPLE.model_dump_json().replace('"network_us":42.5', '"network_us":NaN')
    assert "network_us" in refusal(tmp_path, text)


@pytest.mark.parametrize("name", ["big", "big:0", "big:x", ":1"])
def test_a_name_that_is_no_core_configuration(tmp_path, name):
    written = values()
    configurations = written["networks"][0]["configurations"]
    configurations[name] = configurations.pop("big:1")
    assert "core configuration" in refusal(tmp_path, written)


def test_a_cluster_nobody_described(tmp_path):
    written = values()
    del written["core_types"]["little"]
    assert "core_types says nothing of the clusters of little:1" in refusal(tmp_path, written)


def test_another_version_and_unknown_keys(tmp_path):
    text = refusal(tmp_path, {**values(), "version": 2, "colour": "red"})
    assert "version" in text
    assert "colour" in text


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "board.json").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        write_profile(EXAMPLE, tmp_path / "board.json")
    assert [path.name for path in tmp_path.iterdir()] == ["board.json"]
