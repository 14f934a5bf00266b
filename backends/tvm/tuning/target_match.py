"""Which targets may share tuned kernels: a kernel that is fast on one core says nothing of another."""

from __future__ import annotations

from tvm.target import Target

TargetText = str


def target_text(target: Target) -> TargetText:
    """Return what decides how fast a kernel is: architecture, core, features and the number of cores.

    Two targets with the same text may share kernels, whatever else was said of them (an ABI, a tag). LLVM's options
    for the order of instructions belong to the core: for some cores they are the only thing that names them.
    """
    attributes = target.attrs
    architecture = str(attributes.get("mtriple", "")).split("-")[0]
    features = ",".join(sorted(str(feature) for feature in attributes.get("mattr", ())))
    core = str(attributes.get("mcpu", "generic"))
    options = " ".join(map(str, attributes.get("cl-opt", ())))
    core = f"{core} {options}".strip()
    return f"{target.kind.name} {architecture} {core} [{features}] {int(attributes.get('num-cores', 1))} core(s)"
