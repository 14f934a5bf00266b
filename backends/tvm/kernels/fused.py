"""A kernel and the elementwise operations fused behind it.

A kernel enters Relax as a call to a symbol that no library has. Relax fuses bias, activation and residual additions
behind it; then the kernel's rule emits its loops, and stores every finished sum through the fused operations. A kernel
whose loops were never emitted cannot be linked: there is no slow way by accident.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import tvm
from tvm import te, tirx
from tvm.s_tir import SBlock, Schedule
from tvm.s_tir.schedule import SBlockRV
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from cospipe.backends.tvm.kernels.expressions import Expr, rewrite
from cospipe.ir.errors import LoweringError

_KERNEL = "cospipe.kernel"
_OPTIONS = "cospipe.options"
INJECTIVE = 2
"""Relax's kind of a kernel that is not fused behind a declared one but takes elementwise readers."""
_FUSES_ELEMENTWISE, _FUSES_NOTHING = 4, 8
"""Relax's kinds of a kernel behind which elementwise readers are fused, and of one that stays alone."""


def declare(name: str, shape: Sequence[int], options: Any, *inputs: te.Tensor) -> te.Tensor:
    """Return the result of a kernel whose loops are emitted later.

    Parameters
    ----------
    name : str
        Kind of kernel.
    shape : sequence of int
        Of the result.
    options : dataclass instance
        Everything the kernel's rule needs to know, as numbers and strings.
    *inputs : te.Tensor
        What it reads.
    """
    corners = [tensor(*[0] * len(tensor.shape)) for tensor in inputs]
    return te.compute(
        tuple(shape),
        lambda *index: tirx.call_pure_extern("float32", f"cospipe_{name}_was_not_emitted", *corners, *index),
        name=name,
        attrs={_KERNEL: name, _OPTIONS: json.dumps(asdict(options))},
    )


def call_attributes(fuses: bool = True) -> dict[str, int]:
    """Return the attributes of a declared kernel's PrimFunc."""
    return {"op_pattern": _FUSES_ELEMENTWISE if fuses else _FUSES_NOTHING}


@dataclass(frozen=True)
class Epilogue:
    """What is done to a finished sum and where it is stored.

    Parameters
    ----------
    output : Var
        Buffer that is written.
    axes : tuple of Var
        Its index variables.
    value : Expr
        What is stored, in terms of the sum and other buffers.
    product : Var
        The buffer that stands for the sum in ``value``.
    """

    output: Any
    axes: tuple[Any, ...]
    value: Expr
    product: Any

    def store(self, index: Sequence[Expr], total: Expr) -> None:
        """Emit the store of one element (or, in a vectorised loop, of a vector)."""
        variables = dict(zip(self.axes, index, strict=True))

        def load(buffer: Any, indices: Sequence[Expr]) -> Expr:
            return total if buffer.same_as(self.product) else tirx.BufferLoad(buffer, indices)

        T.buffer_store(self.output, rewrite(self.value, variables, load), list(index))


@dataclass(frozen=True)
class FusedKernel:
    """One fused PrimFunc with a declared kernel in it.

    Parameters
    ----------
    function : PrimFunc
        What Relax made.
    name : str
        Kind of kernel.
    options : dict
        As declared.
    inputs : tuple of Var
        The buffers the kernel reads.
    epilogue : Epilogue
        What follows it.
    """

    function: tirx.PrimFunc
    name: str
    options: dict[str, Any]
    inputs: tuple[Any, ...]
    epilogue: Epilogue

    def emitted(self, emit: Callable[[], None]) -> tirx.PrimFunc:
        """Return the function with the loops that ``emit`` builds."""
        return with_loops(self.function, emit, self.attributes)

    @property
    def attributes(self) -> dict[str, str]:
        """What :func:`emitted_kernel` reads from a function whose loops were made for this kernel."""
        return {_KERNEL: self.name, _OPTIONS: json.dumps(self.options)}


