"""``cospipe adapter``, called as a user calls it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from command import caller
from safetensors.numpy import load_file
from torch import nn

import cospipe
from cospipe.ir.adapter_file import StoredAdapter, write_adapter
from cospipe.ir.spectral_config import SpectralConfig

MODEL = """
import torch
from torch import nn


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5))


def other():
    return small(1)


def half():
    return small().bfloat16()
"""


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5))


def write(path, config, seed, base=0):
    """An adapter with random coefficients; returns the weights it makes, by a computation of torch's own."""
    model = small(base)
    adapters = cospipe.adapt(model, config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapters.trainable_parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    adapters.save(path, base="adapter_nets:small", labels=["a", "b", "c", "d", "e"])
    weights = {name: model.get_submodule(name).weight.detach().clone() for name in ("0", "3")}
    return {**weights, "bias": model[3].bias.detach().clone()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "adapter_nets.py").write_text(MODEL)
    weights = {
        "a": write(folder / "a.safetensors", SpectralConfig(n=40, alpha=0.5, also_train="3.bias"), 1),
        "b": write(folder / "b.safetensors", SpectralConfig(n=30, selection="low"), 2),
        "c": write(folder / "c.safetensors", SpectralConfig(n=30, layers="0"), 3, base=1),
    }
    return folder, weights


@pytest.fixture
def folder(made):
    return made[0]


@pytest.fixture
def inside(folder, monkeypatch, capsys):
    return caller(folder, monkeypatch, capsys)


def test_info_gives_what_the_adapter_changes(inside, made):
    folder, weights = made
    values = json.loads(inside("adapter", "info", "a.safetensors", "--json").stdout)
    assert values["base"] == "adapter_nets:small"
    assert values["labels"] == ["a", "b", "c", "d", "e"]
    assert values["config"]["alpha"] == 0.5
    assert values["coefficients"] == 80
    assert values["trained_parameters"] == 5
    assert values["trained"] == {"3.bias": [5]}
    rows = {row["name"]: row for row in values["weights"]}
    assert rows["0.weight"]["shape"] == [8, 3, 3, 3]
    for name in ("0", "3"):
        change = weights["a"][name] - small()[int(name)].weight
        assert rows[f"{name}.weight"]["change_norm"] == pytest.approx(float(change.detach().norm()), rel=1e-4)
    size = (folder / "a.safetensors").stat().st_size
    assert values["file_bytes"] == size
    assert values["header_bytes"] + 80 * 8 + 5 * 4 == size
    assert values["bytes_per_coefficient"] == pytest.approx((size - 20) / 80, abs=1e-3)


def test_info_is_a_table_for_people(inside):
    done = inside("adapter", "info", "a.safetensors")
    assert done.returncode == 0, done.stderr
    for word in ("0.weight", "8x3x3x3", "alpha=0.5", "3.bias 5", "80 coefficients", "a, b, c, d, e"):
        assert word in done.stdout


def test_diff_gives_the_distance_of_the_changes(inside, made):
    _, weights = made
    values = json.loads(inside("adapter", "diff", "a.safetensors", "b.safetensors", "--json").stdout)
    assert values["same_base"] is True
    assert values["config"] == {
        "n": [40, 30],
        "alpha": [0.5, 1.0],
        "selection": ["hybrid", "low"],
        "also_train": ["3.bias", ""],
    }
    assert values["trained"] == {"3.bias": "only in the first"}
    base = small()
    squares = [0.0, 0.0]
    for row in values["weights"]:
        layer = row["name"].split(".")[0]
        first, second = ((weights[key][layer] - base[int(layer)].weight).detach().double().flatten() for key in "ab")
        assert row["distance"] == pytest.approx(float((first - second).norm()), rel=1e-4)
        assert row["relative_distance"] == pytest.approx(float((first - second).norm() / first.norm()), rel=1e-4)
        cosine = float(torch.cosine_similarity(first, second, dim=0))
        assert row["cosine"] == pytest.approx(cosine, abs=1e-4)
        squares = [squares[0] + float((first - second) @ (first - second)), squares[1] + float(first @ first)]
    assert values["whole"]["distance"] == pytest.approx(squares[0] ** 0.5, rel=1e-4)
    assert values["whole"]["relative_distance"] == pytest.approx((squares[0] / squares[1]) ** 0.5, rel=1e-4)


def test_diff_counts_places_in_common(inside):
    from cospipe.ir.adapter_file import read_adapter

    values = json.loads(inside("adapter", "diff", "a.safetensors", "b.safetensors", "--json").stdout)
    first, second = read_adapter("a.safetensors"), read_adapter("b.safetensors")
    for row in values["weights"]:
        places = [set(adapter.places[row["name"]].tolist()) for adapter in (first, second)]
        assert row["common_places"] == len(places[0] & places[1])


def test_an_adapter_does_not_differ_from_itself(inside):
    values = json.loads(inside("adapter", "diff", "a.safetensors", "a.safetensors", "--json").stdout)
    assert values["config"] == values["trained"] == {}
    assert values["labels"] is None
    assert values["whole"]["distance"] == 0
    assert values["whole"]["cosine"] == pytest.approx(1)


def test_diff_tells_other_bases_and_weights(inside):
    done = inside("adapter", "diff", "b.safetensors", "c.safetensors")
    assert done.returncode == 0, done.stderr
    assert "different bases; these weights differ: 0.weight" in done.stdout
    assert "only in A: 3.weight" in done.stdout


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_merge_writes_plain_weights_under_the_base_names(inside, made, suffix):
    folder, weights = made
    output = folder / f"merged{suffix}"
    done = inside("adapter", "merge", "a.safetensors", "--model", "adapter_nets:small", "-o", output, "--json")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["changed"] == ["0.weight", "3.weight", "3.bias"]
    if suffix == ".pt":
        loaded = torch.load(output, weights_only=True)
    else:
        loaded = {name: torch.from_numpy(array) for name, array in load_file(output).items()}
    model = small(1)
    model.load_state_dict(loaded)  # strict: all names and no others
    assert torch.equal(model[0].weight, weights["a"]["0"])
    assert torch.equal(model[3].weight, weights["a"]["3"])
    assert torch.equal(model[3].bias, weights["a"]["bias"])
    assert torch.equal(model[0].bias, small()[0].bias)
    assert list(loaded) == list(small().state_dict()) or suffix == ".safetensors"


def test_merge_adds_several_by_weight(inside, made):
    folder, weights = made
    arguments = "--weights", "0.25,-2", "--model", "adapter_nets:small", "-o", folder / "sum.safetensors"
    done = inside("adapter", "merge", "a.safetensors", "b.safetensors", *arguments)
    assert done.returncode == 0, done.stderr
    assert "3 of them are changed" in done.stdout
    loaded, base = load_file(folder / "sum.safetensors"), small()
    for layer in ("0", "3"):
        start = base[int(layer)].weight.detach()
        expected = start + 0.25 * (weights["a"][layer] - start) - 2 * (weights["b"][layer] - start)
        assert np.allclose(loaded[f"{layer}.weight"], expected, atol=1e-5)
    assert np.allclose(loaded["3.bias"], (0.75 * base[3].bias + 0.25 * weights["a"]["bias"]).detach(), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "nosuch"], 2, ["no adapter file 'nosuch'"]),
        (["info", "adapter_nets.py"], 1, ["not a safetensors file"]),
        (["diff", "a.safetensors", "cut.safetensors"], 1, ["cut.safetensors"]),
        (
            ["merge", "a.safetensors", "--model", "adapter_nets:other", "-o", "x.pt"],
            1,
            ["another base", "0.weight has other"],
        ),
        (["merge", "c.safetensors", "--model", "adapter_nets:small", "-o", "x.pt"], 1, ["another base"]),
        (
            ["merge", "a.safetensors", "b.safetensors", "--model", "adapter_nets:small", "-o", "x.pt"],
            2,
            ["--weights takes 2"],
        ),
        (
            ["merge", "a.safetensors", "--weights", "nan", "--model", "adapter_nets:small", "-o", "x.pt"],
            2,
            ["--weights"],
        ),
        (
            ["merge", "a.safetensors", "--weights", "1e39", "--model", "adapter_nets:small", "-o", "x.pt"],
            1,
            ["infinite"],
        ),
        (
            ["merge", "a.safetensors", "--model", "adapter_nets:small", "-o", "a.safetensors"],
            2,
            ["one of the adapters"],
        ),
        (["merge", "cut.safetensors", "--model", "adapter_nets:small", "-o", "x.pt"], 1, ["cut.safetensors"]),
        (["merge", "a.safetensors", "--model", "adapter_nets:small", "-o", "x.bin"], 2, [".pt or .safetensors"]),
        (["merge", "a.safetensors", "--model", "adapter_nets:small", "-o", "no/x.pt"], 2, ["directory no does not"]),
        (["merge", "a.safetensors", "--model", "adapter_nets:smal", "-o", "x.pt"], 2, ["small"]),
    ],
)
def test_mistakes_get_a_sentence_and_write_nothing(inside, folder, arguments, code, words):
    (folder / "cut.safetensors").write_bytes((folder / "a.safetensors").read_bytes()[:-40])
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    done = inside("adapter", *arguments)
    assert done.returncode == code, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


