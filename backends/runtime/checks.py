"""Whether a bundle runs on this machine."""

from __future__ import annotations

import platform
from pathlib import Path

from cospipe.backends.runtime.tvm_runtime import compatible_version, runtime_version
from cospipe.ir.errors import BundleError, several
from cospipe.ir.manifest import Manifest
from cospipe.ir.plan_support import cannot_run


def check_runs_here(manifest: Manifest, path: Path) -> None:
    """Check that this machine can run a bundle; ``path`` is what errors call it.

    Raises
    ------
    BundleError
        When it was made for another architecture or TVM version, or its plan is of a kind that cannot be run;
        everything is said.
    """
    problems = cannot_run(manifest.plan)
    if manifest.architecture != platform.machine():
        problems.append(
            f"it was compiled for {manifest.architecture}, this machine is {platform.machine()}; run it on the"
            f" board, or check it here with: cospipe verify {path} --emulate"
        )
    if compatible_version(manifest.tvm_version) != runtime_version():
        problems.append(
            f"it was compiled with TVM {manifest.tvm_version}, installed is {runtime_version()}; compile it again or "
            f"install apache-tvm {compatible_version(manifest.tvm_version)}"
        )
    if problems:
        raise BundleError(several("This bundle does not run here", problems))
