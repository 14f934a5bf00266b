"""``cospipe explore``, called as a user calls it, on a small network."""

import json
from itertools import pairwise

import pytest
from command import caller
from exploration_example import example, example_exploration, example_prediction
from rich.console import Console

from cospipe.exploration_pictures import advantage, exploration_picture, exploration_values, remarks, thinned
from cospipe.ir.exploration import Exploration, Limits
from cospipe.ir.soc import load_soc

MODEL = """
from torch import nn


def small():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )
"""
SMALL = ("explore", "small_for_explore:small", "--input-shape", "1,3,64,64", "--soc", "hikey970")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore")
    (folder / "small_for_explore.py").write_text(MODEL)
    return folder


@pytest.fixture
def inside(folder, monkeypatch, capsys):
    return caller(folder, monkeypatch, capsys)


def test_json_has_the_plans_and_their_figures(inside):
    done = inside(*SMALL, "--json")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["soc"], values["objective"]) == ("hikey970", "throughput")
    assert "analytic" in values["source"]
    chosen = values["chosen"]
    assert chosen["frames_per_second"] == pytest.approx(1e6 / chosen["period_us"], rel=1e-3)
    possible = [o for o in values["kinds"] + values["baselines"] if not o["cannot_run"] and not o["exceeds"]]
    assert possible
    assert all(chosen["period_us"] <= option["period_us"] * (1 + 1e-9) for option in possible)
    assert values["reasons"]


def test_the_report_is_written_and_its_place_told(inside, folder):
    done = inside(*SMALL, "-o", "out/report", "--objective", "latency")
    assert done.returncode == 0, done.stderr
    assert "Report: out/report/index.html" in done.stderr
    assert "Why this plan" in done.stdout
    text = (folder / "out" / "report" / "exploration.json").read_text(encoding="utf-8")
    assert Exploration.model_validate_json(text).objective == "latency"


def test_limits_are_kept(inside):
    free = json.loads(inside(*SMALL, "--json").stdout)["chosen"]
    limit_us = (free["latency_us"] + min_latency_us(inside)) / 2
    done = inside(*SMALL, "--json", "--max-latency", f"{limit_us}us")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["limits"]["latency_us"] == pytest.approx(limit_us)
    assert values["chosen"]["latency_us"] <= limit_us


def min_latency_us(inside):
    return json.loads(inside(*SMALL, "--json", "--objective", "latency").stdout)["chosen"]["latency_us"]


def test_a_limit_that_nothing_meets_is_named(inside, folder):
    done = inside(*SMALL, "--max-latency", "1ns", "-o", "nothing")
    assert done.returncode == 1
    assert "latency" in done.stderr
    assert not (folder / "nothing").exists()


def test_cores_and_stages_restrict_the_plan(inside):
    done = inside(*SMALL, "--json", "--cores", "little:2", "--max-stages", "1")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)["chosen"]["plan"]
    assert len(plan["stages"]) == 1
    assert {c["cluster"] for r in plan["stages"][0]["replicas"] for c in r["cores"]} == {"little"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--max-latency", "50"), 2, "--max-latency takes a time such as 50ms: '50' has no unit"),
        (("--max-power", "-5W"), 2, "--max-power must be a power above zero"),
        (("--max-memory", "nanMB"), 2, "--max-memory must be a size above zero"),
        (("--objective", "troughput"), 2, "There is no --objective 'troughput'. Did you mean throughput?"),
        (("--source", "guess"), 2, "There is no --source 'guess'"),
        (("--input-shape", "1,x"), 2, "is no input shape"),
        (("--soc", "hikey971"), 2, "hikey970"),
        (("-o", "small_for_explore.py"), 2, "is a file; name a folder"),
    ],
)
def test_mistakes_get_a_sentence(inside, arguments, code, words):
    done = inside(*SMALL, *arguments)
    assert done.returncode == code
    assert words in done.stderr.replace("\n", " ")


def test_help_has_examples(inside):
    assert inside("explore", "--help").stdout.count("cospipe explore") >= 4


# Pictures ------------------------------------------------------------------------------------------------------------


def printed(exploration, width=200):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(exploration_picture(exploration, width))
    return console.export_text()


def test_the_terminal_shows_every_plan_and_reason():
    exploration, _, _ = example()
    text = printed(exploration)
    for option in (*exploration.kinds, *exploration.baselines):
        assert option.name in text
    assert all(reason in text for reason in exploration.reasons)
    assert "cannot run: the runtime has no kernels over" in text


def test_brackets_in_names_are_only_text():
    exploration, _, _ = example()
    option = exploration.kinds[0].model_copy(update={"name": "[red]odd[/red]"})
    assert "[red]odd[/red]" in printed(exploration.model_copy(update={"kinds": (option,), "reasons": ("[b]why[/b]",)}))


def test_advantage_is_one_for_the_chosen_and_less_for_worse_plans():
    exploration, _, _ = example()
    chosen, single = exploration.chosen, exploration.kinds[1].plan
    assert advantage(chosen, chosen, "throughput") == 1
    assert advantage(single, chosen, "throughput") == pytest.approx(chosen.period_us / single.period_us)
    assert advantage(single.model_copy(update={"energy_mj": None}), chosen, "energy") is None


def test_remarks_say_why_a_plan_cannot_be_chosen():
    option = example()[0].kinds[0].model_copy(update={"cannot_run": ("a", "b"), "exceeds": ("c",)})
    assert remarks(option) == ["cannot run: a; b", "exceeds c"]


def test_a_long_front_is_thinned_evenly_with_both_ends():
    option = example()[0].kinds[0]
    options = [option.model_copy(update={"name": str(number)}) for number in range(100)]
    names = [int(kept.name) for kept in thinned(options, 12)]
    assert (names[0], names[-1], len(names)) == (0, 99, 12)
    assert all(8 <= second - first <= 10 for first, second in pairwise(names))
    assert thinned(options[:5], 12) == options[:5]


def test_values_are_json_with_limits():
    soc = load_soc("rk3588")
    exploration = example_exploration(example_prediction(soc), soc, limits=Limits(power_mw=5000))
    values = json.loads(json.dumps(exploration_values(exploration)))
    assert values["limits"] == {"latency_us": None, "power_mw": 5000.0, "memory_bytes": None}
    assert [option["name"] for option in values["kinds"]] == [option.name for option in exploration.kinds]
