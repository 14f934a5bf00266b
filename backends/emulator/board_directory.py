"""Checking a board's directory under QEMU: its own program and libraries run it, and nothing of this machine does."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from cospipe.backends.board.build import build_runner
from cospipe.backends.board.options import RunnerOptions
from cospipe.backends.board.runtime_libraries import runtime_libraries
from cospipe.backends.bundle import Bundle
from cospipe.backends.emulator.qemu import Qemu, find_qemu
from cospipe.backends.runtime.compare import relative_error
from cospipe.backends.runtime.results import write_npz
from cospipe.backends.verify import Check
from cospipe.ir.adapter_file import StoredAdapter, write_adapter
from cospipe.ir.errors import EmulatorError, said_by
from cospipe.ir.tensor_file import Array, write_tensors

_FRAMES_A_REPLICA = 2
_FEWEST_FRAMES = 4


@dataclass(frozen=True)
class EmulatedBoard:
    """A bundle's directory and the program that runs it under QEMU, with further options of the program."""

    bundle: Bundle
    qemu: Qemu
    program: Path
    options: tuple[str, ...] = ()

    def call(self, folder: Path, *options: str) -> dict[str, Any]:
        """Run the program in a folder and return what it says on standard output, JSON.

        Raises
        ------
        EmulatorError
            When it fails; the message ends with its own.
        """
        command = [str(self.program), str(self.bundle.folder.resolve()), *self.options, "--json", *options]
        finished = self.qemu.run(command, folder)
        try:
            said = json.loads(finished.stdout)
        except ValueError:
            said = None
        # --verify ends with 1 when numbers differ, and says which
        if isinstance(said, dict) and (finished.returncode == 0 or "checks" in said):
            return said
        reason = said_by(finished)
        raise EmulatorError(f"{self.program.name} failed under qemu-aarch64: {reason}")


def find_board(bundle: Bundle, sysroot: Path | None, progress: Callable[[str], None]) -> EmulatedBoard:
    """Return what runs a bundle under QEMU: the bundle's own program, or one of the cache when it has none.

    Raises
    ------
    EmulatorError
        When QEMU or the AArch64 C and C++ libraries are missing.
    BoardError
        When the program or TVM's runtime cannot be had.
    """
    qemu = find_qemu(sysroot)
    if bundle.manifest.runner:
        return EmulatedBoard(bundle, qemu, bundle.file(bundle.manifest.runner.program))
    program = build_runner("aarch64", RunnerOptions(), progress)
    return EmulatedBoard(bundle, qemu, program, ("--runtime", str(runtime_libraries("aarch64"))))


def verify_emulated(
    bundle: Bundle,
    adapter: StoredAdapter | str | Path | None,
    reference: Mapping[str, Array],
    sysroot: Path | None,
    progress: Callable[[str], None],
) -> tuple[Check, ...]:
    """Compare every build of every stage, the whole, and a stream of frames with reference values.

    The stream passes all stages and replicas at once. With an adapter it starts without it, takes it in and gives it
    back, frame after frame; so the part is named ``stream before the adapter``, ``stream with the adapter`` and
    ``stream after the adapter``, else ``stream``.

    Parameters
    ----------
    bundle : Bundle
        An AArch64 bundle.
    adapter : StoredAdapter, str, Path or None
        An adapter to fold into the weights.
    reference : mapping of str to array
        What eager PyTorch computes for one frame, with the adapter.
    sysroot : Path or None
        Where the emulated program finds the C library; None for Debian's.
    progress : callable
        Is told what is checked next.

    Raises
    ------
    EmulatorError, BoardError
        When something that is needed is missing, or the emulated program fails.
    """
    board = find_board(bundle, sysroot, progress)
    with tempfile.TemporaryDirectory(prefix="cospipe-emulated-") as scratch:
        folder = Path(scratch)
        write_tensors(folder / "reference.safetensors", reference)
        write_npz(folder / "frame.npz", {spec.name: reference[spec.name] for spec in bundle.manifest.inputs})
        file = _adapter_file(adapter, folder)
        progress("Checking every stage under qemu-aarch64")
        options = ["--verify", "--reference", "reference.safetensors"]
        said = board.call(folder, *options, *(["--adapter", str(file)] if file else []))
        checks = [_check(row) for row in said["checks"]]
        progress("Checking a stream of frames under qemu-aarch64")
        return (*checks, *_stream_checks(board, folder, file, reference))


def _adapter_file(adapter: StoredAdapter | str | Path | None, folder: Path) -> Path | None:
    if not isinstance(adapter, StoredAdapter):
        return None if adapter is None else Path(adapter).resolve()
    write_adapter(folder / "adapter.safetensors", adapter)
    return folder / "adapter.safetensors"


def _check(row: Mapping[str, Any]) -> Check:
    error = row["relative_error"]  # null for what cannot be compared: JSON has no infinity
    return Check(str(row["part"]), str(row["tensor"]), inf if error is None else float(error), float(row["tolerance"]))


def _stream_checks(
    board: EmulatedBoard, folder: Path, adapter: Path | None, reference: Mapping[str, Array]
) -> list[Check]:
    """Run the reference frame many times over and compare every result."""
    own = board.bundle.reference()
    replicas = sum(len(stage.replicas) for stage in board.bundle.manifest.plan.stages)
    count = max(_FEWEST_FRAMES, _FRAMES_A_REPLICA * replicas)
    swaps, parts = [], [("stream", reference)]
    if adapter is not None:
        swaps = ["--swap-adapter", f"{count}={adapter}", "--swap-adapter", f"{2 * count}=none"]
        when = {"before": own, "with": reference, "after": own}
        parts = [(f"stream {word} the adapter", expected) for word, expected in when.items()]
    frames = ["-i", "frame.npz", "--repeat", str(count * len(parts)), "-o", "results.npz", "--stall-timeout", "0"]
    board.call(folder, *frames, *swaps)
    with np.load(folder / "results.npz") as results:
        found = {spec.name: results[spec.name] for spec in board.bundle.manifest.outputs}
    return [
        _worst(board.bundle, part, name, array, count * len(parts), slice(count * i, count * (i + 1)), expected[name])
        for i, (part, expected) in enumerate(parts)
        for name, array in found.items()
    ]


def _worst(bundle: Bundle, part: str, name: str, array: Array, frames: int, wanted: slice, expected: Array) -> Check:
    """Return the check of the worst of some frames; a result that is missing is infinitely far off."""
    is_whole = len(array) == frames
    error = max(relative_error(result, expected) for result in array[wanted]) if is_whole else inf
    return Check(part, name, error, bundle.manifest.relative_tolerance)
