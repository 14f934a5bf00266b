"""TVM's passes by name: which exist, what their context is configured with, and what is printed of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import tvm
import tvm_ffi
from tvm.ir.instrument import PassPrintingInstrument, PassTimingInstrument

from cospipe.backends.tvm.tvmc.options import CompileOptions
from cospipe.ir.errors import UsageError, nearest

_OPT_LEVEL = 3
_REGISTERED = re.compile(r"(relax|tirx|s_tir)(?:\.backend\.\w+)?\.transform\.(\w+)")
_OWN = (
    *("RewriteLayout", "CorrectOpPatterns", "LiftWeightPreparation", "NoteGenericKernels", "FuseOperators"),
    *("NoteReductions", "ScheduleKernels", "UseVectorFunctions", "NoteKernelCalls"),
)
_SWITCHES = {"0": False, "false": False, "1": True, "true": True}


@cache
def pass_names() -> frozenset[str]:
    """Return the names of passes, TVM's and ours: ``FoldConstant``, ``tirx.UnrollLoop``."""
    found = map(_REGISTERED.fullmatch, map(str, tvm_ffi.registry.list_global_func_names()))
    names = {match[2] if match[1] == "relax" else f"{match[1]}.{match[2]}" for match in found if match}
    return frozenset(names | set(_OWN))


def parse_pass_config(texts: Sequence[str]) -> dict[str, Any]:
    """Return values of TVM's pass context from ``name=value`` each.

    Raises
    ------
    UsageError
        When a text has another form, TVM has no such value, or it is of another type.
    """
    return dict(map(_config_value, texts))


def _config_value(text: str) -> tuple[str, Any]:
    types = {str(name): str(value["type"]) for name, value in tvm.transform.PassContext.list_configs().items()}
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--pass-config {text!r} must be written name=value.")
    if name not in types:
        raise UsageError(f"TVM has no pass configuration {name!r}. {nearest(name, types)}")
    if types[name] == "bool" and value.lower() in _SWITCHES:
        return name, _SWITCHES[value.lower()]
    if types[name] in ("int", "ir.IntImm") and value.lstrip("-").isdecimal():
        return name, int(value)
    if types[name] in ("bool", "int", "ir.IntImm"):
        raise UsageError(
            f"--pass-config {name} takes {'0 or 1' if types[name] == 'bool' else 'a number'}, not {value!r}."
        )
    raise UsageError(f"--pass-config {name} takes a {types[name]}, which cannot be written on a command line.")


class PassContext(AbstractContextManager["PassContext"]):
    """TVM's pass context with what was asked for; prints the times of passes when it is left."""

    def __init__(self, options: CompileOptions) -> None:
        self._timing = PassTimingInstrument() if options.prints_pass_times else None
        instruments = [self._timing] if self._timing else []
        if options.printed_before or options.printed_after:
            instruments.append(PassPrintingInstrument(list(options.printed_before), list(options.printed_after)))
        self._context = tvm.transform.PassContext(
            opt_level=_OPT_LEVEL,
            config=dict(options.pass_config),
            disabled_pass=list(options.disabled_passes),
            instruments=instruments,
        )

    def __enter__(self) -> PassContext:
        """Enter TVM's context."""
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave TVM's context."""
        if self._timing and error[0] is None:
            print(self._timing.render())
        self._context.__exit__(*error)
