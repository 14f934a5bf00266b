"""Checks a bundle's numbers against eager PyTorch: every stage by itself, then the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cospipe.backends.bundle import Bundle
from cospipe.backends.runtime.adapter_weights import Overrides, adapter_overrides
from cospipe.backends.runtime.checks import check_runs_here
from cospipe.backends.runtime.compare import relative_error
from cospipe.backends.runtime.stage import StageExecutable, as_tensor, to_numpy
from cospipe.ir.adapter_file import StoredAdapter
from cospipe.ir.errors import StageError, UsageError, VerificationError, first_line, several
from cospipe.ir.manifest import StageFiles
from cospipe.ir.tensor_file import Array

StageCall = Callable[[StageFiles, Mapping[str, Array]], dict[str, Array]]
"""Runs one build of a stage on arrays by value name."""


@dataclass(frozen=True)
class Check:
    """One tensor, compared: where it comes from, and how far it is from the reference, relative to its scale."""

    part: str
    tensor: str
    relative_error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.relative_error <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """All checks of one bundle."""

    how: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def summary(self) -> dict[str, Any]:
        """Return the checks as plain values, ready for JSON."""
        rows = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"how": self.how, "passed": self.passed, "checks": rows}

    def raise_if_failed(self) -> None:
        """Raise VerificationError listing every tensor that is too far off."""
        wrong = [
            f"{c.part}: {c.tensor} is off by {c.relative_error:.1e} of its scale (tolerance {c.tolerance:.0e})"
            for c in self.checks
            if not c.passed
        ]
        if wrong:
            raise VerificationError(several(f"The bundle computes other numbers than eager PyTorch, {self.how}", wrong))


def verify_bundle(
    bundle: Bundle,
    emulate: bool = False,
    progress: Callable[[str], None] = lambda _: None,
    adapter: StoredAdapter | str | Path | None = None,
    reference: Mapping[str, Array] | None = None,
    sysroot: str | Path | None = None,
) -> Verification:
    """Compare each stage, given the reference inputs, and the whole, stage after stage, with eager PyTorch.

    Of a stage that was compiled for several kinds of cores every build is compared, and the first is part of the whole.

    Parameters
    ----------
    bundle : Bundle
        An opened bundle.
    emulate : bool
        Run an AArch64 bundle under qemu-aarch64 instead of on this machine, with the program and the libraries that it
        brings along; one made without ``--runner`` is run with the same from the cache. A stream of frames through all
        replicas at once is then compared as well, and an adapter swapped in and out in its middle.
    progress : callable
        Is told what is checked next.
    adapter : StoredAdapter, str or Path, optional
        An adapter, or its file, to fold into the weights when they are loaded.
    reference : mapping of str to array, optional
        What eager PyTorch computes for one frame, by value name, see :func:`cospipe.adapter_reference`; needed with an
        adapter. By default the bundle's own.
    sysroot : str or Path, optional
        With ``emulate``: a copy of the board's root file system, instead of Debian's AArch64 libraries.

    Raises
    ------
    BundleError
        When the bundle does not run on this machine and ``emulate`` is off.
    StageError
        When a stage fails; it carries the stage's name and the reason.
    EmulatorError, BoardError
        When QEMU or something it needs is missing, or the emulated program fails.
    UsageError
        When ``emulate`` is on and the bundle is not for AArch64, or an adapter comes without its reference.
    AdapterError
        When the adapter does not fit the bundle.
    """
    if adapter is not None and reference is None:
        raise UsageError("A bundle with an adapter is compared with the adapted model; give its reference values.")
    overrides = adapter_overrides(bundle, adapter)
    reference = bundle.reference() if reference is None else reference
    if not emulate:
        return Verification("on this machine", _native_checks(bundle, overrides, reference, progress))
    _check_can_emulate(bundle)
    from cospipe.backends.emulator.board_directory import verify_emulated

    root = None if sysroot is None else Path(sysroot)
    return Verification("under qemu-aarch64", verify_emulated(bundle, adapter, reference, root, progress))


def _native_checks(
    bundle: Bundle,
    overrides: Mapping[str, Overrides],
    reference: Mapping[str, Array],
    progress: Callable[[str], None],
) -> tuple[Check, ...]:
    call = _native(bundle, overrides)
    tolerance = bundle.manifest.relative_tolerance
    checks = []
    flowing = {spec.name: reference[spec.name] for spec in bundle.manifest.inputs}
    for stage in bundle.manifest.stages:
        progress(f"Checking {stage.name} on this machine")
        alone = call(stage.builds[0], reference)
        checks += [_check(stage.name, name, array, reference, tolerance) for name, array in alone.items()]
        for build in stage.builds[1:]:
            part, results = f"{stage.name} for {build.threads} {build.core_type}", call(build, reference)
            checks += [_check(part, name, array, reference, tolerance) for name, array in results.items()]
        is_first = all(spec.name in {i.name for i in bundle.manifest.inputs} for spec in stage.inputs)
        flowing |= alone if is_first else call(stage.builds[0], flowing)
    checks += [_check("whole", s.name, flowing[s.name], reference, tolerance) for s in bundle.manifest.outputs]
    return tuple(checks)


def _check(part: str, name: str, array: Array, reference: Mapping[str, Array], tolerance: float) -> Check:
    return Check(part, name, relative_error(array, reference[name]), tolerance)


def _native(bundle: Bundle, overrides: Mapping[str, Overrides]) -> StageCall:
    check_runs_here(bundle.manifest, bundle.path)
    executables: dict[str, StageExecutable] = {}

    def call(stage: StageFiles, values: Mapping[str, Array]) -> dict[str, Array]:
        if stage.library not in executables:
            files = bundle.file(stage.library), bundle.file(stage.weights)
            executables[stage.library] = StageExecutable(stage, *files, overrides[stage.name])
        tensors = {spec.name: as_tensor(values[spec.name]) for spec in stage.inputs}
        try:
            results = executables[stage.library].call(tensors)
        except Exception as error:
            raise StageError(stage.name, f"{stage.name} failed: {first_line(error)}.") from error
        return to_numpy(results, [spec.name for spec in stage.outputs])

    return _in_own_thread(call)


def _in_own_thread(call: StageCall) -> StageCall:
    """Keep TVM's thread pool, which pins the thread it belongs to, away from the caller's thread."""
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="verify")
    return lambda stage, values: thread.submit(call, stage, values).result()


def _check_can_emulate(bundle: Bundle) -> None:
    if bundle.manifest.architecture != "aarch64":
        raise UsageError(
            f"Only AArch64 bundles are emulated; {bundle.path} is for {bundle.manifest.architecture}:"
            " verify it without --emulate."
        )
