"""What a frame is, and whether it fits a network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cospipe.ir.manifest import Manifest, TensorSpec
from cospipe.ir.tensor_file import Array

Frame = dict[str, Array]
"""One input or output of a network: arrays by name."""


def frame_problems(manifest: Manifest, frame: Frame) -> list[str]:
    """Return everything that does not fit about the names, shapes and dtypes of one input frame."""
    if not isinstance(frame, Mapping):
        return [f"a frame is a dictionary of arrays by input name, not a {type(frame).__name__}"]
    expected = {spec.name: spec for spec in manifest.inputs}
    problems = [f"{name} is no input" for name in frame if name not in expected]
    problems += [f"{spec} is missing" for name, spec in expected.items() if name not in frame]
    return problems + [
        f"{name} is {_description(array)}, expected {expected[name]}"
        for name, array in frame.items()
        if name in expected and not _fits(array, expected[name])
    ]


def _fits(value: object, spec: TensorSpec) -> bool:
    return isinstance(value, np.ndarray) and value.shape == spec.shape and str(value.dtype) == spec.dtype


def _description(value: object) -> str:
    if not isinstance(value, np.ndarray):
        return f"a {type(value).__name__}"
    return f"{'x'.join(map(str, value.shape)) or 'scalar'} {value.dtype}"
