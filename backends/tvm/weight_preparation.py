"""What a stage computes from its weights alone is computed once, when the weights are loaded, not on every call.

A tensor that depends on weights only, and is read by something that depends on an input, becomes a parameter of
``main``. A function of its own, ``prepare_0``, ``prepare_1``, ..., makes it from the stored weights it needs. They are
one function a tensor, so that a loader holds one stored weight at a time beside the prepared ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import tvm
from tvm import relax, tirx
from tvm.relax.utils import copy_with_new_vars
from tvm_ffi import structural_equal

from cospipe.ir.errors import LoweringError
from cospipe.ir.manifest import TensorSpec, WeightArgument

_FUNCTIONS, _SOURCES = "cospipe.preparations", "cospipe.prepared_from"
_BROADCAST_PATTERN = 1


@tvm.transform.module_pass(opt_level=0, name="LiftWeightPreparation")  # type: ignore[untyped-decorator]
def lift_weight_preparation(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Move what depends on weights only out of ``main``; runs after AnnotateTIROpPattern and before FuseOps.

    Behind its ``num_input`` inputs, ``main`` then takes the weights that it reads as they are stored, followed by the
    prepared tensors; :func:`weight_arguments` tells which. What nothing reads is dropped, weights too.
    """
    lifting = _Lifting(module)
    main = lifting.new_main()
    lifted = tvm.IRModule(module.functions, attrs=module.attrs)
    lifted["main"] = main
    for name, preparation in lifting.named_preparations():
        lifted[name] = copy_with_new_vars(preparation.function).with_attr("global_symbol", name)
    return relax.transform.CanonicalizeBindings()(lifted)


def weight_arguments(module: tvm.IRModule, weight_names: Sequence[str]) -> tuple[WeightArgument, ...]:
    """Return what ``main`` takes behind its inputs, in order.

    Parameters
    ----------
    module : tvm.IRModule
        A module after ``lift_weight_preparation`` and any passes that followed.
    weight_names : sequence of str
        The weights that ``main`` took before, in that order.
    """
    main = module["main"]
    parameters = main.params[int(main.attrs["num_input"]) :]
    return tuple(
        _argument(parameter, str(function), [weight_names[int(position)] for position in sources])
        for parameter, function, sources in zip(parameters, main.attrs[_FUNCTIONS], main.attrs[_SOURCES], strict=True)
    )


def _argument(parameter: relax.Var, function: str, weights: list[str]) -> WeightArgument:
    shape = tuple(int(extent) for extent in parameter.ty.shape.values)
    tensor = TensorSpec(name=function or weights[0], shape=shape, dtype=str(parameter.ty.dtype))  # type: ignore[arg-type]
    return WeightArgument(tensor=tensor, function=function or None, weights=tuple(weights))


@dataclass(frozen=True)
class _Preparation:
    """A function that makes the tensor which ``parameter`` of main stands for, from the weights at ``sources``."""

    function: relax.Function
    sources: tuple[int, ...]
    parameter: relax.Var


