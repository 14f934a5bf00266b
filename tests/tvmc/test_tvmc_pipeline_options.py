"""Pipelines of one command, and the options that name a chip and its cores."""

import argparse

import pytest
import torch
from torch import nn

from cospipe.backends.tvm.replica_target import replica_target
from cospipe.backends.tvm.tvmc.cores import NamedCores, cores_target, machine_for
from cospipe.backends.tvm.tvmc.package import open_package
from cospipe.backends.verify import verify_bundle
from cospipe.emission import check_form
from cospipe.ir.errors import UsageError
from cospipe.ir.plan import CoreConfiguration, Replica
from cospipe.ir.soc import load_soc
from cospipe.tvmc.pipeline_arguments import add_pipeline_arguments, check_pipeline_arguments
from cospipe.tvmc.pipelines import compile_pipeline

SPREAD = (CoreConfiguration("big", 4), CoreConfiguration("little", 4))


@pytest.mark.parametrize(
    ("text", "soc", "cores", "sharing"),
    [
        ("hikey970:big:4", "hikey970", (CoreConfiguration("big", 4),), "equal"),
        ("hikey970:big:4+little:4", "hikey970", SPREAD, "equal"),
        ("my boards/a+b:c.toml:big:4+little:4 by-speed", "my boards/a+b:c.toml", SPREAD, "by-speed"),
    ],
)
def test_cores_are_read(text, soc, cores, sharing):
    assert NamedCores.parse(text) == NamedCores(soc, cores, sharing)


@pytest.mark.parametrize("sharing", ["equal", "by-speed"])
@pytest.mark.parametrize("cores", [SPREAD, SPREAD[:1]])
def test_cores_of_a_replica_are_read_as_they_are_written(cores, sharing):
    named = NamedCores.of("hikey970", Replica(cores=cores, compute_us=1, sharing=sharing))
    again = NamedCores.parse(str(named))
    assert again.cores == cores
    assert again.sharing == (sharing if len(cores) > 1 else "equal")


@pytest.mark.parametrize(
    "text", ["", "hikey970", "hikey970:big", "big:4", "hikey970:big:four", "hikey970:big:4,little:4"]
)
def test_cores_that_cannot_be_read(text):
    with pytest.raises(UsageError, match="write SOC:CLUSTER:NUMBER, for example hikey970:big:4"):
        cores_target(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hikey971:big:4", "There is no SoC 'hikey971'"),
        ("hikey970:bigg:4", "hikey970 has no cluster 'bigg'. Did you mean big?"),
        ("hikey970:big:5", "hikey970 has 4 cores big, not 5"),
        ("hikey970:big:0", "needs at least one core"),
        ("odroid-xu4:big:1", "TVM publishes no runtime wheel for armv7"),
    ],
)
def test_cores_that_do_not_exist(text, reason):
    with pytest.raises(UsageError) as caught:
        cores_target(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["hikey970:big:2", "rk3588:little:4", "hikey970:big:4+little:4 by-speed"])
@pytest.mark.parametrize("target", [None, {"kind": "llvm"}])
def test_a_library_for_named_cores_is_compiled_as_for_the_replica_of_a_plan(text, target):
    named = NamedCores.parse(text)
    soc = load_soc(named.soc)
    machine = soc if target is None else load_soc("host")
    replica = Replica(cores=named.cores, compute_us=1, sharing=named.sharing)
    chosen, expected = cores_target(text, target), replica_target(replica, soc, machine)
    assert str(chosen.target) == str(expected.target)
    assert (chosen.core, chosen.threads, chosen.core_type) == (expected.core, expected.threads, expected.core_type)
    assert chosen.shares_by_speed == expected.shares_by_speed == ("by-speed" in text)


def test_the_target_may_say_again_what_the_chip_is():
    soc = load_soc("hikey970")
    assert machine_for(soc, {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}) == soc
    assert machine_for(soc) == soc
    assert machine_for(soc, {"kind": "llvm"}).name == "host"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({"kind": "cuda"}, "compiled for with llvm, not with the target cuda"),
        ({"kind": "llvm", "mtriple": "x86_64-linux-gnu"}, "hikey970 is an aarch64 chip, the target is for x86_64"),
        (
            {"kind": "llvm", "mcpu": "cortex-a72", "mattr": ["+neon"]},
            "decide -mattr, -mcpu; leave that out of --target",
        ),
    ],
)
def test_targets_that_contradict_the_chip(target, reason):
    with pytest.raises(UsageError) as caught:
        machine_for(load_soc("hikey970"), target)
    assert reason in str(caught.value)


def parsed(*words):
    parser = argparse.ArgumentParser()
    add_pipeline_arguments(parser)
    return parser.parse_args(words)


def test_a_pipeline_takes_an_objective_but_no_cores():
    check_pipeline_arguments(parsed())
    check_pipeline_arguments(parsed("--pipeline", "hikey970", "--pipeline-objective", "latency"))
    check_pipeline_arguments(parsed("--cores", "hikey970:big:4"))
    with pytest.raises(UsageError, match="--pipeline uses all cores of the chip; leave --cores out"):
        check_pipeline_arguments(parsed("--pipeline", "hikey970", "--cores", "hikey970:big:4"))
    with pytest.raises(UsageError, match="name the chip with --pipeline SOC"):
        check_pipeline_arguments(parsed("--pipeline-objective", "energy"))


@pytest.fixture
def network():
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return network, (torch.randn(1, 3, 8, 8, generator=generator),)


def test_a_pipeline_is_one_package(network, tmp_path):
    output = compile_pipeline(*network, "hikey970", tmp_path / "app.tar", target={"kind": "llvm"}, name="net.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["app.tar"]
    bundle = open_package(output)
    assert (bundle.manifest.model, bundle.manifest.plan.soc) == ("net.onnx", "hikey970")
    assert verify_bundle(bundle).passed


def test_nothing_is_compiled_that_could_not_be_written(network, tmp_path):
    (tmp_path / "app.tar").mkdir()
    with pytest.raises(UsageError, match="exists and is no package"):
        compile_pipeline(*network, "hikey970", tmp_path / "app.tar")
    with pytest.raises(UsageError, match="There is no SoC 'hikey971'"):
        compile_pipeline(*network, "hikey971", tmp_path / "other.tar")
    assert [file.name for file in tmp_path.iterdir()] == ["app.tar"]


def test_forms_of_output():
    check_form("bundle")
    check_form("tvmc")
    with pytest.raises(UsageError, match="Did you mean tvmc"):
        check_form("tvm")