def with_loops(
    function: tirx.PrimFunc, emit: Callable[[], None], attributes: Mapping[str, str] | None = None
) -> tirx.PrimFunc:
    """Return a function with the loops that ``emit`` builds in place of its own.

    Parameters
    ----------
    function : PrimFunc
        Gives parameters and attributes.
    emit : callable
        Builds the loops with TVM's IRBuilder.
    attributes : mapping of str to str, optional
        Further ones.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        with T.sblock("root"):  # TVM's search for reshapes wants a block around every kernel
            T.reads()
            T.writes()
            emit()
    own = {key: value for key, value in dict(function.attrs).items() if key != "s_tir"}
    own.update({"s_tir": True, **(attributes or {})})
    return tirx.PrimFunc(
        function.params, builder.get().body, function.ret_type, tvm.ir.make_node("ir.DictAttrs", **own)
    )


def find_kernel(function: tirx.PrimFunc) -> FusedKernel | None:
    """Return the declared kernel of a PrimFunc, or None when it holds none.

    Raises
    ------
    LoweringError
        When what is fused behind the kernel is more than one result of elementwise operations.
    """
    schedule = Schedule(function)
    if not _declared(schedule):
        return None
    # Relax counts in 64 bits; loops that count in 32 are faster, and TVM's own narrowing does not reach all of them.
    function = tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({"main": function}))["main"]
    schedule = Schedule(function)
    (kernel,) = _declared(schedule)
    described = schedule.get(kernel)
    others = _inline_others(schedule, str(described.name_hint))
    annotations = described.annotations
    return FusedKernel(
        function=function,
        name=str(annotations[_KERNEL]),
        options=json.loads(str(annotations[_OPTIONS])),
        inputs=tuple(read.source for read in described.reads),
        epilogue=_epilogue(schedule, described, others),
    )


def is_declared(block: SBlock) -> bool:
    """Tell whether a block stands for a kernel whose loops are emitted later."""
    return _KERNEL in block.annotations


def emitted_kernel(function: tirx.PrimFunc) -> tuple[str, dict[str, Any]] | None:
    """Return kind and options of the declared kernel that a function's loops were emitted for, or None."""
    attributes = dict(function.attrs)
    if _KERNEL not in attributes:
        return None
    return str(attributes[_KERNEL]), json.loads(str(attributes[_OPTIONS]))


def _declared(schedule: Schedule) -> list[SBlockRV]:
    return [block for block in _blocks(schedule) if is_declared(schedule.get(block))]


def _blocks(schedule: Schedule) -> list[SBlockRV]:
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))


def _inline_others(schedule: Schedule, kernel: str) -> list[SBlockRV]:
    outputs = {str(schedule.get(block).name_hint) for block in schedule.get_output_blocks(schedule.get_sblock("root"))}
    for block in _blocks(schedule):
        name = str(schedule.get(block).name_hint)
        if name != kernel and name not in outputs:
            schedule.compute_inline(block)
    return [block for block in _blocks(schedule) if str(schedule.get(block).name_hint) != kernel]


def _epilogue(schedule: Schedule, kernel: Any, others: list[SBlockRV]) -> Epilogue:
    product = kernel.writes[0].source
    if not others:
        axes = tuple(axis.var for axis in kernel.iter_vars)
        return Epilogue(product, axes, tirx.BufferLoad(product, list(axes)), product)
    if len(others) > 1:
        names = ", ".join(str(schedule.get(block).name_hint) for block in others)
        raise LoweringError(f"Several results are fused behind the kernel {kernel.name_hint}: {names}.")
    block = schedule.get(others[0])
    axes = tuple(axis.var for axis in block.iter_vars)
    return Epilogue(block.writes[0].source, axes, block.body.value, product)


@contextmanager
def vector(lanes: int) -> Iterator[Any]:
    """Emit one statement for all lanes of a vector; yields the lane."""
    with T.vectorized(lanes) as lane:
        yield lane
