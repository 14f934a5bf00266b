"""Targets by the cores of a described chip: ``hikey970:big:4`` says more than a target string can.

Beside what LLVM must know, the description of a chip has the caches and the memory bandwidth that kernels are made for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cospipe.backends.tvm.replica_target import ReplicaTarget, replica_target
from cospipe.backends.tvm.target import check_can_bundle
from cospipe.ir.errors import UsageError
from cospipe.ir.plan import CoreConfiguration, Replica, Sharing
from cospipe.ir.soc import Soc, load_soc

_CLUSTER = r"[^:+,\s]+:\d+"
_CORES = re.compile(rf"(?P<soc>.+?):(?P<cores>{_CLUSTER}(?:\+{_CLUSTER})*)(?: (?P<sharing>equal|by-speed))?")


@dataclass(frozen=True)
class NamedCores:
    """Cores of a chip that share every kernel, written ``hikey970:big:4`` or ``board.toml:big:4+little:4 by-speed``.

    Parameters
    ----------
    soc : str
        Name of the chip, or a file that describes it.
    cores : tuple of CoreConfiguration
        How many of which cluster.
    sharing : str
        How cores of several clusters share a kernel: ``equal`` parts, or ``by-speed``.
    """

    soc: str
    cores: tuple[CoreConfiguration, ...]
    sharing: Sharing = "equal"

    @classmethod
    def parse(cls, text: str) -> NamedCores:
        """Read the text form.

        Raises
        ------
        UsageError
            When the text has another form.
        """
        match = _CORES.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"{text!r} does not name cores of a chip; write SOC:CLUSTER:NUMBER, for example hikey970:big:4, or"
                " 'hikey970:big:4+little:4 by-speed'."
            )
        cores = tuple(CoreConfiguration.parse(part) for part in match["cores"].split("+"))
        return cls(match["soc"], cores, match["sharing"] or "equal")  # type: ignore[arg-type]

    @classmethod
    def of(cls, soc: str, replica: Replica) -> NamedCores:
        """Return the cores of a replica of a stage on a chip, which is given by name or file."""
        return cls(soc, replica.cores, replica.sharing)

    def __str__(self) -> str:
        cores = "+".join(map(str, self.cores))
        return f"{self.soc}:{cores} {self.sharing}" if len(self.cores) > 1 else f"{self.soc}:{cores}"


def cores_target(text: str, target: Mapping[str, Any] | None = None) -> ReplicaTarget:
    """Return what to compile a library for that runs on some cores of a chip.

    Parameters
    ----------
    text : str
        The cores, as :class:`NamedCores` writes them.
    target : mapping, optional
        What the user says of the target besides, see :func:`machine_for`.

    Raises
    ------
    UsageError
        When the text, the chip or a cluster is wrong, or the target contradicts the chip.
    """
    named = NamedCores.parse(text)
    soc = load_soc(named.soc)
    machine = machine_for(soc, target)
    for part in named.cores:
        available = soc.cluster(part.cluster).cores
        if part.cores > available:
            raise UsageError(f"{soc.name} has {available} cores {part.cluster}, not {part.cores}.")
    replica = Replica(cores=named.cores, compute_us=0, sharing=named.sharing)
    return replica_target(replica, soc, machine)


def machine_for(soc: Soc, target: Mapping[str, Any] | None = None) -> Soc:
    """Return the chip to compile for: the one that is planned for, unless the target is this machine.

    Parameters
    ----------
    soc : Soc
        The planned chip.
    target : mapping, optional
        A TVM target as the user wrote it. ``llvm`` alone is this machine; ``-mtriple`` may say again what the chip is.

    Raises
    ------
    UsageError
        When the target says what the clusters of the chip decide, or is none that can be compiled for.
    """
    said = dict(target or {})
    if (kind := said.pop("kind", "llvm")) != "llvm":
        raise UsageError(f"The cores of {soc.name} are compiled for with llvm, not with the target {kind}.")
    triple = str(said.pop("mtriple", "") or "")
    if said:
        options = ", ".join(f"-{name}" for name in sorted(said))
        raise UsageError(f"The cores of {soc.name} decide {options}; leave that out of --target.")
    if triple and triple.split("-")[0] != soc.architecture:
        raise UsageError(f"{soc.name} is an {soc.architecture} chip, the target is for {triple}; leave --target out.")
    machine = load_soc("host") if target is not None and not triple else soc
    check_can_bundle(machine)
    return machine
