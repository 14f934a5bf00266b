"""Exponential, logistic, hyperbolic tangent, error function and logarithm as polynomials that vectorise.

LLVM calls the C library once a lane for them. Here each is a few multiply-adds for all lanes at once, put in the place
of TVM's own functions after the loops are final; so every kernel and everything fused behind one has them. Numbers of
double precision keep the C library. The coefficients are minimax fits over the reduced range, rounded to FP32; the
errors in the docstrings were measured on every FP32 number of the range, or on a dense part of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call

from cospipe.backends.tvm.kernels.expressions import Expr
from cospipe.backends.tvm.tiling import Core

_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
"""Their sum is ln 2; a multiple of the high part by an exponent is exact."""
_MANTISSA_BITS, _BIAS = 23, 127
_INFINITY_BITS, _NOT_A_NUMBER_BITS = 0x7F800000, 0x7FC00000

_EXP_LARGEST, _EXP_SMALLEST = 89.0, -87.3
_EXP = (2.0, 1.9999994, 0.99998289, 0.3333528, 0.083796777, 0.016580459)
"""2·exp(r) on [-ln 2 / 2, ln 2 / 2]: with the factor two the other one, 2^(n-1), is finite up to the largest result."""

_TANH_LARGEST = 9.02
_TANH_ABOVE = (1.0, 0.133797184, 0.00349403499, 2.05834876e-05, 1.33190792e-08)
_TANH_BELOW = (1.0, 0.467130333, 0.0258710738, 0.000328309339, 7.76202228e-07)
"""tanh(x)/x as a quotient of polynomials of x²."""

_ERF_LARGEST = 3.93
_ERF_ABOVE = (1.12837923, 0.190783978, 0.0527903028, 0.00377961388, 0.000284808513, 2.04196749e-06)
_ERF_BELOW = (1.0, 0.502410591, 0.114257574, 0.0149974469, 0.00116521341, 3.80040328e-05)
"""erf(x)/x as a quotient of polynomials of x²."""

_SMALLEST_MANTISSA_BITS = 0x3F3504F3
"""The number √½: mantissas are taken from [√½, √2)."""
_SMALLEST_NORMAL = 2.0**-126
_LOG = (-0.499999911, 0.333339512, -0.250017613, 0.199620217, -0.165703043, 0.149183452, -0.143093154, 0.0873604715)
"""(log(1 + s) - s) / s² on [√½ - 1, √2 - 1]."""


def use_vector_functions(module: tvm.IRModule, core: Core) -> tvm.IRModule:
    """Replace the FP32 elementary functions in every kernel of a module.

    On ARM, minimum and maximum become one instruction too, where a comparison and a selection are two; they then keep
    what is not a number, as PyTorch does.

    Parameters
    ----------
    module : tvm.IRModule
        Kernels with final loops.
    core : Core
        The cores it is compiled for.
    """
    changed = tvm.IRModule(module.functions, attrs=module.attrs)
    for name, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            changed[name] = _with_vector_functions(function, core)
    return changed


def _with_vector_functions(function: tirx.PrimFunc, core: Core) -> tirx.PrimFunc:
    replaced = tvm_ffi.structural_map(function, [(Call, _replace_call), (tirx.Mul, _divide_at_once)])
    if core.architecture == "x86_64":
        return replaced
    return tvm_ffi.structural_map(replaced, [(tirx.Max, _maximum), (tirx.Min, _minimum)])


def _replace_call(call: Expr) -> Expr:
    name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
    if name not in _FUNCTIONS or not _is_float(call):
        return call
    return _FUNCTIONS[name](*call.args)


def _is_float(expression: Expr) -> bool:
    return str(expression.ty.dtype) == "float32"


def _divide_at_once(product: Expr) -> Expr:
    """Make x / d of x · (1 / d): SiLU is x times a logistic function."""
    quotient = product.b
    is_reciprocal = isinstance(quotient, tirx.Div) and isinstance(quotient.a, tirx.FloatImm) and quotient.a.value == 1
    return product.a / quotient.b if is_reciprocal and _is_float(product) else product


def _maximum(expression: Expr) -> Expr:
    return _of_llvm("llvm.maximum", expression)


def _minimum(expression: Expr) -> Expr:
    return _of_llvm("llvm.minimum", expression)


def _of_llvm(name: str, expression: Expr) -> Expr:
    if not _is_float(expression):
        return expression
    return tirx.call_llvm_pure_intrin("float32", name, expression.a, expression.b)


def exp(x: Expr) -> Expr:
    """Return e to the power of an FP32 expression.

    The relative error is below 1.7e-7 (two units in the last place); results below 1.7e-38 are zero.
    """
    return _let(
        _limited(x, _EXP_SMALLEST, _EXP_LARGEST),
        # Adding this number rounds to an integer and leaves it, with the bias of an exponent, in the low bits.
        lambda x: _let(
            x * _float(1 / math.log(2)) + _float(1.5 * 2**_MANTISSA_BITS + _BIAS - 1),
            lambda shifted: _exp_of_parts(x, shifted),
        ),
    )


def _exp_of_parts(x: Expr, shifted: Expr) -> Expr:
    scale = _from_bits(_bits(shifted) << _int(_MANTISSA_BITS))
    exponent = shifted - _float(1.5 * 2**_MANTISSA_BITS + _BIAS - 1)
    rest = _let(exponent, lambda n: (x - n * _float(_LN2_HIGH)) - n * _float(_LN2_LOW))
    return _let(rest, lambda r: _polynomial(_EXP, r) * scale)


def sigmoid(x: Expr) -> Expr:
    """Return 1 / (1 + exp(-x)) of an FP32 expression; the relative error is below 3e-7 from -86 on."""
    return _float(1.0) / (_float(1.0) + exp(_float(0.0) - x))


def tanh(x: Expr) -> Expr:
    """Return the hyperbolic tangent of an FP32 expression; the relative error is below 3.3e-7, ±1 is never exceeded."""
    return _odd_quotient(x, _TANH_LARGEST, _TANH_ABOVE, _TANH_BELOW)


def erf(x: Expr) -> Expr:
    """Return the error function of an FP32 expression; the relative error is below 3.7e-7, ±1 is never exceeded."""
    return _odd_quotient(x, _ERF_LARGEST, _ERF_ABOVE, _ERF_BELOW)


def _odd_quotient(x: Expr, largest: float, above: Sequence[float], below: Sequence[float]) -> Expr:
    """Return x · above(x²) / below(x²), between -1 and 1 also where rounding would lead out."""

    def quotient(x: Expr) -> Expr:
        return _let(x * x, lambda square: x * _polynomial(above, square) / _polynomial(below, square))

    return _let(_let(_limited(x, -largest, largest), quotient), lambda result: _limited(result, -1.0, 1.0))


def log(x: Expr) -> Expr:
    """Return the natural logarithm of an FP32 expression; the relative error is below 1.1e-7.

    It is minus infinity at zero and not a number below.
    """
    return _let(x, lambda x: _log_of_any(x))


def _log_of_any(x: Expr) -> Expr:
    is_normal = x >= _float(_SMALLEST_NORMAL)
    normal = tirx.Select(is_normal, x, x * _float(2.0**_MANTISSA_BITS))
    shift = tirx.Select(is_normal, _float(0.0), _float(-_MANTISSA_BITS))
    infinity = _from_bits(_int(_INFINITY_BITS))
    at_most_zero = tirx.Select(x.equal(_float(0.0)), -infinity, _from_bits(_int(_NOT_A_NUMBER_BITS)))
    finite = _let(_bits(normal), lambda bits: _log_of_bits(bits, shift))
    return tirx.Select(x > _float(0.0), tirx.Select(x < infinity, finite, x), at_most_zero)


def _log_of_bits(bits: Expr, shift: Expr) -> Expr:
    exponent = (bits - _int(_SMALLEST_MANTISSA_BITS)) >> _int(_MANTISSA_BITS)

    def result(exponent: Expr) -> Expr:
        distance = _from_bits(bits - (exponent << _int(_MANTISSA_BITS))) - _float(1.0)
        whole = exponent.astype("float32") + shift
        return _let(whole, lambda n: _let(distance, lambda s: _log_of_parts(n, s)))

    return _let(exponent, result)


def _log_of_parts(exponent: Expr, distance: Expr) -> Expr:
    tail = distance * distance * _polynomial(_LOG, distance)
    return exponent * _float(_LN2_HIGH) + (distance + (exponent * _float(_LN2_LOW) + tail))


def power(x: Expr, exponent: Expr) -> Expr:
    """Return a small power as products, roots and quotients; any other is left to the C library."""
    written_out: dict[float, Callable[[Expr], Expr]] = {
        -1.0: lambda x: _float(1.0) / x,
        -0.5: lambda x: _float(1.0) / tirx.sqrt(x),
        0.5: tirx.sqrt,
        2.0: lambda x: x * x,
        3.0: lambda x: x * x * x,
        4.0: lambda x: _let(x * x, lambda square: square * square),
    }
    if isinstance(exponent, tirx.FloatImm) and exponent.value in written_out:
        return _let(x, written_out[exponent.value])
    return tirx.pow(x, exponent)


_FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "tirx.erf": erf,
    "tirx.exp": exp,
    "tirx.log": log,
    "tirx.pow": power,
    "tirx.sigmoid": sigmoid,
    "tirx.tanh": tanh,
}


def _limited(x: Expr, smallest: float, largest: float) -> Expr:
    """Return a number between two others; what is not a number stays so, because it is the second operand."""
    return tirx.Max(_float(smallest), tirx.Min(_float(largest), x))


def _polynomial(coefficients: Sequence[float], x: Expr) -> Expr:
    """Return the sum of c[k] · x^k, by Horner's rule."""
    result = _float(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + _float(coefficient)
    return result


def _let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """Compute a value once for several uses."""
    variable = tirx.Var("value", value.ty)
    return tirx.Let(variable, value, body(variable))


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret("int32", x)


def _from_bits(bits: Expr) -> Expr:
    return tirx.reinterpret("float32", bits)


def _float(value: float) -> Expr:
    return tirx.const(value, "float32")


def _int(value: int) -> Expr:
    return tirx.const(value, "int32")
