"""What a board must be to get work, and what is wrong with one that is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tvm.target import Target

from cospipe.ir.cores import ARM_FEATURES, ARM_PARTS, X86_LEVELS, CpuInfo, describe_core
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Soc
from cospipe.ir.sysfs import parse_cpu_list, parse_processors

_X86_NAMES = [level.core.core_type for level in X86_LEVELS]
_X86_FLAGS = frozenset(flag for level in X86_LEVELS for flag in level.flags)


@dataclass(frozen=True)
class BoardRequirement:
    """What the boards of a farm are used for.

    Parameters
    ----------
    architecture : str
        ``x86_64`` or ``aarch64``.
    core_types : mapping of int to str
        Type of every core that is used, by Linux's number.
    core_type : str
        Where no numbers are known: type of the cores that are used; empty when any will do.
    cores : int
        Where no numbers are known: how many of them.
    features : tuple of str
        LLVM features that these cores must have, ``+dotprod``.
    """

    architecture: str
    core_types: Mapping[int, str]
    core_type: str = ""
    cores: int = 1
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoardFacts:
    """What a board says of itself.

    Parameters
    ----------
    name : str
        Of the board or its processor; empty when it does not tell.
    processors : mapping of int to mapping
        The lines of ``/proc/cpuinfo`` by core.
    online : frozenset of int
        Cores that are switched on.
    tvm_version : str
        Of its libraries; empty when they are not of a wheel.
    reference_us : float
        What a fixed piece of arithmetic takes.
    """

    name: str
    processors: Mapping[int, CpuInfo]
    online: frozenset[int]
    tvm_version: str
    reference_us: float


def soc_requirement(soc: Soc, configurations: Iterable[CoreConfiguration]) -> BoardRequirement:
    """Return what a board must be to stand for a chip, as far as some of its core configurations go."""
    used = [(soc.cluster(c.cluster), c.cores) for c in configurations]
    core_types = {cpu: cluster.core_type for cluster, cores in used for cpu in cluster.cpu_ids[:cores]}
    features = dict.fromkeys(feature for cluster, _ in used for feature in cluster.features)
    return BoardRequirement(soc.architecture, core_types, features=tuple(features))


def target_requirement(target: Target, cores: int = 1) -> BoardRequirement:
    """Return what a board must be to run code for a target of TVM."""
    attributes = target.attrs
    architecture = str(attributes.get("mtriple", "x86_64")).split("-")[0]
    core_type = str(attributes.get("mcpu", ""))
    features = tuple(map(str, attributes.get("mattr", ())))
    return BoardRequirement(architecture, {}, "" if core_type == "generic" else core_type, cores, features)


def read_facts(read: Callable[[str], str], name: str, tvm_version: str, reference_us: float) -> BoardFacts:
    """Return the facts of a board whose files ``read`` returns."""
    processors = parse_processors(read("/proc/cpuinfo"))
    online = parse_cpu_list(read("/sys/devices/system/cpu/online")) or frozenset(processors)
    return BoardFacts(name, processors, online, tvm_version, reference_us)


def usable_cores(facts: BoardFacts, requirement: BoardRequirement) -> tuple[int, ...]:
    """Return the numbers of the cores to use, as many as are wanted; fewer where the board lacks some."""
    if requirement.core_types:
        return tuple(cpu for cpu in requirement.core_types if cpu in facts.online)
    fitting = [cpu for cpu in sorted(facts.online) if not _core_problem(cpu, facts, requirement, requirement.core_type)]
    return tuple(fitting[: requirement.cores])


def board_problems(facts: BoardFacts, requirement: BoardRequirement, tvm_version: str) -> list[str]:
    """Return what keeps a board from getting work, a phrase each; empty when it fits."""
    problems = []
    if facts.tvm_version and facts.tvm_version != tvm_version:
        problems.append(f"it has TVM {facts.tvm_version}, here it is {tvm_version}")
    if not requirement.core_types:
        return problems + _problems_of_any_cores(facts, requirement)
    if missing := sorted(set(requirement.core_types) - facts.online):
        problems.append(f"it has no cpu {_listed(missing)}, or not switched on")
    present = [(cpu, core_type) for cpu, core_type in requirement.core_types.items() if cpu in facts.online]
    found = [_core_problem(cpu, facts, requirement, core_type) for cpu, core_type in present]
    return problems + [f"cpu {cpu} {problem}" for (cpu, _), problem in zip(present, found, strict=True) if problem]


def _problems_of_any_cores(facts: BoardFacts, requirement: BoardRequirement) -> list[str]:
    found = len(usable_cores(facts, requirement))
    if found >= requirement.cores:
        return []
    problems = [_core_problem(cpu, facts, requirement, requirement.core_type) for cpu in sorted(facts.online)]
    reasons = "; ".join(dict.fromkeys(filter(None, problems)))
    wanted = requirement.core_type or requirement.architecture
    return [
        f"it has {found} cores of {wanted}, wanted are {requirement.cores}"
        + (f" (a core {reasons})" if reasons else "")
    ]


def _core_problem(cpu: int, facts: BoardFacts, requirement: BoardRequirement, core_type: str) -> str:
    """Return what is wrong with a core, as the rest of a sentence; empty when nothing is, or nobody can tell."""
    info = facts.processors.get(cpu, {})
    if not info:
        return ""
    core = describe_core(requirement.architecture, info)
    if requirement.architecture == "x86_64":
        return _x86_problem(info, core.core_type, core_type, requirement.features)
    if core_type in ARM_PARTS.values() and core.core_type != core_type:
        known = core.core_type if core.core_type != "generic" else f"of part {info.get('CPU part', 'unknown')}"
        return f"is {known}, not {core_type}"
    missing = [f for f in requirement.features if f in ARM_FEATURES.values() and f not in core.features]
    return f"lacks {_listed(missing)}" if missing else ""


def _x86_problem(info: CpuInfo, has: str, wanted: str, features: Sequence[str]) -> str:
    # levels are listed from the highest down
    if wanted in _X86_NAMES and _X86_NAMES.index(has) > _X86_NAMES.index(wanted):
        return f"reaches {has}, not {wanted}"
    flags = set(info.get("flags", "").split())
    wanted_flags = [f[1:].replace(".", "_") for f in features if f.startswith("+")]
    missing = [flag for flag in wanted_flags if flag in _X86_FLAGS and flag not in flags]
    return f"lacks {_listed(missing)}" if missing else ""


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
