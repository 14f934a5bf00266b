"""The file a profile grows in: resumed, never half-written, never mixed with another board."""

from importlib.metadata import version

import pytest
from profile_examples import FINGERPRINT, kernel, on_cores, profile

from cospipe.backends.profiling.profile_file import ProfileFile, parse_configurations
from cospipe.ir.errors import UsageError
from cospipe.ir.latency import LatencySource
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import read_profile, write_profile
from cospipe.ir.soc import load_soc

SOC = load_soc("rk3399")
BIG, LITTLE = CoreConfiguration("big", 1), CoreConfiguration("little", 4)
VERSIONS = {"cospipe_version": version("cospipe"), "tvm_version": version("apache-tvm")}
CORE_TYPES = {cluster.name: cluster.core_type for cluster in SOC.clusters}


def opened(path, machine="NanoPC-T4", source=LatencySource.MEASURED):
    return ProfileFile(path, SOC, machine, source)


class Measuring:
    """Counts what is measured; fails at one of them."""

    def __init__(self, fails_at=None):
        self.asked, self.fails_at = [], fails_at

    def __call__(self, configuration):
        if configuration == self.fails_at:
            raise KeyboardInterrupt
        self.asked.append(configuration)
        return on_cores(kernel("conv", 10.0 * len(self.asked)))


def run(path, measuring, wanted=(BIG, LITTLE), again=False):
    file = opened(path)
    missing = wanted if again else file.missing(FINGERPRINT, wanted)
    file.measure("nets:one", FINGERPRINT, missing, measuring)
    return file


def test_a_new_file_knows_its_board(tmp_path):
    run(tmp_path / "board.json", Measuring())
    written = read_profile(tmp_path / "board.json")
    assert (written.soc, written.machine, written.source) == ("rk3399", "NanoPC-T4", "measured")
    assert written.core_types == {"big": "cortex-a72", "little": "cortex-a53"}
    assert set(written.networks[0].configurations) == {"big:1", "little:4"}


def test_nothing_is_measured_twice(tmp_path):
    run(tmp_path / "board.json", Measuring(), wanted=(BIG,))
    second = Measuring()
    run(tmp_path / "board.json", second)
    assert second.asked == [LITTLE]
    third = Measuring()
    run(tmp_path / "board.json", third)
    assert third.asked == []


def test_again_measures_anew(tmp_path):
    run(tmp_path / "board.json", Measuring())
    measuring = Measuring()
    run(tmp_path / "board.json", measuring, wanted=(LITTLE,), again=True)
    (network,) = read_profile(tmp_path / "board.json").networks
    assert measuring.asked == [LITTLE]
    assert {text: one.network_us for text, one in network.configurations.items()} == {"big:1": 10.0, "little:4": 10.0}


def test_an_interruption_keeps_what_was_measured(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "board.json", Measuring(fails_at=LITTLE))
    assert set(read_profile(tmp_path / "board.json").networks[0].configurations) == {"big:1"}
    assert [path.name for path in tmp_path.iterdir()] == ["board.json"]


def test_another_graph_is_another_network(tmp_path):
    file = run(tmp_path / "board.json", Measuring())
    assert file.missing("12" * 32, (BIG,)) == [BIG]


def refusal(tmp_path, machine="NanoPC-T4", source=LatencySource.MEASURED, **changes):
    given = {"soc": "rk3399", "machine": "NanoPC-T4", "core_types": CORE_TYPES, **VERSIONS, **changes}
    write_profile(profile(**given), tmp_path / "board.json")
    with pytest.raises(UsageError, match="cannot be continued") as raised:
        opened(tmp_path / "board.json", machine, source)
    return str(raised.value)


def test_the_file_of_another_board(tmp_path):
    assert "it is of the board 'rk3588', not 'rk3399'" in refusal(tmp_path, soc="rk3588")


def test_emulated_and_measured_times_are_not_mixed(tmp_path):
    assert "its times are measured, not emulated" in refusal(tmp_path, source=LatencySource.EMULATED)


def test_the_file_of_another_version(tmp_path):
    text = refusal(tmp_path, tvm_version="0.1", cospipe_version="0.0.1")
    assert "its tvm_version is 0.1, here it is" in text
    assert "its cospipe_version is 0.0.1" in text


def test_a_file_that_is_no_profile(tmp_path):
    (tmp_path / "board.json").write_text('{"rows": []}')
    with pytest.raises(UsageError, match="is not a profile"):
        opened(tmp_path / "board.json")


def test_core_configurations_are_read():
    assert parse_configurations("", SOC) == SOC.configurations()
    assert parse_configurations("little:4+big:1+little:4", SOC) == (LITTLE, BIG)


def test_core_configurations_that_are_not_there():
    with pytest.raises(
        UsageError, match="rk3399 has no big:3 and no medium:1; its core configurations are big:1, big:2"
    ):
        parse_configurations("big:3+little:1+medium:1", SOC)
    with pytest.raises(UsageError, match="write cluster:cores"):
        parse_configurations("4", SOC)
