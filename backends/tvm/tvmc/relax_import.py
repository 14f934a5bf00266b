"""Networks by TVM's own front ends: what ours lacks, sizes that are known only when the network runs, and Relax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tvm
from tvm import relax, tirx

from cospipe.backends.tvm.tvmc.model import RelaxModel, distinct_names
from cospipe.backends.tvm.tvmc.package_metadata import DYNAMIC, PackagedTensor
from cospipe.ir.tensor_file import Array


def relax_model(
    module: tvm.IRModule, output_names: Iterable[str] = (), weights: Mapping[str, Array] | None = None
) -> RelaxModel:
    """Return a module that a front end of TVM made, its weights parameters of ``main`` or constants.

    Parameters
    ----------
    module : tvm.IRModule
        With the weights as attribute ``params`` of ``main`` where they are parameters.
    output_names : iterable of str
        Names of the outputs; ``output_0``, ... where there are none.
    weights : mapping of str to array, optional
        The weights by the name of their parameter, where the attribute does not hold them.
    """
    module, detached = relax.frontend.detach_params(module)
    main = _returning_tuple(module["main"])
    module["main"] = main
    inputs = int(main.attrs["num_input"]) if main.attrs and "num_input" in main.attrs else len(main.params)
    names = distinct_names(parameter.name for parameter in main.params)
    values = [tensor.numpy() for tensor in detached.get("main", ())]
    types = list(main.ret_ty.fields)
    results = tuple(output_names) or tuple(f"output_{i}" for i in range(len(types)))
    return RelaxModel(
        module,
        names[inputs:],
        dict(weights) if weights is not None else dict(zip(names[inputs:], values, strict=True)),
        tuple(_packaged(name, parameter.ty) for name, parameter in zip(names, main.params[:inputs], strict=False)),
        tuple(_packaged(name, result) for name, result in zip(distinct_names(results), types, strict=True)),
        "tvm",
        {},
    )


def _returning_tuple(main: relax.Function) -> relax.Function:
    """Return a function that returns a tuple: of one tensor where it returned that tensor."""
    if isinstance(main.ret_ty, relax.TupleType):
        return main
    body = relax.SeqExpr(main.body.blocks, relax.Tuple([main.body.body]))
    return relax.Function(main.params, body, relax.TupleType([main.ret_ty]), main.is_pure, main.attrs)


def _packaged(name: str, tensor_type: Any) -> PackagedTensor:
    shape = getattr(tensor_type.shape, "values", None) if tensor_type.shape is not None else None
    sizes = None if shape is None else tuple(int(s) if isinstance(s, tirx.IntImm) else DYNAMIC for s in shape)
    return PackagedTensor(name=name, shape=sizes, dtype=str(tensor_type.dtype))  # type: ignore[arg-type]
