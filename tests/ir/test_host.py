from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cospipe.ir.bandwidth import copy_rates_gb_per_s
from cospipe.ir.cores import ARM_PARTS, X86_LEVELS
from cospipe.ir.errors import SocError
from cospipe.ir.host import host_soc
from cospipe.ir.soc import Soc, load_soc

V2 = "fpu sse sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"
ARMV8_2 = "fp asimd aes crc32 atomics fphp asimdhp asimddp"

A76 = {"CPU implementer": "0x41", "CPU part": "0xd0b", "Features": ARMV8_2}
A55 = {"CPU implementer": "0x41", "CPU part": "0xd05", "Features": ARMV8_2}
A72 = {"CPU implementer": "0x41", "CPU part": "0xd08", "Features": "fp asimd evtstrm aes crc32"}


@dataclass
class Machine:
    """A copy of the files that Linux shows of a machine, in a folder of the test's own."""

    folder: Path

    def add(self, cpu: int, info: dict[str, str], files: dict[str, str] | None = None) -> None:
        for name, text in (files or {}).items():
            file = self.folder / "sys/devices/system/cpu" / f"cpu{cpu}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        lines = "".join(f"{key}\t: {value}\n" for key, value in {"processor": str(cpu), **info}.items())
        with (self.folder / "cpuinfo").open("a") as cpuinfo:
            cpuinfo.write(lines + "\n")

    def describe(self, allowed_cpus: Sequence[int]) -> Soc:
        return host_soc(self.folder / "sys", self.folder / "cpuinfo", allowed_cpus)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch) -> Machine:
    # CPU n copies 10 + n GB/s, so that nothing depends on the machine that runs the test.
    monkeypatch.setattr("cospipe.ir.host.copy_rates_gb_per_s", lambda cpu_ids: {cpu: 10.0 + cpu for cpu in cpu_ids})
    return Machine(tmp_path)


@pytest.fixture
def uname(monkeypatch):
    return lambda machine: monkeypatch.setattr(platform, "machine", lambda: machine)


def cache_files(l1d: str, l2: str, l2_shared_by: str, l3: str = "") -> dict[str, str]:
    files = {
        "cache/index0/level": "1", "cache/index0/type": "Data", "cache/index0/size": l1d,
        "cache/index1/level": "1", "cache/index1/type": "Instruction", "cache/index1/size": "48K",
        "cache/index2/level": "2", "cache/index2/type": "Unified", "cache/index2/size": l2,
        "cache/index2/shared_cpu_list": l2_shared_by,
    }  # fmt: skip
    if l3:
        files |= {"cache/index3/level": "3", "cache/index3/type": "Unified", "cache/index3/size": l3}
    return files


def add_rk3588(machine: Machine) -> None:
    # The second pair of A76 got a lower top clock from its binning, as real chips have it.
    for cpu in range(8):
        capacity, khz = (414, 1800000) if cpu < 4 else (1024, 2400000) if cpu < 6 else (1004, 2352000)
        files = {
            "cpu_capacity": str(capacity),
            "cpufreq/scaling_available_frequencies": f"408000 1008000 {khz} ",
            **cache_files("32K" if cpu < 4 else "64K", "128K" if cpu < 4 else "512K", str(cpu), "3072K"),
        }
        machine.add(cpu, A55 if cpu < 4 else A76, files)


def test_big_little(machine, uname):
    uname("aarch64")
    add_rk3588(machine)
    soc = machine.describe(range(8))
    big, little = soc.clusters
    assert (soc.name, soc.architecture) == ("host", "aarch64")
    assert (big.name, big.core_type, big.cpu_ids) == ("big", "cortex-a76", (4, 5, 6, 7))
    assert (little.name, little.core_type, little.cpu_ids) == ("little", "cortex-a55", (0, 1, 2, 3))
    assert (big.capacity, little.capacity) == (1024, 414)
    assert big.clock_mhz == (408, 1008, 2400)
    assert (big.l1d_kib, big.l2_kib, big.l2_shared, big.l3_kib) == (64, 512, False, 3072)
    assert (big.simd_bytes, big.simd_registers) == (16, 32)
    assert set(big.features) == {"+neon", "+dotprod", "+fullfp16"}
    assert big.flop_per_cycle > little.flop_per_cycle
    assert (big.memory_bandwidth_gb_per_s[0], little.memory_bandwidth_gb_per_s[0]) == (14, 10)


def test_only_what_is_not_told_is_estimated(machine, uname):
    uname("aarch64")
    add_rk3588(machine)
    scaling = ("kernel_efficiency", "memory_bandwidth_gb_per_s", "parallel_efficiency")
    assert set(machine.describe(range(8)).estimated) == {
        "hand_over_us",
        "hand_over_gb_per_s",
        *(f"clusters.{name}.{key}" for name in ("big", "little") for key in scaling),
    }


