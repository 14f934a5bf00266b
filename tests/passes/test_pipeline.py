"""The text form of pipelines round-trips, reports all mistakes at once, and runs."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import ClassVar, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from cospipe.ir.errors import PassError, UsageError
from cospipe.ir.spectral_config import DISTANCES, SELECTIONS
from cospipe.passes.base import Pass, PassResult
from cospipe.passes.insert_adapters import InsertAdapters
from cospipe.passes.merge_adapters import MergeAdapters
from cospipe.passes.partition import Partition
from cospipe.passes.pipeline import PASSES, PassManager, parse_pipeline, pipeline_text
from cospipe.passes.split import Split

VALUES = {
    int: st.integers(min_value=1),
    float: st.floats(allow_nan=False, allow_infinity=False).filter(bool),
    str: st.text('ab1.-*/é={},"\\ \n\t', max_size=8),
    bool: st.booleans(),
}


def passes_of(pass_class):
    hints = get_type_hints(pass_class)
    options = {field.name: VALUES[hints[field.name]] for field in dataclasses.fields(pass_class)}
    if pass_class is InsertAdapters:
        options |= {"selection": st.sampled_from(SELECTIONS), "distance": st.sampled_from(DISTANCES)}
        options |= {"delta": st.floats(0, 1), "seed": st.integers(0, 2**32 - 1)}
        options["layers"] = st.sampled_from(["*", "*.q|*.v", "a b", 'say "x"'])
    if pass_class is MergeAdapters:
        options["at"] = st.sampled_from(["compile", "load"])
    if pass_class is Partition:
        options["objective"] = st.sampled_from(["throughput", "latency", "energy"])
        options["plans"] = st.sampled_from(["all", "pipeline"])
        limits = ("max_latency_us", "max_power_mw")
        options |= {name: st.floats(0, allow_nan=False, allow_infinity=False) for name in limits}
    return st.builds(pass_class, **options)


@dataclass(frozen=True)
class Switch(Pass):
    """A pass with one option of each type."""

    name: ClassVar[str] = "switch"
    on: bool = False
    level: float = 0.5
    count: int = 3
    label: str = "a"

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        if self.label == "fail":
            raise PassError("There is no light.")
        return PassResult(graph_module, self.on)


@pytest.fixture
def with_switch(monkeypatch):
    monkeypatch.setitem(PASSES, "switch", Switch)


@pytest.fixture
def graph_module():
    return fx.symbolic_trace(torch.nn.ReLU())


def test_every_pass_of_the_project_is_known_by_its_name():
    assert [(name, pass_class.name) for name, pass_class in PASSES.items()] == [
        (name, name)
        for name in [
            "fold-batch-norm",
            "insert-adapters",
            "merge-adapters",
            "annotate-layers",
            "annotate-latency",
            "partition",
            "split",
        ]
    ]


@given(st.lists(st.sampled_from(sorted(PASSES)).flatmap(lambda name: passes_of(PASSES[name]))))
def test_any_pipeline_round_trips(passes):
    assert parse_pipeline(pipeline_text(passes)) == tuple(passes)


@given(
    on=VALUES[bool], level=VALUES[float], count=st.integers(), label=st.sampled_from(["", "true", "1", '"', "a,b={}\\"])
)
def test_every_type_of_option_round_trips(on, level, count, label):
    switch = Switch(on=on, level=level, count=count, label=label)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(PASSES, "switch", Switch)
        assert parse_pipeline(f"split,{switch}") == (Split(), switch)


def test_options_that_keep_their_default_are_left_out():
    text = "insert-adapters{n=7},merge-adapters,annotate-latency{soc=rk3588},partition{objective=latency}"
    assert pipeline_text(parse_pipeline(text)) == text
    assert pipeline_text(parse_pipeline("partition{objective=throughput, soc=hikey970}")) == "partition"


def test_white_space_does_not_matter():
    assert parse_pipeline(" split ,\n partition { max_stages = 2 , cores = big } ") == (
        Split(),
        Partition(max_stages=2, cores="big"),
    )
    assert parse_pipeline("  ") == ()


def test_all_mistakes_are_reported_at_once(with_switch):
    text = (
        "fold-batchnorm,partition{objectiv=latency,max_stages=two,objective=speed},split{n=3},insert-adapters{n=0},"
        "switch{on=maybe,level=high,count=1.5},switch{on=true,on=false},switch{loud}"
    )
    with pytest.raises(UsageError) as error:
        parse_pipeline(text)
    assert str(error.value).splitlines() == [
        "The pipeline has 11 mistake(s):",
        "  - there is no pass 'fold-batchnorm'. Did you mean fold-batch-norm?",
        "  - partition has no option 'objectiv'. Did you mean objective?",
        "  - partition: max_stages must be a whole number, not two",
        "  - There is no objective 'speed'; choose throughput, latency or energy.",
        "  - split has no option 'n'. It has none.",
        "  - These options of spectral adapters make no sense: n=0: at least one coefficient a weight is needed.",
        "  - switch: on must be true or false, not maybe",
        "  - switch: level must be a number, not high",
        "  - switch: count must be a whole number, not 1.5",
        "  - switch: on is given twice",
        "  - switch: the options cannot be read from 'loud' on; write option=value",
    ]


@pytest.mark.parametrize("text", ["split,", ",split", "split,,split", "split}", "partition{soc=a", 'partition{soc="a}'])
def test_text_of_another_form(text):
    with pytest.raises(UsageError, match="cannot be read from"):
        parse_pipeline(text)


def test_the_manager_runs_all_passes_in_order(graph_module, caplog):
    seen = []
    manager = PassManager([Switch(), Switch(on=True), Switch(label="last")], progress=seen.append)
    with caplog.at_level(logging.INFO, logger="cospipe.passes"):
        result = manager(graph_module)
    assert result.modified
    assert result.graph_module is graph_module
    assert [str(pass_) for pass_ in seen] == ["switch", "switch{on=true}", "switch{label=last}"]
    logged = [record.getMessage().rpartition(",")[0] for record in caplog.records]
    assert logged == ["switch: nothing to do", "switch{on=true}: modified", "switch{label=last}: nothing to do"]
    assert str(manager) == "switch,switch{on=true},switch{label=last}"


def test_a_pipeline_that_changes_nothing_says_so(graph_module):
    assert not PassManager([Switch(), Switch()])(graph_module).modified


def test_the_error_of_a_pass_reaches_the_user_as_it_is(graph_module):
    with pytest.raises(PassError, match=r"^There is no light\.$"):
        PassManager([Switch(), Switch(label="fail")])(graph_module)
