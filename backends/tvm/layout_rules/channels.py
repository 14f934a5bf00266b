"""Concatenation, parts and shuffles of channels: nothing is copied until something reads the channels together.

What comes of several of these in a row is copied once. Where whole channel blocks stay together, TVM's own copies do
it, which take elementwise operations before and behind them into their loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from tvm import relax

from cospipe.backends.tvm.kernels import channel_gather
from cospipe.backends.tvm.kernels.channel_gather import ChannelGather
from cospipe.backends.tvm.kernels.fused import call_attributes, declare
from cospipe.backends.tvm.layout import Expr, LayoutRewriter, Rule, Value, shape_of

Channels = Sequence[tuple[Value, int]]
Run = tuple[Value, int, int]
"""An image on channel blocks, a first block and the one behind the last."""


def concatenate(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Join images along their channels, or along their rows or columns."""
    fields, shape = list(call.args[0].fields), shape_of(call)
    if len(shape) != 4 or not any(layout.is_in_blocks(field) for field in fields):
        return None
    if call.attrs.axis % 4 == 1:
        return _chosen(layout, list(chain.from_iterable(layout.channels_of(field) for field in fields)), shape)
    images = [layout.blocked(field) for field in fields]
    return layout.emit_blocked(relax.op.concat(images, axis=call.attrs.axis % 4), shape)


def split(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Cut an image along its channels."""
    parts = [tuple(int(extent) for extent in part.shape) for part in call.ty.fields]
    if not _is_on_blocks(layout, call.args[0]) or call.attrs.axis % 4 != 1:
        return None
    channels, values, first = layout.channels_of(call.args[0]), [], 0
    for shape in parts:
        values.append(_chosen(layout, channels[first : first + shape[1]], shape))
        first += shape[1]
    return Value((), fields=tuple(values))


def part(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Take a range of the channels of an image."""
    data, *ranges = call.args
    axes, begin, end, strides = ([int(number) for number in numbers.fields] for numbers in ranges)
    if not _is_on_blocks(layout, data) or [axis % 4 for axis in axes] != [1]:
        return None
    channels = layout.channels_of(data)[begin[0] : end[0] : strides[0]]
    return _chosen(layout, channels, shape_of(call)) if len(channels) == shape_of(call)[1] else None


def shuffle(layout: LayoutRewriter, call: relax.Call) -> Value | None:
    """Exchange groups of channels with channels of a group: the last of a reshape, a transposition and a reshape."""
    transposition = layout.definition(call.args[0])
    if not _is_call(transposition, "relax.permute_dims"):
        return None
    cut = layout.definition(transposition.args[0])
    if not _is_call(cut, "relax.reshape") or not _is_on_blocks(layout, cut.args[0]):
        return None
    shape, groups = shape_of(cut.args[0]), shape_of(cut)
    axes = [int(axis) for axis in transposition.attrs.axes or ()]
    is_cut_at_channels = groups == (shape[0], groups[1], shape[1] // groups[1], *shape[2:])
    if axes != [0, 2, 1, 3, 4] or not is_cut_at_channels or shape_of(call) != shape:
        return None
    channels = layout.channels_of(cut.args[0])
    return _chosen(layout, [c for first in range(groups[2]) for c in channels[first :: groups[2]]], shape)


def _is_call(expression: Expr, name: str) -> bool:
    return isinstance(expression, relax.Call) and getattr(expression.op, "name", "") == name


def _is_on_blocks(layout: LayoutRewriter, expression: Expr) -> bool:
    return len(shape_of(expression)) == 4 and layout.is_in_blocks(expression)


def _chosen(layout: LayoutRewriter, channels: Channels, shape: tuple[int, ...]) -> Value:
    """Return an image of these channels."""
    block = layout.block(shape[1])

    def gather() -> Expr:
        runs = _runs(layout, channels, block)
        return _copied(layout, channels, shape) if runs is None else _joined(layout, runs)

    return Value(shape, channels=tuple(channels), gather=gather)


def _runs(layout: LayoutRewriter, channels: Channels, block: int) -> list[Run] | None:
    """Return the runs of whole blocks that channels consist of; None when they do not."""
    runs: list[Run] = []
    for first in range(0, len(channels), block):
        value, start = channels[first]
        wanted = channels[first : first + block]
        if layout.block(value.shape[1]) != block or start % block:
            return None
        if any(source is not value or channel != start + lane for lane, (source, channel) in enumerate(wanted)):
            return None
        number = start // block
        if runs and runs[-1][0] is value and runs[-1][2] == number:
            runs[-1] = (value, runs[-1][1], number + 1)
        else:
            runs.append((value, number, number + 1))
    return runs


def _joined(layout: LayoutRewriter, runs: list[Run]) -> Expr:
    images = []
    for value, first, behind in runs:
        image = layout.blocked_value(value)
        if (first, behind) != (0, shape_of(image)[1]):
            image = layout.emit_expression(relax.op.strided_slice(image, axes=[1], begin=[first], end=[behind]))
        images.append(image)
    return images[0] if len(images) == 1 else layout.emit_expression(relax.op.concat(images, axis=1))


def _copied(layout: LayoutRewriter, channels: Channels, shape: tuple[int, ...]) -> Expr:
    sources = list({id(value): value for value, _ in channels}.values())
    numbers = {id(value): number for number, value in enumerate(sources)}
    picks = tuple((numbers[id(value)], channel) for value, channel in channels)
    described = ChannelGather(shape[0], shape[2], shape[3], layout.block(shape[1]), picks)
    return layout.compute(
        lambda *images: declare(channel_gather.NAME, described.output_shape, described, *images),
        *(layout.blocked_value(value) for value in sources),
        primfunc_name_hint="channel_gather",
        primfunc_attrs=call_attributes(),
    )


RULES: dict[str, Rule] = {
    "relax.concat": concatenate,
    "relax.reshape": shuffle,
    "relax.split": split,
    "relax.strided_slice": part,
}