def test_restricted_affinity(machine, uname):
    uname("aarch64")
    add_rk3588(machine)
    big, little = machine.describe([1, 4, 6]).clusters
    assert (big.cpu_ids, little.cpu_ids) == ((4, 6), (1,))
    (cpu,) = machine.describe([0, 2]).clusters
    assert (cpu.name, cpu.cpu_ids) == ("cpu", (0, 2))


def test_nothing_is_estimated_of_scaling_over_one_core(machine, uname):
    uname("aarch64")
    add_rk3588(machine)
    soc = machine.describe([7])
    assert (soc.clusters[0].parallel_efficiency, soc.clusters[0].memory_bandwidth_gb_per_s) == ((1.0,), (17.0,))
    assert set(soc.estimated) == {"hand_over_us", "hand_over_gb_per_s", "clusters.cpu.kernel_efficiency"}


def test_no_cpu_allowed(machine, uname):
    uname("aarch64")
    with pytest.raises(SocError, match="No CPU is allowed"):
        machine.describe([])


def test_clusters_by_clock_where_capacity_is_missing(machine, uname):
    uname("aarch64")
    # Cores of one type in clusters of different clocks; the kernel tells the highest only.
    for cpu in range(6):
        khz = "1500000" if cpu < 4 else "2000000"
        machine.add(cpu, A72, {"cpufreq/cpuinfo_max_freq": khz})
    big, little = machine.describe(range(6)).clusters
    assert (big.cpu_ids, big.clock_mhz, big.capacity) == ((4, 5), (2000,), None)
    assert (little.cpu_ids, little.clock_mhz) == ((0, 1, 2, 3), (1500,))


def test_clusters_by_core_type_where_nothing_else_is_told(machine, uname):
    uname("aarch64")
    for cpu in range(4):
        machine.add(cpu, A55 if cpu < 2 else A76)
    big, little = machine.describe(range(4)).clusters
    assert (big.cpu_ids, little.cpu_ids) == ((2, 3), (0, 1))


def test_three_clusters(machine, uname):
    uname("aarch64")
    qualcomm = {"CPU implementer": "0x51", "Features": ARMV8_2}
    for cpu, capacity in enumerate((306, 306, 306, 306, 871, 871, 871, 1024)):
        part = "0x805" if cpu < 4 else "0x804"
        machine.add(cpu, {**qualcomm, "CPU part": part}, {"cpu_capacity": str(capacity)})
    clusters = machine.describe(range(8)).clusters
    assert [(c.name, c.core_type, c.cpu_ids) for c in clusters] == [
        ("prime", "cortex-a76", (7,)),
        ("big", "cortex-a76", (4, 5, 6)),
        ("little", "cortex-a55", (0, 1, 2, 3)),
    ]


def test_four_clusters_have_names_of_their_own(machine, uname):
    uname("aarch64")
    for cpu, capacity in enumerate((200, 500, 800, 1024)):
        machine.add(cpu, A76, {"cpu_capacity": str(capacity)})
    clusters = machine.describe(range(4)).clusters
    assert [(c.name, c.cpu_ids) for c in clusters] == [("prime", (3,)), ("big", (2,)), ("big2", (1,)), ("little", (0,))]


def test_container_without_cpufreq(machine, uname):
    uname("x86_64")
    for cpu, mhz in ((0, "2596.140"), (1, "800.000")):  # one is idle
        info = {"model name": "AMD EPYC", "cpu MHz": mhz, "flags": V4}
        machine.add(cpu, info, {"cpu_capacity": "1024", **cache_files("32K", "1M", str(cpu), "32768K")})
    soc = machine.describe([0, 1])
    (cpu,) = soc.clusters
    assert (soc.title, soc.architecture) == ("AMD EPYC", "x86_64")
    assert (cpu.name, cpu.core_type, cpu.cpu_ids) == ("cpu", "x86-64-v4", (0, 1))
    assert (cpu.clock_mhz, cpu.simd_bytes, cpu.simd_registers) == ((2596.14,), 64, 32)
    assert (cpu.l1d_kib, cpu.l2_kib, cpu.l2_shared, cpu.l3_kib) == (32, 1024, False, 32768)
    assert {"clusters.cpu.clock_mhz", "clusters.cpu.flop_per_cycle"} <= set(soc.estimated)


def test_machine_that_tells_nothing(machine, uname):
    uname("x86_64")
    soc = machine.describe([0, 1])
    (cpu,) = soc.clusters
    assert (cpu.core_type, cpu.cpu_ids, cpu.simd_bytes) == ("x86-64", (0, 1), 16)
    told = {"name", "core_type", "cores", "cpu_ids", "simd_bytes", "simd_registers", "features"}
    optional = {"capacity", "dynamic_power_uw_per_mhz_v2", "core_power_mw"}
    assert {key.split(".")[-1] for key in soc.estimated if key.startswith("clusters.")} == (
        set(type(cpu).model_fields) - told - optional
    )


