"""Channel blocks through the whole network: images are kept as (N, C/b, H, W, b), b channels side by side.

One walk along the Relax function. Every value is known as the importer made it (plain) or in blocks, or both; an
operation with a rule takes blocks and gives blocks, any other takes plain tensors. So conversions stand only where a
graph enters and leaves the operations with rules. What is computed from weights alone is lifted out of the function
later and runs once, when the weights are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, te, tirx

from cospipe.backends.tvm.provenance import bindings_with_sources, with_sources
from cospipe.backends.tvm.tiling import Core, channel_block

Expr = Any
"""A Relax expression; TVM's Python classes are not typed."""


@dataclass
class Value:
    """A tensor of the network.

    Parameters
    ----------
    shape : tuple of int
        As the model sees it.
    plain : Expr, optional
        The tensor as the importer made it.
    blocked : Expr, optional
        The same image in channel blocks.
    fields : tuple of Value
        The parts of a tuple, which itself exists nowhere.
    channels : tuple of (Value, int)
        Where each channel of an image comes from, for one that need not be copied together before it is read.
    gather : callable, optional
        Copies such an image together, in channel blocks.
    """

    shape: tuple[int, ...]
    plain: Expr | None = None
    blocked: Expr | None = None
    fields: tuple[Value, ...] = ()
    channels: tuple[tuple[Value, int], ...] = ()
    gather: Callable[[], Expr] | None = None

    @property
    def is_blocked(self) -> bool:
        """Whether the tensor exists in channel blocks."""
        return self.blocked is not None


Rule = Callable[["LayoutRewriter", relax.Call], "Value | None"]
"""Rewrites one call; None when it does not apply after all."""