class _Lifting:
    """The split of one ``main``.

    ``values`` holds what is bound to every variable that no input reaches, ``sources`` the positions of its weights.
    """

    def __init__(self, module: tvm.IRModule) -> None:
        self.module, self.main = module, module["main"]
        if "num_input" not in self.main.attrs:
            raise LoweringError("A pass dropped main's attribute num_input, which tells its inputs from its weights.")
        inputs = int(self.main.attrs["num_input"])
        self.inputs, self.weights = list(self.main.params[:inputs]), list(self.main.params[inputs:])
        self.sources: dict[relax.Var, frozenset[int]] = {w: frozenset({i}) for i, w in enumerate(self.weights)}
        self.values: dict[relax.Var, relax.Expr] = {}
        for block in self.main.body.blocks:
            if isinstance(block, relax.DataflowBlock):  # elsewhere a call may have effects
                self._find_sources(block)
        self.preparations: list[_Preparation] = []

    def _find_sources(self, block: relax.DataflowBlock) -> None:
        for binding in block.bindings:
            read = relax.analysis.free_vars(binding.value)
            if isinstance(binding, relax.VarBinding) and all(variable in self.sources for variable in read):
                self.sources[binding.var] = frozenset[int]().union(*(self.sources[variable] for variable in read))
                self.values[binding.var] = binding.value

    def named_preparations(self) -> list[tuple[str, _Preparation]]:
        """Return the preparations in the order main reads their tensors."""
        return [(f"prepare_{i}", preparation) for i, preparation in enumerate(reversed(self.preparations))]

    def new_main(self) -> relax.Function:
        """Return main without what is prepared; from the last binding to the first, as readers decide."""
        needed = set(relax.analysis.free_vars(self.main.body.body))
        blocks = [self._remaining(block, needed) for block in reversed(self.main.body.blocks)]
        body = relax.SeqExpr(blocks[::-1], self.main.body.body)
        unchanged = [position for position, weight in enumerate(self.weights) if weight in needed]
        prepared = self.named_preparations()
        parameters = [self.weights[position] for position in unchanged] + [p.parameter for _, p in prepared]
        main = relax.Function(self.inputs + parameters, body, self.main.ret_ty, self.main.is_pure, self.main.attrs)
        functions = [""] * len(unchanged) + [name for name, _ in prepared]
        sources = [[position] for position in unchanged] + [list(p.sources) for _, p in prepared]
        return main.with_attr(_FUNCTIONS, functions).with_attr(_SOURCES, sources)

    def _remaining(self, block: relax.BindingBlock, needed: set[relax.Var]) -> relax.BindingBlock:
        is_pure = isinstance(block, relax.DataflowBlock)
        bindings = []
        for binding in reversed(block.bindings):
            if is_pure and binding.var not in needed:
                continue
            if self._is_prepared(binding.var):
                bindings.append(relax.VarBinding(binding.var, self._parameter(binding.var)))
                continue
            needed.update(relax.analysis.free_vars(binding.value))
            bindings.append(binding)
        return type(block)(bindings[::-1])

    def _is_prepared(self, variable: relax.Var) -> bool:
        if variable not in self.values or not self.sources[variable]:
            return False
        return isinstance(variable.ty, relax.TensorType) and not self._only_repeats(self.values[variable])

    def _only_repeats(self, value: relax.Expr) -> bool:
        """Tell whether a value is an expanded copy: reading that on every call costs more than expanding on the fly."""
        if not isinstance(value, relax.Call) or value.op != tvm.ir.Op.get("relax.call_tir"):
            return False
        kernel, [*read] = self.module[value.args[0]], value.args[1]
        is_broadcast = isinstance(kernel, tirx.PrimFunc) and kernel.attrs.get("op_pattern") == _BROADCAST_PATTERN
        return is_broadcast and len(read) == 1 and _elements(value.ty) > _elements(read[0].ty)

    def _parameter(self, variable: relax.Var) -> relax.Var:
        """Return the parameter of main for a prepared tensor; equal ones share theirs."""
        function, sources = self._preparing_function(variable)
        for made in self.preparations:
            if made.sources == sources and structural_equal(made.function, function):
                return made.parameter
        parameter = relax.Var(f"prepared_{variable.name}", variable.ty)
        self.preparations.append(_Preparation(function, sources, parameter))
        return parameter

    def _preparing_function(self, variable: relax.Var) -> tuple[relax.Function, tuple[int, ...]]:
        steps: dict[relax.Var, relax.Expr] = {}
        self._collect_steps(variable, steps)
        sources = tuple(sorted(self.sources[variable]))
        result = relax.Var("result", relax.TupleType([variable.ty]))
        # A tuple, because TVM makes a view instead of a copy of a reshaped tensor only inside a dataflow block.
        bindings = [relax.VarBinding(*step) for step in (*steps.items(), (result, relax.Tuple([variable])))]
        body = relax.SeqExpr([relax.DataflowBlock(bindings)], result)
        return relax.Function([self.weights[position] for position in sources], body, result.ty), sources

    def _collect_steps(self, variable: relax.Var, steps: dict[relax.Var, relax.Expr]) -> None:
        if variable not in self.values or variable in steps:
            return
        for read in relax.analysis.free_vars(self.values[variable]):
            self._collect_steps(read, steps)
        steps[variable] = self.values[variable]


def _elements(tensor: relax.TensorType) -> int:
    return prod(int(extent) for extent in tensor.shape.values)