def test_files_that_make_no_sense_count_as_silence(machine, uname):
    uname("aarch64")
    files = {
        "cpu_capacity": "many",
        "cpufreq/scaling_available_frequencies": "<unknown>",
        **cache_files("32KB", "?", "0-x"),
        "topology/thread_siblings_list": "",
    }
    machine.add(0, {**A72, "CPU part": "0xzz", "cpu MHz": "fast"}, files)
    (cpu,) = machine.describe([0]).clusters
    assert (cpu.core_type, cpu.capacity, cpu.l1d_kib, cpu.l2_kib) == ("generic", None, 32, 512)


@pytest.mark.parametrize(("siblings", "kept"), [(("0,2", "1,3"), (0, 1)), (("0-1", "2-3"), (0, 2))])
def test_one_cpu_of_hyper_threads(machine, uname, siblings, kept):
    uname("x86_64")
    for cpu in range(4):
        (group,) = [group for group in siblings if str(cpu) in group]
        files = {"topology/thread_siblings_list": group, **cache_files("32K", "1M", group)}
        machine.add(cpu, {"flags": V3}, files)
    (cluster,) = machine.describe(range(4)).clusters
    assert cluster.cpu_ids == kept
    assert not cluster.l2_shared  # by hardware threads only, not by cores


def test_a_sibling_that_is_not_allowed_hides_nobody(machine, uname):
    uname("x86_64")
    for cpu in range(2):
        machine.add(cpu, {"flags": V3}, {"topology/thread_siblings_list": "0-1"})
    assert machine.describe([1]).clusters[0].cpu_ids == (1,)


def test_shared_l2(machine, uname):
    uname("aarch64")
    for cpu in range(4):
        machine.add(cpu, A72, cache_files("32K", "1024K", "0-3"))
    soc = machine.describe(range(4))
    assert (soc.clusters[0].l2_kib, soc.clusters[0].l2_shared, soc.clusters[0].l3_kib) == (1024, True, 0)
    assert not [key for key in soc.estimated if key.endswith("kib") or key.endswith("shared")]


def test_armv7(machine, uname):
    uname("armv7l")
    features = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt"
    for cpu in range(8):
        part = "0xc07" if cpu < 4 else "0xc0f"
        machine.add(cpu, {"CPU implementer": "0x41", "CPU part": part, "Features": features})
    soc = machine.describe(range(8))
    big, little = soc.clusters
    assert (soc.architecture, big.core_type, little.core_type) == ("armv7", "cortex-a15", "cortex-a7")
    assert (big.simd_registers, big.features) == (16, ("+neon", "+vfp4"))


@pytest.mark.parametrize(
    ("flags", "core_type", "simd_bytes"),
    [
        ("fpu sse sse2", "x86-64", 16),
        (V2, "x86-64-v2", 16),
        (V3, "x86-64-v3", 32),
        (V3.replace(" fma", ""), "x86-64-v2", 16),
        (V4, "x86-64-v4", 64),
        (f"{V3} avx512f", "x86-64-v3", 32),
        (f"{V2} avx512f avx512bw avx512cd avx512dq avx512vl", "x86-64-v2", 16),
    ],
)
def test_level_of_x86(machine, uname, flags, core_type, simd_bytes):
    uname("x86_64")
    machine.add(0, {"flags": flags})
    (cpu,) = machine.describe([0]).clusters
    assert (cpu.core_type, cpu.simd_bytes) == (core_type, simd_bytes)


def test_board_of_the_device_tree_is_the_title(machine, uname):
    uname("aarch64")
    machine.add(0, A76)
    model = machine.folder / "sys/firmware/devicetree/base/model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    assert machine.describe([0]).title == "Raspberry Pi 5 Model B Rev 1.0"


def test_unknown_architecture_is_told_in_a_sentence(uname, monkeypatch):
    uname("riscv64")
    with pytest.raises(SocError, match=r"This machine is 'riscv64'; only Linux on aarch64, armv7l, x86_64"):
        host_soc()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(SocError, match="This machine is 'Darwin'"):
        host_soc()


def test_llvm_knows_every_core_a_host_can_have():
    from tvm.target import Target, codegen

    def known(triple: str) -> set[str]:
        return {str(cpu) for cpu in codegen.llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": triple}))}

    assert {*ARM_PARTS.values(), "generic"} <= known("aarch64-linux-gnu") | known("armv7l-linux-gnueabihf")
    assert {level.core.core_type for level in X86_LEVELS} <= known("x86_64-linux-gnu")


def test_this_machine():
    soc = load_soc("host")
    cpu_ids = {cpu for cluster in soc.clusters for cpu in cluster.cpu_ids}
    assert cpu_ids
    assert cpu_ids <= os.sched_getaffinity(0)
    assert all(cluster.memory_bandwidth_gb_per_s[0] > 0.05 for cluster in soc.clusters)


def test_measured_bandwidth_leaves_the_affinity_alone_and_is_remembered():
    before = os.sched_getaffinity(0)
    missing = 4096  # no machine here has so many CPUs: the system chooses one instead
    rates = copy_rates_gb_per_s((min(before), missing))
    assert os.sched_getaffinity(0) == before
    assert all(0.05 < rate < 1000 for rate in rates.values())
    assert copy_rates_gb_per_s((min(before), missing)) is rates
