"""From the text of a target to TVM's target, and to what our kernels must know of its cores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from tvm.target import Target, TargetKind, codegen

from cospipe.backends.tvm.replica_target import ReplicaTarget
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.backends.tvm.tiling import Core
from cospipe.backends.tvm.tvmc.known_cores import cluster_of, host_cores
from cospipe.backends.tvm.tvmc.target_text import TargetText, read_targets
from cospipe.ir.errors import UsageError, nearest, several

_LLVM = "llvm"
_COMPOSITE = (
    *("compute-library", "cmsis-nn", "ethos-n", "ethos-u", "bnns", "vitis-ai", "clml", "mrvl", "dnnl", "tensorrt"),
    *("cutlass", "hhvm", "ccompiler"),
)
_ARCHITECTURES = {"aarch64": "aarch64", "arm64": "aarch64", "x86_64": "x86_64", "amd64": "x86_64"}
_TRIPLES = {"aarch64": "aarch64-linux-gnu", "x86_64": "x86_64-linux-gnu"}
_NOT_FOR_USERS = ("kind", "host", "from_device", "target_device_type")
_SWITCHES = {"0": False, "false": False, "1": True, "true": True}


@dataclass(frozen=True)
class _Wanted:
    """What was asked for: options of the target kind llvm with values as TVM has them."""

    options: dict[str, Any]
    architecture: str

    @property
    def core_type(self) -> str:
        """What LLVM calls the core."""
        return str(self.options.get("mcpu", "generic" if self.architecture == "aarch64" else "x86-64"))

    @property
    def is_for_host(self) -> bool:
        """Whether it is for this machine: no other one is named."""
        return "mtriple" not in self.options

    @property
    def features(self) -> tuple[str, ...]:
        """LLVM's features beyond those of the core."""
        return tuple(self.options.get("mattr", ()))


def choose_target(text: str | None, options: Mapping[str, Mapping[str, Any]] | None = None) -> ReplicaTarget:
    """Return what to compile for.

    Parameters
    ----------
    text : str, optional
        The text of ``--target``, see :func:`cospipe.backends.tvm.tvmc.target_text.read_targets`; this machine's fastest
        cores by default.
    options : mapping, optional
        Options by target kind and name that were given apart from the text, ``{"llvm": {"mcpu": "cortex-a72"}}``; they
        take precedence.

    Raises
    ------
    UsageError
        When the text cannot be read, a kind or an option does not exist, or we cannot compile for it; all problems
        are listed.
    """
    if text is None and not options:
        return host_cores()
    targets = read_targets(_LLVM if text is None else text)
    _check_kinds(targets, options or {})
    return _replica_target(_wanted(targets[0], (options or {}).get(_LLVM, {})))


def _replica_target(wanted: _Wanted) -> ReplicaTarget:
    cluster = cluster_of(wanted.core_type, wanted.features, wanted.architecture)
    available = host_cores().threads if wanted.is_for_host else cluster.cores
    threads = int(wanted.options.get("num-cores", available))
    if threads < 1:
        raise UsageError(f"num-cores is {threads}, but a kernel needs at least one core.")
    core = replace(kernel_core(cluster, min(threads, cluster.cores), wanted.architecture), cores=threads)
    if wanted.is_for_host:
        core = _with_caches_of(host_cores().core, core)
    # what LLVM is told of a core may be another type, for which it makes better code
    base = _settings(core_target(cluster, min(threads, cluster.cores), wanted.architecture))
    said = {name: value for name, value in wanted.options.items() if name != "mcpu"}
    target = Target({"kind": _LLVM, **base, **said, "num-cores": threads})
    return ReplicaTarget(wanted.core_type, threads, target, core, shares_by_speed=False)


def _with_caches_of(known: Core, core: Core) -> Core:
    return replace(
        core,
        l1_bytes=known.l1_bytes,
        l2_bytes=known.l2_bytes,
        memory_bytes_per_cycle=known.memory_bytes_per_cycle,
    )


def _settings(target: Target) -> dict[str, Any]:
    """Return what was set for a target; features that TVM derives are left out."""
    names = TargetKind.options_from_name(_LLVM)
    return {str(name): value for name, value in target.attrs.items() if name in names}


