"""``--target``: texts of older TVM, JSON, files, options of their own, and what cannot be compiled for."""

import json

import pytest
from tvm.target import TargetKind

from cospipe.backends.tvm.tvmc.target_text import TargetText, read_targets
from cospipe.backends.tvm.tvmc.targets import choose_target
from cospipe.ir.errors import UsageError
from cospipe.ir.soc import load_soc
from cospipe.tvmc.shared_arguments import LLVM_OPTIONS

ARM = "llvm -mtriple=aarch64-linux-gnu"


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("llvm", [("llvm", {})]),
        ("llvm -mcpu=cortex-a72 -mattr=+neon,+crc", [("llvm", {"mcpu": "cortex-a72", "mattr": "+neon,+crc"})]),
        ("opencl -device=mali, llvm -mcpu=a", [("opencl", {"device": "mali"}), ("llvm", {"mcpu": "a"})]),
        ("opencl,llvm", [("opencl", {}), ("llvm", {})]),
        ("""llvm -mattr="+a, +b" -model='my board'""", [("llvm", {"mattr": "+a, +b", "model": "my board"})]),
        ("llvm --fast-math -num-cores=4", [("llvm", {"fast-math": True, "num-cores": "4"})]),
        ("compute-library, llvm", [("compute-library", {}), ("llvm", {})]),
        ('{"kind": "llvm", "num-cores": 4}', [("llvm", {"num-cores": 4})]),
        ('{"kind": "llvm", "host": {"kind": "c"}}', [("llvm", {}), ("c", {})]),
    ],
)
def test_texts(text, targets):
    assert read_targets(text) == [TargetText(kind, options) for kind, options in targets]


@pytest.mark.parametrize(
    "text", ["", ",", "llvm,", "llvm llvm", "-mcpu=a", 'llvm -mattr="+a', "llvm -mcpu= x", "{", "{}"]
)
def test_unreadable_texts(text):
    with pytest.raises(UsageError, match="target"):
        read_targets(text)


def test_target_from_a_file(tmp_path):
    file = tmp_path / "target.json"
    file.write_text(json.dumps({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}))
    assert choose_target(str(file)).core_type == "cortex-a72"


def test_options_of_their_own_take_precedence():
    chosen = choose_target(f"{ARM} -mcpu=cortex-a55", {"llvm": {"mcpu": "cortex-a72", "num-cores": 2}})
    assert (chosen.core_type, chosen.threads, chosen.core.cores) == ("cortex-a72", 2, 2)
    assert str(chosen.target.attrs["mcpu"]) == "cortex-a72"


def test_known_core_has_the_caches_of_a_described_chip():
    cluster = load_soc("raspberry-pi-4").clusters[0]
    chosen = choose_target(f"{ARM} -mcpu={cluster.core_type} -mattr=+neon")
    assert chosen.core.architecture == "aarch64"
    assert chosen.core.l1_bytes == cluster.l1d_kib * 1024
    assert [str(feature) for feature in chosen.target.attrs["mattr"]] == ["+neon"]


def test_this_machine_is_the_default():
    host = load_soc("host")
    chosen = choose_target(None)
    assert (chosen.core_type, chosen.threads) == (host.clusters[0].core_type, host.clusters[0].cores)
    assert choose_target("llvm").threads == host.clusters[0].cores


@pytest.mark.parametrize(
    ("core", "simd_bytes", "registers"), [("x86-64", 16, 16), ("haswell", 32, 16), ("skylake-avx512", 64, 32)]
)
def test_vectors_follow_from_the_instructions_of_an_x86_core(core, simd_bytes, registers):
    chosen = choose_target(f"llvm -mtriple=x86_64-linux-gnu -mcpu={core}")
    assert (chosen.core.simd_bytes, chosen.core.registers) == (simd_bytes, registers)


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("opencl, llvm", {}, "CPUs only, not for opencl"),
        ("llvm, llvm", {}, "named twice"),
        ("lvm", {}, "Did you mean llvm"),
        ("compute-library, llvm", {}, "no BYOC"),
        ("llvm", {"cuda": {"arch": "sm_70"}}, "--target-cuda-arch was given, but --target names no cuda"),
        ("llvm -mcp=a", {}, "'mcp'; Did you mean mcpu"),
        ("llvm -mcpu", {}, "mcpu needs a value"),
        ("llvm -num-cores=many", {}, "num-cores must be a whole number"),
        ("llvm -num-cores=0", {}, "at least one core"),
        ("llvm --fast-math=2", {}, "fast-math must be 0 or 1"),
        (f"{ARM} -mcpu=cortex-a999", {}, "no core 'cortex-a999'"),
        ("llvm -mtriple=x86_64-linux-gnu -mcpu=cortex-a72", {}, "for aarch64 add -mtriple=aarch64-linux-gnu"),
        (f"{ARM} -mattr=+neno", {}, "no feature 'neno'"),
        (f"{ARM} -mattr=neon", {}, "must begin with"),
        ("llvm -mtriple=armv7l-linux-gnueabihf", {}, "aarch64 or x86_64 only"),
        ("llvm -mtriple=aarch64-apple-darwin", {}, "aarch64 or x86_64 only"),
    ],
)
def test_what_cannot_be_compiled_for(text, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        choose_target(text, options)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UsageError) as told:
        choose_target("llvm -mcp=a -num-cores=many")
    assert "'mcp'" in str(told.value)
    assert "num-cores" in str(told.value)


def test_generated_options_are_those_of_tvm():
    internal = {"kind", "host", "from_device", "target_device_type"}
    assert set(LLVM_OPTIONS) == set(TargetKind.options_from_name("llvm")) - internal
