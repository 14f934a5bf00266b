"""Clocks: combinations, and what units take at them."""

import networkx as nx
import pytest

from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import load_soc
from cospipe.passes.clock_levels import MOST_COMBINATIONS, at_clocks, clock_combinations

BIG, LITTLE, GPU = CoreConfiguration("big", 1), CoreConfiguration("little", 1), CoreConfiguration("gpu", 1)


def test_all_combinations_of_levels_the_highest_first():
    chip = load_soc("rk3399")
    found = clock_combinations(chip, ["big", "little"])
    assert len(found) == len(chip.cluster("big").clock_mhz) * len(chip.cluster("little").clock_mhz)
    assert found[0] == {"big": 1800, "little": 1416}
    assert clock_combinations(chip, ["little"])[-1] == {"little": 408}


@pytest.mark.parametrize("name", ["vim3", "sd855"])
def test_many_levels_are_thinned_and_keep_both_ends(name):
    chip = load_soc(name)
    found = clock_combinations(chip, [cluster.name for cluster in chip.clusters])
    assert len(found) <= MOST_COMBINATIONS
    for cluster in chip.clusters:
        levels = {clocks[cluster.name] for clocks in found}
        assert {cluster.clock_mhz[0], cluster.clock_mhz[-1]} <= levels <= set(cluster.clock_mhz)


def test_only_what_computes_slows_down_with_the_clock():
    model = nx.DiGraph()
    model.add_node("x", is_input=True)
    tables = {"time_us": {BIG: 100.0, LITTLE: 300.0, GPU: 50.0}, "clock_bound_us": {BIG: 60.0, LITTLE: 300.0, GPU: 0.0}}
    model.add_node("conv", **tables, crowded_us={BIG: 130.0, LITTLE: 300.0, GPU: 50.0})
    chip = load_soc("rk3399")
    slowed = at_clocks(model, chip, {"big": 600})  # a third of the highest
    assert slowed.nodes["conv"]["time_us"] == {BIG: 100 + 2 * 60, LITTLE: 300, GPU: 50}
    assert slowed.nodes["conv"]["crowded_us"][BIG] == 130 + 2 * 60
    assert model.nodes["conv"]["time_us"][BIG] == 100
