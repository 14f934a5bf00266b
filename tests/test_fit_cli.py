"""``cospipe fit``, called as a user calls it, on profiles that are made up."""

import json
from statistics import median

import pytest
from command import caller
from profile_examples import kernel, network, on_cores, profile

from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.profile import write_profile
from cospipe.ir.soc import load_soc

CORE_TYPES = {cluster.name: cluster.core_type for cluster in load_soc("rk3399").clusters}
MACS_PER_US = {"big:1": 6000.0, "big:2": 11000.0, "little:4": 5000.0}


def convolution(pixels, channels):
    """A pointwise convolution with as many channels in as out."""
    image, weights = 4 * pixels * channels, 4 * channels**2
    return LayerDescriptor(
        LayerKind.POINTWISE_CONV, pixels, channels, channels, pixels * channels**2, image, weights, image,
        kernel=(1, 1), output_size=(int(pixels**0.5),) * 2,
    )  # fmt: skip


def layers_of(place):
    """Layers of one of several networks, of different widths."""
    return [convolution(pixels, channels + 8 * place) for pixels in (3136, 784, 196, 49) for channels in (32, 64, 128)]


def _kernels(place, us_per_mac):
    return [kernel(f"n{number}", layer.macs * us_per_mac, layer) for number, layer in enumerate(layers_of(place))]


def board(soc="rk3399", networks=4, slower=1.0, **changes):
    """A board whose cores do so many MACs in a microsecond, whatever the layer; slower ones in the last network."""
    found = []
    for place in range(networks):
        factor = slower if place == networks - 1 else 1.0
        measured = {cores: on_cores(*_kernels(place, factor / rate)) for cores, rate in MACS_PER_US.items()}
        found.append(network(measured, f"nets:net{place}", f"{place:02d}" * 32))
    return profile(*found, soc=soc, core_types=CORE_TYPES, **changes)


@pytest.fixture
def inside(tmp_path, monkeypatch, capsys):
    return caller(tmp_path, monkeypatch, capsys)


def fitted(inside, *arguments):
    done = inside("fit", *arguments, "-o", "model.json", "--json")
    assert done.returncode == 0, done.stderr
    return {(row["core_type"], row["threads"]): row for row in json.loads(done.stdout)["rows"]}


def test_errors_are_told_by_core_type_and_threads(inside, tmp_path):
    write_profile(board(), tmp_path / "board.json")
    rows = fitted(inside, "board.json")
    assert list(rows) == [("cortex-a53", 4), ("cortex-a72", 1), ("cortex-a72", 2)]
    for row in rows.values():
        assert (row["networks"], row["layers"]) == (4, 48)
        # times are proportional to the work, which every network shows
        assert row["layer_median_error"] < 0.1
        assert row["sum_worst_error"] < 0.1


def test_a_network_is_predicted_from_the_others_only(inside, tmp_path):
    write_profile(board(slower=3.0), tmp_path / "board.json")
    (row,) = (row for cores, row in fitted(inside, "board.json").items() if cores == ("cortex-a72", 1))
    # the others say nothing of the slow one: its prediction is off by two thirds, and no other can be further below
    assert row["sum_worst_error"] > 0.6


def test_the_model_predicts(inside, tmp_path):
    write_profile(board(), tmp_path / "board.json")
    rows = fitted(inside, "board.json")
    (tmp_path / "fitted_nets.py").write_text(
        "import torch\ndef net(): return torch.nn.Conv2d(64, 64, 1, bias=False).eval()\n"
    )
    shape = "--input-shape", "1,64,28,28"
    options = "--soc", "rk3399", "--source", "regression", "--profile", "model.json", "--json"
    predicted = inside("predict", "fitted_nets:net", *shape, *options)
    assert predicted.returncode == 0, predicted.stderr
    total_us = json.loads(predicted.stdout)["total_us"]
    for cores, rate in MACS_PER_US.items():
        assert total_us[cores] == pytest.approx(784 * 64**2 / rate, rel=0.2)
    assert median(row["layer_median_error"] for row in rows.values()) < 0.1


def test_several_profiles_of_a_board(inside, tmp_path):
    whole = board()
    for place, one in enumerate(whole.networks):
        write_profile(whole.model_copy(update={"networks": (one,)}), tmp_path / f"{place}.json")
    rows = fitted(inside, *(f"{place}.json" for place in range(4)))
    assert {row["networks"] for row in rows.values()} == {4}


def test_the_table(inside, tmp_path):
    write_profile(board(), tmp_path / "board.json")
    done = inside("fit", "board.json", "-o", "model.json")
    assert "cortex-a53" in done.stdout
    assert "layer median" in done.stdout
    assert "%" in done.stdout


def refused(inside, *files):
    done = inside("fit", *files, "-o", "model.json")
    assert done.returncode == 2, done.stdout
    return done.stderr


def test_measured_and_emulated_times_are_not_mixed(inside, tmp_path):
    write_profile(board(), tmp_path / "measured.json")
    write_profile(board(source="emulated"), tmp_path / "emulated.json")
    assert "emulated.json holds emulated times" in refused(inside, "measured.json", "emulated.json")


def test_a_board_nobody_described(inside, tmp_path):
    write_profile(board(soc="my-board"), tmp_path / "board.json")
    assert "No SoC description is called my-board; name the board's TOML file with --soc" in refused(
        inside, "board.json"
    )


def test_a_board_with_other_cores(inside, tmp_path):
    write_profile(board(soc="hikey970"), tmp_path / "board.json")
    assert "its cores are big cortex-a72, little cortex-a53, those of the SoC big cortex-a73" in refused(
        inside, "board.json"
    )


def test_negative_times(inside, tmp_path):
    write_profile(board(), tmp_path / "board.json")
    written = json.loads((tmp_path / "board.json").read_text())
    written["networks"][0]["configurations"]["big:1"]["kernels"][3]["median_us"] = -2.0
    (tmp_path / "board.json").write_text(json.dumps(written))
    assert "networks.0.configurations.big:1.kernels.3.median_us" in refused(inside, "board.json")


def test_an_empty_profile(inside, tmp_path):
    write_profile(board(networks=0), tmp_path / "board.json")
    assert "There is no measured layer" in refused(inside, "board.json")


def test_a_file_that_is_not_there(inside):
    assert "none.json' cannot be read" in refused(inside, "none.json")
