"""Which nodes of a network nobody wrote a kernel for.

They get the loops of the generic schedule, or a routine of TVM. For elementwise operations and copies that is as good
as it gets; everything else is slow then.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.s_tir import SBlock
from tvm_ffi import structural_walk

from cospipe.backends.tvm.kernels.fused import is_declared
from cospipe.backends.tvm.provenance import bindings_with_sources

_NODES = "cospipe.generic_nodes"


@tvm.transform.module_pass(opt_level=0, name="NoteGenericKernels")  # type: ignore[untyped-decorator]
def note_generic_kernels(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Note the nodes of ``main`` without a kernel; runs before FuseOps, while each call belongs to one node."""
    main = module["main"]
    nodes = [node for binding, node in bindings_with_sources(main) if _is_generic(binding.value, module)]
    noted = tvm.IRModule(module.functions, attrs=module.attrs)
    noted["main"] = main.with_attr(_NODES, list(dict.fromkeys(nodes)))
    return noted


def generic_nodes(module: tvm.IRModule) -> tuple[str, ...]:
    """Return the names of the nodes that were noted, in order."""
    return tuple(str(node) for node in module["main"].attrs[_NODES])


def _is_generic(value: relax.Expr, module: tvm.IRModule) -> bool:
    if not isinstance(value, relax.Call):
        return False
    if value.op != tvm.ir.Op.get("relax.call_tir"):
        return True  # a routine of TVM, which sorts, for example
    return not all(is_declared(block) or _is_elementwise_or_copy(block) for block in _blocks(module[value.args[0]]))


def _blocks(function: tirx.PrimFunc) -> list[SBlock]:
    found: list[SBlock] = []
    structural_walk(function.body, (SBlock, found.append))
    return [block for block in found if block.name_hint != "root"]


def _is_elementwise_or_copy(block: SBlock) -> bool:
    """Tell whether each element of the result is made from at most one element of every tensor."""
    if block.init is not None or not isinstance(block.body, tirx.BufferStore):
        return False
    read: dict[Any, set[str]] = {}

    def note(load: Any) -> None:
        read.setdefault(load.source, set()).add(str(list(load.indices)))

    structural_walk(block.body, (tvm.ir.TensorLoad, note))
    return all(len(places) == 1 for places in read.values())
