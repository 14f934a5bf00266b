"""How far two tensors are apart, relative to their scale."""

from __future__ import annotations

import numpy as np

from cospipe.ir.tensor_file import Array


def relative_error(actual: Array, expected: Array) -> float:
    """Return the largest difference divided by the largest expected magnitude; infinite for NaN or other shapes.

    Where both are infinite with the same sign they agree. A tensor of zeros is compared absolutely.
    """
    if actual.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    ours, theirs = actual.astype(np.float64), expected.astype(np.float64)
    same = ours == theirs
    if not np.isfinite(ours[~same]).all() or not np.isfinite(theirs[~same]).all():
        return float("inf")
    finite = np.abs(theirs[np.isfinite(theirs)])
    scale = finite.max(initial=0.0) or 1.0
    return float(np.abs(ours[~same] - theirs[~same]).max(initial=0.0) / scale)
