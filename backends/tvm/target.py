"""TVM targets and vector units from SoC descriptions: one cluster, one target."""

from __future__ import annotations

from tvm.target import Target

from cospipe.backends.tvm.tiling import VectorUnit
from cospipe.ir.errors import UsageError
from cospipe.ir.soc import Cluster, Soc

_TRIPLES = {"aarch64": "aarch64-linux-gnu", "x86_64": "x86_64-linux-gnu"}


def core_target(cluster: Cluster, cores: int, architecture: str) -> Target:
    """Return the target of a stage that runs on some cores of a cluster."""
    return Target(
        {
            "kind": "llvm",
            "mtriple": _TRIPLES[architecture],
            "mcpu": cluster.core_type,
            "mattr": list(cluster.features),
            "num-cores": cores,
        }
    )


def vector_unit(cluster: Cluster) -> VectorUnit:
    """Return the vector registers of a cluster's cores."""
    return VectorUnit(cluster.simd_bytes, cluster.simd_registers)


def check_can_bundle(soc: Soc) -> None:
    """Check that stages can be compiled for a chip.

    Raises
    ------
    UsageError
        When TVM has no runtime for its architecture.
    """
    if soc.architecture not in _TRIPLES:
        raise UsageError(
            f"{soc.name} is a 32-bit {soc.architecture} chip: it can be predicted and explored but not bundled,"
            " because TVM publishes no runtime wheel for armv7; compile for this machine instead with target host."
        )
