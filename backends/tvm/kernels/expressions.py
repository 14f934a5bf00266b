"""Rewriting TIR expressions, for which TVM 0.27 has no mutator in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx
from tvm.ir import Call, StringImm, TensorLoad

Expr = Any
"""A TIR expression; TVM's Python classes are not typed."""
Load = Callable[[Any, Sequence[Expr]], Expr]
"""Makes the new expression for a read of a buffer at rewritten indices."""

_BINARY = (
    tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max,
    tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.And, tirx.Or,
)  # fmt: skip


def rewrite(expression: Expr, variables: Mapping[Any, Expr], load: Load) -> Expr:
    """Return an expression with variables replaced, and every read of a buffer made anew.

    Parameters
    ----------
    expression : tvm.ir.Expr
        What to rewrite.
    variables : mapping of Var to Expr
        New values of variables.
    load : callable
        Called with the buffer and the rewritten indices of every read.

    Raises
    ------
    TypeError
        For a kind of expression it does not know.
    """

    def visit(node: Expr) -> Expr:
        if isinstance(node, tirx.Var):
            return variables.get(node, node)
        if isinstance(node, (tirx.IntImm, tirx.FloatImm, StringImm)):
            return node
        if isinstance(node, TensorLoad):
            return load(node.source, [visit(index) for index in node.indices])
        if isinstance(node, _BINARY):
            return type(node)(visit(node.a), visit(node.b))
        if isinstance(node, tirx.Not):
            return tirx.Not(visit(node.a))
        if isinstance(node, tirx.Cast):
            return tirx.Cast(node.ty, visit(node.value))
        if isinstance(node, tirx.Select):
            return tirx.Select(visit(node.condition), visit(node.true_value), visit(node.false_value))
        if isinstance(node, Call):
            arguments = [visit(argument) for argument in node.args]
            return Call(node.op, arguments, node.attrs, node.ty_args, ret_ty=node.ty)
        raise TypeError(f"no rule to rewrite {type(node).__name__}")

    return visit(expression)
