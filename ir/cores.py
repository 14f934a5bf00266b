"""What is known of a core from its name: vector unit, peak, and what LLVM calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CpuInfo = Mapping[str, str]
"""The lines of one processor in ``/proc/cpuinfo``."""

ARM, QUALCOMM = 0x41, 0x51

# Implementer and part number (MIDR_EL1, "CPU implementer" and "CPU part" in /proc/cpuinfo) to LLVM's name.
ARM_PARTS = {
    (ARM, 0xC05): "cortex-a5",
    (ARM, 0xC07): "cortex-a7",
    (ARM, 0xC08): "cortex-a8",
    (ARM, 0xC09): "cortex-a9",
    (ARM, 0xC0D): "cortex-a12",
    (ARM, 0xC0E): "cortex-a17",
    (ARM, 0xC0F): "cortex-a15",
    (ARM, 0xD03): "cortex-a53",
    (ARM, 0xD04): "cortex-a35",
    (ARM, 0xD05): "cortex-a55",
    (ARM, 0xD07): "cortex-a57",
    (ARM, 0xD08): "cortex-a72",
    (ARM, 0xD09): "cortex-a73",
    (ARM, 0xD0A): "cortex-a75",
    (ARM, 0xD0B): "cortex-a76",
    (ARM, 0xD0C): "neoverse-n1",
    (ARM, 0xD0D): "cortex-a77",
    (ARM, 0xD0E): "cortex-a76ae",
    (ARM, 0xD40): "neoverse-v1",
    (ARM, 0xD41): "cortex-a78",
    (ARM, 0xD42): "cortex-a78ae",
    (ARM, 0xD44): "cortex-x1",
    (ARM, 0xD46): "cortex-a510",
    (ARM, 0xD47): "cortex-a710",
    (ARM, 0xD48): "cortex-x2",
    (ARM, 0xD49): "neoverse-n2",
    (ARM, 0xD4B): "cortex-a78c",
    (ARM, 0xD4D): "cortex-a715",
    (ARM, 0xD4E): "cortex-x3",
    (ARM, 0xD4F): "neoverse-v2",
    (ARM, 0xD80): "cortex-a520",
    (ARM, 0xD81): "cortex-a720",
    # Kryo 2xx to 4xx derive from ARM's cores.
    (QUALCOMM, 0x800): "cortex-a73",
    (QUALCOMM, 0x801): "cortex-a53",
    (QUALCOMM, 0x802): "cortex-a75",
    (QUALCOMM, 0x803): "cortex-a55",
    (QUALCOMM, 0x804): "cortex-a76",
    (QUALCOMM, 0x805): "cortex-a55",
}

# FP32 operations a cycle (github.com/hiroog/vfpbench, github.com/pigirons/cpufp, wlog.flatlib.jp), and the share of
# them that libraries' convolutions reach without Winograd (docs/adding-a-board.md says how that was found).
KNOWN_CORES = {
    "cortex-a7": (1.9, 0.70),
    "cortex-a15": (8.0, 0.53),
    "cortex-a53": (7.7, 0.46),
    "cortex-a55": (7.7, 0.42),
    "cortex-a72": (8.0, 0.83),
    "cortex-a73": (8.0, 0.70),
    "cortex-a75": (8.0, 0.66),
    "cortex-a76": (16.0, 0.61),
    "cortex-a78": (14.1, 0.61),
}
UNKNOWN_ARM_CORE = (8.0, 0.6)  # one 128-bit multiply-add a cycle

# Flag in /proc/cpuinfo to LLVM's feature. AArch64 says asimd where ARMv7 says neon.
ARM_FEATURES = {
    "asimd": "+neon",
    "neon": "+neon",
    "vfpv4": "+vfp4",
    "asimddp": "+dotprod",
    "asimdhp": "+fullfp16",
}


@dataclass(frozen=True)
class Core:
    """One core as the compiler sees it.

    Parameters
    ----------
    core_type : str
        LLVM's name, fit for ``mcpu``.
    simd_bytes, simd_registers : int
        Width of a vector register, and how many there are.
    flop_per_cycle : float
        FP32 peak; a multiply-add counts as two.
    kernel_efficiency : float
        Share of that peak which convolutions reach on one core.
    measured : bool
        Whether somebody measured that peak on this type of core.
    features : tuple of str
        LLVM target features beyond those of the type.
    """

    core_type: str
    simd_bytes: int
    simd_registers: int
    flop_per_cycle: float
    kernel_efficiency: float = 1.0
    measured: bool = False
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class _X86Level:
    """A micro-architecture level of the x86-64 psABI; each includes the flags of those below it."""

    flags: frozenset[str]
    core: Core


# Peaks: two vector units up to AVX2; with AVX-512 one, as Zen 4 and small Intel cores have it.
X86_LEVELS = (
    _X86Level(
        frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
        Core("x86-64-v4", simd_bytes=64, simd_registers=32, flop_per_cycle=32.0),
    ),
    _X86Level(
        frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
        Core("x86-64-v3", simd_bytes=32, simd_registers=16, flop_per_cycle=32.0),
    ),
    _X86Level(
        frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}),
        Core("x86-64-v2", simd_bytes=16, simd_registers=16, flop_per_cycle=8.0),
    ),
    _X86Level(frozenset(), Core("x86-64", simd_bytes=16, simd_registers=16, flop_per_cycle=8.0)),
)


def describe_core(architecture: str, info: CpuInfo) -> Core:
    """Describe a core from its lines in ``/proc/cpuinfo``.

    Parameters
    ----------
    architecture : str
        ``"x86_64"``, ``"aarch64"`` or ``"armv7"``.
    info : mapping of str to str
        What ``/proc/cpuinfo`` says of this core; whatever is missing is taken for absent.
    """
    return _x86_core(info) if architecture == "x86_64" else _arm_core(architecture, info)


def _x86_core(info: CpuInfo) -> Core:
    flags = set(info.get("flags", "").split())
    reached = len(X86_LEVELS) - 1
    while reached > 0 and X86_LEVELS[reached - 1].flags <= flags:
        reached -= 1
    return X86_LEVELS[reached].core


def _arm_core(architecture: str, info: CpuInfo) -> Core:
    core_type = ARM_PARTS.get((_number(info, "CPU implementer"), _number(info, "CPU part")), "generic")
    flags = info.get("Features", "").split()
    flop_per_cycle, kernel_efficiency = KNOWN_CORES.get(core_type, UNKNOWN_ARM_CORE)
    return Core(
        core_type,
        simd_bytes=16,
        simd_registers=32 if architecture == "aarch64" else 16,
        flop_per_cycle=flop_per_cycle,
        kernel_efficiency=kernel_efficiency,
        measured=core_type in KNOWN_CORES,
        features=tuple(dict.fromkeys(feature for flag, feature in ARM_FEATURES.items() if flag in flags)),
    )


def _number(info: CpuInfo, key: str) -> int:
    try:
        return int(info.get(key, "0"), 0)
    except ValueError:
        return 0