class LayoutRewriter:
    """Rewrites one Relax function; rules call its methods.

    Parameters
    ----------
    core : Core
        Where the function will run.
    rules : mapping of str to Rule
        By the name of the operation.
    allows_winograd : bool
        Whether 3x3 convolutions may be computed by Winograd's method.
    """

    def __init__(self, core: Core, rules: dict[str, Rule], allows_winograd: bool = True) -> None:
        self.core, self.allows_winograd = core, allows_winograd
        self._rules = rules
        self._values: dict[Any, Value] = {}
        self._definitions: dict[Any, Expr] = {}
        self._from_weights: set[Any] = set()
        self._source, self._sources = "", dict[str, str]()
        self._builder = relax.BlockBuilder()  # replaced by one that knows the module's other functions

    def rewrite(self, module: tvm.IRModule) -> tvm.IRModule:
        """Return the module with its ``main`` in channel blocks."""
        main = module["main"]
        others = {variable: function for variable, function in module.functions.items() if variable.name_hint != "main"}
        self._from_weights = set(main.params[int(main.attrs["num_input"]) :])
        builder = self._builder = relax.BlockBuilder(tvm.IRModule(others))
        with builder.function("main", list(main.params), attrs=dict(main.attrs) if main.attrs else {}):
            with builder.dataflow():
                for binding, self._source in bindings_with_sources(main):
                    self._note_weights(binding.var, binding.value)
                    self._definitions[binding.var] = binding.value
                    self._values[binding.var] = self._rewrite_binding(binding.value)
                result = builder.emit_output(self._plain_expression(main.body.body))
            builder.emit_func_output(result)
        rewritten = builder.get()
        rewritten["main"] = with_sources(rewritten["main"], self._sources)
        return rewritten

    def _note_weights(self, variable: relax.Var, value: Expr) -> None:
        read = relax.analysis.free_vars(value)
        if read and all(source in self._from_weights for source in read):
            self._from_weights.add(variable)

    def _rewrite_binding(self, expression: Expr) -> Value:
        if isinstance(expression, relax.TupleGetItem) and (fields := self.value(expression.tuple_value).fields):
            return fields[int(expression.index)]
        rule = self._rules.get(expression.op.name) if _is_operation(expression) else None
        rewritten = rule(self, expression) if rule else None
        return rewritten or self.emit(self._plain_expression(expression))

    def _plain_expression(self, expression: Expr) -> Expr:
        if isinstance(expression, relax.Var):
            return self.plain(expression)
        if isinstance(expression, relax.Tuple):
            return relax.Tuple([self._plain_expression(field) for field in expression.fields])
        if isinstance(expression, relax.TupleGetItem):
            return relax.TupleGetItem(self._plain_expression(expression.tuple_value), expression.index)
        if isinstance(expression, relax.Call):
            arguments = [self._plain_expression(argument) for argument in expression.args]
            return relax.Call(expression.op, arguments, expression.attrs, expression.ty_args)
        return expression

    def value(self, expression: Expr) -> Value:
        """Return what is known of an argument of the function that is rewritten."""
        known = self._values.get(expression)
        return _gathered(known) if known else Value(shape_of(expression), plain=expression)

    def channels_of(self, expression: Expr) -> tuple[tuple[Value, int], ...]:
        """Return where each channel of an image comes from, without copying it together."""
        known = self._values.setdefault(expression, Value(shape_of(expression), plain=expression))
        return known.channels or tuple((known, channel) for channel in range(known.shape[1]))

    def is_in_blocks(self, expression: Expr) -> bool:
        """Tell whether an argument is, or would be put together, in channel blocks."""
        known = self._values.get(expression)
        return known is not None and (known.is_blocked or known.gather is not None)

    def definition(self, expression: Expr) -> Expr:
        """Return the operation that computes an argument; the argument itself where no operation does."""
        return self._definitions.get(expression, expression)

    def plain(self, expression: Expr) -> Expr:
        """Return an argument as a plain tensor."""
        return self._plain_value(self.value(expression))

    def _plain_value(self, value: Value) -> Expr:
        _gathered(value)
        if value.plain is None and value.fields:
            value.plain = self.emit_expression(relax.Tuple([self._plain_value(field) for field in value.fields]))
        elif value.plain is None:
            value.plain = self._without_blocks(value)
        return value.plain

    def blocked(self, expression: Expr) -> Expr:
        """Return an argument, an image or a sequence, in channel blocks."""
        value = self.value(expression)
        self._values.setdefault(expression, value)
        return self.blocked_value(value)

    def blocked_value(self, value: Value) -> Expr:
        """Return an image or a sequence in channel blocks."""
        if _gathered(value).blocked is None:
            value.blocked = self._with_blocks(value)
        return value.blocked

    def as_image(self, expression: Expr) -> Expr:
        """Return a sequence as an image of one row; channel blocks stay as they are."""
        value = self.value(expression)
        if not value.is_blocked:
            return self.emit_expression(relax.op.reshape(value.plain, image_shape(value.shape)))
        image = relax.Var("image", relax.TensorType(image_shape(value.shape), str(expression.ty.dtype)))
        self._values[image] = Value(image_shape(value.shape), blocked=value.blocked)
        return image

    def is_weight(self, expression: Expr) -> bool:
        """Tell whether an argument is a constant or is computed from weights alone."""
        return isinstance(expression, tvm.ir.GenericConst) or expression in self._from_weights

    def block(self, channels: int) -> int:
        """Return how many channels of an image lie side by side."""
        return channel_block(channels, self.core.lanes)

    def emit(self, expression: Expr) -> Value:
        """Add an operation with a plain result."""
        variable = self.emit_expression(expression)
        return Value(shape_of(variable), plain=variable)

    def emit_blocked(self, expression: Expr, shape: Sequence[int]) -> Value:
        """Add an operation whose result is in channel blocks; ``shape`` is the plain one."""
        return Value(tuple(shape), blocked=self.emit_expression(expression))

    def emit_expression(self, expression: Expr) -> Expr:
        """Add an operation and return its result."""
        variable = self._builder.emit(expression, name_hint=self._source)
        self._sources[variable.name] = self._source
        self._note_weights(variable, expression)
        return variable

    def compute(self, function: Callable[..., te.Tensor], *arguments: Any, **options: Any) -> Expr:
        """Add a computation given as a TE function."""
        return self.emit_expression(self._builder.call_te(function, *arguments, **options))

    def _with_blocks(self, value: Value) -> Expr:
        images, channels, rows, columns = image_shape(value.shape)
        block = self.block(channels)
        if rows == columns == 1 and channels % block == 0:
            return self.emit_expression(relax.op.reshape(value.plain, (images, channels // block, 1, 1, block)))
        plain = value.plain
        if len(value.shape) == 3:
            plain = self.emit_expression(relax.op.reshape(plain, (images, channels, rows, columns)))
        return self.compute(lambda data: _to_blocks(data, block), plain, primfunc_name_hint="to_blocks")

    def _without_blocks(self, value: Value) -> Expr:
        _, channels, rows, columns = image_shape(value.shape)
        if rows == columns == 1 and channels % self.block(channels) == 0:
            return self.emit_expression(relax.op.reshape(value.blocked, value.shape))
        image = self.compute(lambda data: _from_blocks(data, channels), value.blocked, primfunc_name_hint="from_blocks")
        return image if len(value.shape) == 4 else self.emit_expression(relax.op.reshape(image, value.shape))


def _gathered(value: Value) -> Value:
    if value.gather and value.blocked is None:
        value.blocked = value.gather()
    return value


def shape_of(expression: Expr) -> tuple[int, ...]:
    """Return the shape of a tensor; of anything else, an empty one."""
    kind = expression.ty
    if not isinstance(kind, relax.TensorType) or kind.shape is None:
        return ()
    return tuple(int(extent) for extent in kind.shape)


def image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an image; a sequence, (N, C, W), is an image of one row."""
    return shape if len(shape) == 4 else (*shape[:-1], 1, shape[-1])


def _is_operation(expression: Expr) -> bool:
    return isinstance(expression, relax.Call) and isinstance(expression.op, tvm.ir.Op)


def _to_blocks(data: te.Tensor, block: int) -> te.Tensor:
    images, channels, rows, columns = (int(extent) for extent in data.shape)
    blocks = -(-channels // block)

    def element(image: Expr, outer: Expr, row: Expr, column: Expr, lane: Expr) -> Expr:
        channel = outer * block + lane
        if channels % block == 0:
            return data(image, channel, row, column)
        exists = channel < channels
        return tirx.if_then_else(exists, data(image, channel, row, column), tirx.const(0, data.dtype))

    return te.compute((images, blocks, rows, columns, block), element, name="to_blocks")


def _from_blocks(data: te.Tensor, channels: int) -> te.Tensor:
    images, _, rows, columns, block = (int(extent) for extent in data.shape)
    return te.compute(
        (images, channels, rows, columns),
        lambda image, channel, row, column: data(image, channel // block, row, column, channel % block),
        name="from_blocks",
    )
