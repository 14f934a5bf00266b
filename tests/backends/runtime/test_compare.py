"""Errors are relative to the tensor's scale; what cannot be compared is infinitely far off."""

import numpy as np
import pytest

from cospipe.backends.runtime.compare import relative_error

INFINITE, NOTHING = np.inf, np.nan


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -3.0], [1.0, -4.0], 0.25),  # of the largest magnitude, not of the element
        ([0.5, 100.0], [0.0, 100.0], 0.005),
        ([1e-3, 0.0], [0.0, 0.0], 1e-3),  # absolute where there is no scale
        ([], [], 0.0),
        ([INFINITE, 1.0], [INFINITE, 1.0], 0.0),
        ([INFINITE, 1.0], [INFINITE, 2.0], 0.5),
        ([INFINITE], [-INFINITE], INFINITE),
        ([INFINITE], [1.0], INFINITE),
        ([1.0], [INFINITE], INFINITE),
        ([NOTHING], [1.0], INFINITE),
        ([1.0], [NOTHING], INFINITE),
        ([NOTHING], [NOTHING], INFINITE),
        ([1.0, 2.0], [1.0], INFINITE),
        ([[1.0, 2.0]], [1.0, 2.0], INFINITE),
    ],
)
def test_relative_error(actual, expected, error):
    found = relative_error(np.asarray(actual, np.float32), np.asarray(expected, np.float32))
    assert found == pytest.approx(error)


def test_integers_and_truth_values_are_compared_as_numbers():
    assert relative_error(np.array([200], np.uint8), np.array([100], np.uint8)) == 1.0
    assert relative_error(np.array([False]), np.array([True])) == 1.0
    assert relative_error(np.array(3), np.array(3)) == 0.0
