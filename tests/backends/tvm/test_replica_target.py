"""What the code of replicas is compiled for: the slowest type of core whose instructions all the others have."""

from pathlib import Path

import pytest

from cospipe.backends.tvm.replica_target import PARTS_A_THREAD, common_cluster, replica_target
from cospipe.ir.plan import CoreConfiguration, Replica
from cospipe.ir.soc import load_soc

RK3588 = load_soc("rk3588")
BIG, LITTLE = RK3588.clusters


def replica(*cores):
    parts = tuple(map(CoreConfiguration.parse, cores))
    return Replica(cores=parts, compute_us=1)


@pytest.mark.parametrize(
    ("name", "expected"), [("rk3588", "cortex-a55"), ("rk3399", "cortex-a53"), ("sd855", "cortex-a55")]
)
def test_all_cores_of_a_chip_run_code_for_its_slowest(name, expected):
    soc = load_soc(name)
    cores = [f"{cluster.name}:{cluster.cores}" for cluster in soc.clusters]
    made = replica_target(replica(*cores), soc, soc)
    assert (made.core_type, made.threads, made.core.cores) == (expected, soc.core_count, soc.core_count)
    assert made.target.attrs["num-cores"] == soc.core_count


@pytest.mark.parametrize(("sharing", "parts"), [("equal", 1), ("by-speed", PARTS_A_THREAD)])
def test_kernels_are_cut_into_parts_only_where_threads_take_them_as_they_can(sharing, parts):
    cores = (CoreConfiguration("big", 1), CoreConfiguration("little", 2))
    made = replica_target(Replica(cores=cores, compute_us=1, sharing=sharing), RK3588, RK3588)
    assert (made.shares_by_speed, made.core.parts) == (sharing == "by-speed", parts)
    alone = Replica(cores=cores[:1], compute_us=1, sharing=sharing)
    assert not replica_target(alone, RK3588, RK3588).shares_by_speed


def test_python_and_c_cut_kernels_into_as_many_parts():
    source = Path(replica_target.__code__.co_filename).with_name("share_by_speed.c").read_text()
    assert f"PARTS_A_THREAD = {PARTS_A_THREAD} " in source


def test_one_cluster_is_compiled_for_itself():
    made = replica_target(replica("big:2"), RK3588, RK3588)
    assert (made.core_type, made.threads, made.core.cores) == ("cortex-a76", 2, 2)


def test_on_the_host_its_own_cores_are_meant():
    host = load_soc("host")
    made = replica_target(replica("big:2", "little:1"), RK3588, host)
    assert (made.core_type, made.threads) == (host.clusters[0].core_type, 3)


def test_a_slow_core_with_instructions_of_its_own_does_not_decide():
    slow = LITTLE.model_copy(update={"features": (*LITTLE.features, "+i8mm"), "name": "slow"})
    assert common_cluster([BIG, slow], "aarch64") == BIG


def test_where_each_core_has_instructions_of_its_own_those_of_all_are_used():
    old = BIG.model_copy(
        update={"core_type": "cortex-a72", "name": "old", "features": ("+neon", "+i8mm"), "simd_registers": 24}
    )
    common = common_cluster([BIG, old], "aarch64")
    assert common.core_type == "generic"
    assert "+neon" in common.features
    assert not {"+i8mm", "+dotprod", "+lse"} & set(common.features)
    assert common.simd_registers == 24
