"""Elementary functions against double precision, with the errors their docstrings promise."""

import numpy as np
import pytest
from direct import WIDTHS, Library
from scipy import special
from tvm import te, tirx

LENGTH = 1 << 18
TINIEST = np.finfo("float32").tiny
SHAPE = [((LENGTH,), "float32")]
POWERS = [-1.0, -0.5, 0.5, 2.0, 3.0, 4.0, 0.3]

# name: TVM's function, the reference, the range, the promised relative error
FUNCTIONS = {
    "exp": (tirx.exp, np.exp, (-86, 88.7), 1.7e-7),
    "sigmoid": (tirx.sigmoid, special.expit, (-86, 100), 3e-7),
    "tanh": (tirx.tanh, np.tanh, (-12, 12), 3.3e-7),
    "erf": (tirx.erf, special.erf, (-6, 6), 3.7e-7),
    "log": (tirx.log, np.log, (TINIEST, 1e5), 1.1e-7),
}
# what they make of a few exact numbers
EXACT = {
    "exp": {0.0: 1.0, 89.5: np.inf, -200.0: 0.0, np.inf: np.inf, -np.inf: 0.0},
    "sigmoid": {0.0: 0.5, 200.0: 1.0, np.inf: 1.0, -np.inf: 0.0},
    "tanh": {0.0: 0.0, 50.0: 1.0, -50.0: -1.0, np.inf: 1.0, -np.inf: -1.0},
    "erf": {0.0: 0.0, 50.0: 1.0, -50.0: -1.0, np.inf: 1.0, -np.inf: -1.0},
    "log": {1.0: 0.0, 0.0: -np.inf, np.inf: np.inf, -1.0: np.nan, -np.inf: np.nan},
}


def of_each(function):
    return lambda data: te.compute(data.shape, lambda i: function(data[i]))


def to_the_power(exponent):
    return of_each(lambda x: tirx.pow(x, tirx.const(exponent, "float32")))


@pytest.fixture(scope="module", params=WIDTHS)
def compiled(request):
    functions = {name: (of_each(function), SHAPE) for name, (function, *_) in FUNCTIONS.items()}
    functions |= {exponent: (to_the_power(exponent), SHAPE) for exponent in POWERS}
    doubles = {f"{name} of doubles": (of_each(FUNCTIONS[name][0]), [((64,), "float64")]) for name in ("exp", "log")}
    return Library(functions | doubles, WIDTHS[request.param])


def numbers_of(name):
    """Return numbers over the whole range: evenly spaced ones, and ever smaller ones near zero."""
    low, high = FUNCTIONS[name][2]
    even = np.linspace(low, high, LENGTH // 2)
    small = np.geomspace(1e-30, min(high, 1), LENGTH // 2) * (
        np.where(np.arange(LENGTH // 2) % 2, 1, -1 if low < 0 else 1)
    )
    return np.concatenate([even, small]).astype("float32")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_promised_errors_hold(compiled, name):
    _, reference, _, tolerance = FUNCTIONS[name]
    numbers = numbers_of(name)
    np.testing.assert_allclose(
        compiled(name, numbers), reference(numbers.astype("float64")), rtol=tolerance, atol=1e-37
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ends_of_the_range(compiled, name):
    known = EXACT[name] | {np.nan: np.nan}
    numbers = np.resize(np.array(list(known), "float32"), LENGTH)
    expected = np.resize(np.array(list(known.values()), "float32"), LENGTH)
    np.testing.assert_allclose(compiled(name, numbers), expected, rtol=2e-7, atol=2e-38)


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_no_more_than_one(compiled, name):
    numbers = np.linspace(-20, 20, LENGTH).astype("float32")
    assert np.abs(compiled(name, numbers)).max() == 1.0


def test_logarithms_of_subnormal_numbers(compiled):
    numbers = np.geomspace(1e-44, TINIEST, LENGTH).astype("float32")
    np.testing.assert_allclose(compiled("log", numbers), np.log(numbers.astype("float64")), rtol=1.1e-7)


@pytest.mark.parametrize("exponent", POWERS)
def test_powers(compiled, exponent):
    numbers = np.geomspace(1e-6, 1e6, LENGTH).astype("float32")
    np.testing.assert_allclose(compiled(exponent, numbers), numbers.astype("float64") ** exponent, rtol=4e-7)


@pytest.mark.parametrize("name", ["exp", "log"])
def test_double_precision_is_left_alone(compiled, name):
    numbers = np.linspace(0.1, 30, 64)
    np.testing.assert_allclose(compiled(f"{name} of doubles", numbers), FUNCTIONS[name][1](numbers), rtol=1e-15)