def _check_kinds(targets: list[TargetText], options: Mapping[str, Mapping[str, Any]]) -> None:
    problems = []
    kinds = [target.kind for target in targets]
    for kind in dict.fromkeys(kinds):
        if kind in _COMPOSITE:
            problems.append(f"{kind} is gone from TVM (it has no BYOC for CPUs any more); leave it out")
        elif kind not in Target.list_kinds():
            problems.append(f"there is no target kind {kind!r}; {nearest(kind, Target.list_kinds())}")
        elif kind != _LLVM:
            problems.append(f"this driver compiles for CPUs only, not for {kind}; use the target kind {_LLVM}")
        elif kinds.count(kind) > 1:
            problems.append(f"{kind} is named twice; a CPU is its own host, so name it once")
    problems += [
        f"--target-{kind}-{next(iter(values))} was given, but --target names no {kind}"
        for kind, values in options.items()
        if kind not in kinds
    ]
    if problems:
        raise UsageError(several("The target cannot be compiled for", problems))


def _wanted(target: TargetText, more: Mapping[str, Any]) -> _Wanted:
    types = {name: t for name, t in TargetKind.options_from_name(_LLVM).items() if name not in _NOT_FOR_USERS}
    given = {**target.options, **more}
    problems = [f"there is no option {name!r}; {nearest(name, types)}" for name in given if name not in types]
    known = {name: value for name, value in given.items() if name in types}
    problems += [f"{name} {reason}" for name, value in known.items() if (reason := _misfit(value, str(types[name])))]
    if problems:
        raise UsageError(several("The target has mistakes", problems))
    options = {name: _typed(value, str(types[name])) for name, value in known.items()}
    triple = str(options.get("mtriple", ""))
    architecture = _ARCHITECTURES.get(triple.partition("-")[0]) if triple else host_cores().core.architecture
    if architecture is None or (triple and "linux" not in triple):
        raise UsageError(f"The target's mtriple is {triple!r}, but packages run on Linux on aarch64 or x86_64 only.")
    wanted = _Wanted({name: options[name] for name in types if name in options}, architecture)
    _check_llvm_names(wanted)
    return wanted


def _check_llvm_names(wanted: _Wanted) -> None:
    """Check that LLVM knows the core and its features; it would go on with others."""
    triple = str(wanted.options.get("mtriple", _TRIPLES[wanted.architecture]))
    settings = {"kind": _LLVM, "mtriple": triple}
    problems = []
    if not codegen.llvm_is_valid_cpu(wanted.core_type, triple):
        advice = _other_architecture(wanted) or _suggestion(wanted.core_type, _known_cores(triple))
        problems.append(f"LLVM knows no core {wanted.core_type!r} for {triple}; {advice}")
    for feature in wanted.features:
        name = feature[1:]
        if feature[:1] not in ("+", "-"):
            problems.append(f"the feature {feature!r} must begin with + or -")
        elif name not in set(map(str, codegen.llvm_get_cpu_features(Target({**settings, "mattr": [f"+{name}"]})))):
            problems.append(f"LLVM knows no feature {name!r} for {triple}")
    if problems:
        raise UsageError(several("The target has mistakes", problems))


def _known_cores(triple: str) -> list[str]:
    return [str(core) for core in codegen.llvm_get_cpu_archlist(Target({"kind": _LLVM, "mtriple": triple}))]


def _other_architecture(wanted: _Wanted) -> str:
    """Return the advice to name the other architecture where the core, or one with almost its name, is of that."""
    for architecture, triple in _TRIPLES.items():
        if architecture != wanted.architecture and get_close_matches(wanted.core_type, _known_cores(triple), 1, 0.8):
            return f"for {architecture} add -mtriple={triple}"
    return ""


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else "leave it out for a generic one"


def _misfit(value: Any, type_name: str) -> str:
    """Return what is wrong with the value of an option, which may be text from a command line; empty if nothing is."""
    if type_name == "bool":
        return "" if str(value).lower() in _SWITCHES else "must be 0 or 1"
    if type_name == "int":
        is_number = not isinstance(value, bool) and str(value).lstrip("-").isdecimal()
        return "" if is_number else "must be a whole number"
    return "needs a value" if value in (True, "") else ""


def _typed(value: Any, type_name: str) -> Any:
    """Return the value of an option as TVM wants it."""
    if type_name.startswith("Array"):
        parts = value if isinstance(value, list) else str(value).replace(" ", "").split(",")
        return [str(part) for part in parts if part]
    if type_name == "bool":
        return _SWITCHES[str(value).lower()]
    return int(value) if type_name == "int" else str(value)