def test_a_half_precision_base_is_merged_as_pt_only(inside, folder):
    config = SpectralConfig(n=10)
    adapters = cospipe.adapt(small().bfloat16(), config)
    adapters.save(folder / "half.safetensors")
    arguments = "adapter", "merge", "half.safetensors", "--model", "adapter_nets:half", "-o"
    done = inside(*arguments, "half_merged.safetensors")
    assert done.returncode == 2
    assert "only .pt will do" in done.stderr
    assert not (folder / "half_merged.safetensors").exists()
    assert inside(*arguments, "half_merged.pt").returncode == 0
    assert torch.load(folder / "half_merged.pt", weights_only=True)["0.weight"].dtype == torch.bfloat16


def test_looking_at_adapters_loads_no_torch(folder):
    code = """
import sys
from cospipe.cli import main
for arguments in (["info", "a.safetensors"], ["diff", "a.safetensors", "b.safetensors", "--json"]):
    sys.argv = ["cospipe", "adapter", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
print("heavy:", *sorted({"torch", "networkx", "tvm", "transformers", "PIL"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize("command", ["info", "diff", "merge"])
def test_help_has_examples(inside, command):
    done = inside("adapter", command, "--help")
    assert done.returncode == 0
    assert f"cospipe adapter {command}" in done.stdout


@pytest.mark.parametrize("name", ["a[/b]", "[red]"])
def test_names_that_look_like_markup_are_shown_as_they_are(inside, folder, name):
    stored = cospipe.read_adapter(folder / "c.safetensors")
    weights = {name: stored.header.weights["0.weight"]}
    header = stored.header.model_copy(update={"weights": weights, "base": rf"\{name}"})
    arrays = {name: stored.coefficients["0.weight"]}, {name: stored.places["0.weight"]}
    write_adapter(folder / "marked.safetensors", StoredAdapter(header, *arrays))
    for arguments in (["info", "marked.safetensors"], ["diff", "marked.safetensors", "marked.safetensors"]):
        done = inside("adapter", *arguments)
        assert done.returncode == 0, done.stderr
        assert name in done.stdout
