"""Which kernels a stage calls, in order, and which nodes of the captured graph each call computes.

FuseOps puts several operations into one kernel and shares equal kernels between calls, so the names of variables inside
a kernel tell only what its first call computes. Each call is therefore matched with the operations it was made from:
an operation is the kernel that computes it, applied to values that are known already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx

from cospipe.backends.tvm.provenance import bindings_with_sources, with_sources

_CALLS = "cospipe.kernel_calls"
_SEPARATOR = " "


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel; they follow each other as a stage runs.

    Parameters
    ----------
    kernel : str
        What the virtual machine calls.
    nodes : tuple of str
        Nodes of the captured graph that it computes, or a part of which it computes, in order. A kernel that only
        brings a result of the graph into its final form belongs to the last node behind it.
    """

    kernel: str
    nodes: tuple[str, ...]


@tvm.transform.module_pass(opt_level=0, name="FuseOperators")  # type: ignore[untyped-decorator]
def fuse_operators(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Run FuseOps, and note for every variable of ``main`` all the nodes that are fused in what it is bound to."""
    fused = relax.transform.FuseOps()(module)
    noted = tvm.IRModule(fused.functions, attrs=fused.attrs)
    noted["main"] = _OwnNames().visit_expr(fused["main"])
    noted["main"] = with_sources(noted["main"], _Operations(module["main"]).sources(noted))
    return noted


@relax.expr_functor.mutator
class _OwnNames(relax.PyExprMutator):  # type: ignore[misc]
    """Gives every variable that something is bound to a name of its own; what passes call them may be equal."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def visit_function_(self, function: relax.Function) -> relax.Function:
        """Leave the parameters as they are."""
        body = self.visit_expr(function.body)
        return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)

    def visit_var_def_(self, variable: relax.Var) -> relax.Var:
        """Rename the result of something."""
        return relax.Var(self._name(), variable.ty)

    def visit_dataflow_var_def_(self, variable: relax.DataflowVar) -> relax.DataflowVar:
        """Rename a result that only its block reads."""
        return relax.DataflowVar(self._name(), variable.ty)

    def _name(self) -> str:
        self._count += 1
        return f"result_{self._count}"


@tvm.transform.module_pass(opt_level=0, name="NoteKernelCalls")  # type: ignore[untyped-decorator]
def note_kernel_calls(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Note what ``main`` calls; runs behind CallTIRRewrite, and before variables lose their names to planned memory."""
    main = module["main"]
    calls = [
        _SEPARATOR.join(filter(None, (binding.value.op.name_hint, nodes)))
        for binding, nodes in bindings_with_sources(main)
        if _is_kernel_call(binding.value, module)
    ]
    noted = tvm.IRModule(module.functions, attrs=module.attrs)
    noted["main"] = main.with_attr(_CALLS, calls)
    return noted


def kernel_calls(module: tvm.IRModule) -> tuple[KernelCall, ...]:
    """Return the calls that were noted."""
    texts = [str(text).split(_SEPARATOR) for text in module["main"].attrs[_CALLS]]
    return tuple(KernelCall(kernel, tuple(nodes)) for kernel, *nodes in texts)


def _is_kernel_call(value: relax.Expr, module: tvm.IRModule) -> bool:
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.GlobalVar):
        return False
    return isinstance(module[value.op], tirx.PrimFunc)


class _Operations:
    """The operations of a ``main`` before fusion, each known by what it applies to which values."""

    def __init__(self, main: relax.Function) -> None:
        self._waiting: dict[Hashable, list[int]] = defaultdict(list)
        self._nodes: list[str] = []
        values: dict[Any, Hashable] = {parameter: place for place, parameter in enumerate(main.params)}
        for binding, node in bindings_with_sources(main):
            value = _value(binding.value, values)
            if isinstance(binding.value, relax.Call):
                self._waiting[value].append(len(self._nodes))
                value = ("operation", len(self._nodes))
                self._nodes.append(node)
            values[binding.var] = value

    def sources(self, fused: tvm.IRModule) -> dict[str, str]:
        """Return the nodes behind each variable of the fused ``main``, by its name."""
        main, found = fused["main"], dict[str, str]()
        values: dict[Any, Hashable] = {parameter: place for place, parameter in enumerate(main.params)}
        for block in main.body.blocks:
            for binding in block.bindings:
                operations: list[int] = []
                values[binding.var] = self._evaluate(binding.value, values, fused, operations)
                nodes = filter(None, dict.fromkeys(self._nodes[operation] for operation in sorted(operations)))
                if text := _SEPARATOR.join(nodes) or _last_node(binding.value, found):
                    found[binding.var.name] = text
        return found

    def _evaluate(
        self, expression: relax.Expr, values: Mapping[Any, Hashable], module: tvm.IRModule, operations: list[int]
    ) -> Hashable:
        """Return the value of an expression; the operations it holds are added to a list."""
        if not isinstance(expression, relax.Call):
            return _value(expression, values)
        if isinstance(expression.op, tvm.ir.GlobalVar):
            function = module[expression.op]
            arguments = [_value(argument, values) for argument in expression.args]
            return self._evaluate_function(function, arguments, module, operations)
        waiting = self._waiting.get(_value(expression, values), [])
        if not waiting:
            return _value(expression, values)
        operations.append(waiting.pop(0) if len(waiting) > 1 else waiting[0])
        return ("operation", operations[-1])

    def _evaluate_function(
        self, function: relax.Function, arguments: list[Hashable], module: tvm.IRModule, operations: list[int]
    ) -> Hashable:
        inner = dict(zip(function.params, arguments, strict=True))
        for block in function.body.blocks:
            for binding in block.bindings:
                inner[binding.var] = self._evaluate(binding.value, inner, module, operations)
        return _value(function.body.body, inner)


def _last_node(expression: relax.Expr, found: Mapping[str, str]) -> str:
    """Return the last node behind what an expression reads, of the first such variable."""
    texts = (found.get(variable.name, "") for variable in relax.analysis.free_vars(expression))
    return next(filter(None, texts), "").split(_SEPARATOR)[-1]


def _value(expression: Any, values: Mapping[Any, Hashable]) -> Hashable:
    """Return what an expression is, made from what its parts are."""
    if isinstance(expression, relax.Var):
        return values[expression]
    if isinstance(expression, relax.TupleGetItem):
        return ("item", _value(expression.tuple_value, values), int(expression.index))
    if isinstance(expression, relax.Tuple):
        return tuple(_value(field, values) for field in expression.fields)
    if isinstance(expression, relax.Call):
        called = [_value(argument, values) for argument in expression.args]
        return (str(expression.op), *called, str(expression.attrs))
    if isinstance(expression, tvm.ir.GlobalVar):
        return str(expression.name_hint)
    return str(expression)
