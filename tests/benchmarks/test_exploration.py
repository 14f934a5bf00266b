"""The comparison of the search with the baselines, on a network of three layers."""

import json
import sys

import pytest
from exploration import app
from typer.testing import CliRunner

NETWORK = """
from torch import nn

def tiny():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 8, 3, 2))
"""


@pytest.fixture
def network(tmp_path, monkeypatch):
    (tmp_path / "tiny_network_of_a_test.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "tiny_network_of_a_test:tiny"
    sys.modules.pop("tiny_network_of_a_test", None)


def test_the_search_is_held_against_every_baseline(network, tmp_path):
    file = tmp_path / "rows.json"
    arguments = ["--sections", "search", "--models", network, "--socs", "hikey970", "--json", str(file)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    rows = json.loads(file.read_text())["rows"]
    single = [row for row in rows if row["soc"] == "hikey970"]
    assert {(row["searched"], row["baseline"]) for row in single} >= {
        ("pipelines", "Pipe-it"),
        ("pipelines", "two-way, clusters"),
        ("runnable", "all cores for each kernel"),
        ("everything", "two-way, components"),
    }
    assert all(row["never_worse"] for row in single)
    for row in single:
        assert row["baseline_over_search"] == pytest.approx(row["baseline_period_us"] / row["period_us"])
    # what may be more can only be faster
    period_us = {row["searched"]: row["period_us"] for row in single}
    assert period_us["everything"] <= period_us["runnable"] <= period_us["pipelines"]
    summaries = [row for row in rows if row["soc"] == "all"]
    assert len(summaries) == len(single)
    assert {row["baseline_over_search"] for row in summaries} == {row["baseline_over_search"] for row in single}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sections", "pipelines"], "needs the tables"),
        (["--sections", "pipeline"], "Did you mean pipelines"),
        (["--sections", "search", "--socs", "hikey"], "There is no SoC"),
        (["--sections", "mobile-socs", "--data", "nowhere"], "cannot be read"),
    ],
)
def test_mistakes_are_told(arguments, message):
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 2
    # the message is drawn in a box that breaks lines
    assert message.replace(" ", "") in "".join(outcome.output.split()).replace("│", "")
