"""Which plans the runtime can run; the others are explored and shown only."""

from __future__ import annotations

from cospipe.ir.plan import PipelinePlan, Replica

ACCELERATORS = ("gpu", "npu")
"""What plans call the accelerators of a chip, beside its clusters."""


def cannot_run(plan: PipelinePlan) -> list[str]:
    """Return why a plan cannot be run, a part of a sentence for each reason; nothing when it can."""
    reasons = (
        f"{stage.name} on {replica.text}: {reason}"
        for stage in plan.stages
        for replica in stage.replicas
        for reason in _reasons(replica)
    )
    return list(dict.fromkeys(reasons))


def _reasons(replica: Replica) -> list[str]:
    accelerators = [part.cluster for part in replica.cores if part.cluster in ACCELERATORS]
    return [f"stages are compiled for CPU cores, not for the {name.upper()}" for name in accelerators]
