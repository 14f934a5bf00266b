"""Operations written in simpler ones, where TVM's importer lacks the operation or gets it wrong.

It ignores ``alpha`` of an addition, for example, and says nothing. A rule that returns ``NotImplemented`` leaves the
operation as it is. Rules without a note on the importer are for operations it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.nn import functional

from cospipe.backends.tvm.attention import attention
from cospipe.ir.errors import UnsupportedModelError

aten = torch.ops.aten
Rule = Callable[..., Any]


def _add(left: Tensor, right: Any, *, alpha: float = 1) -> Any:
    """Scale first; the importer ignores ``alpha``."""
    if alpha == 1:
        return NotImplemented
    return left + right * alpha


def _subtract(left: Tensor, right: Any, *, alpha: float = 1) -> Any:
    """Scale first; the importer ignores ``alpha``."""
    if alpha == 1:
        return NotImplemented
    return left - right * alpha


def _subtract_from(right: Tensor, left: Any, alpha: float = 1) -> Any:
    """Add; the importer takes the type of the result from a number on the left, and ignores ``alpha``."""
    return right * -alpha + left


def _add_product(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """Multiply first; the importer makes every product FP32."""
    if added.dtype == torch.float32:
        return NotImplemented
    return torch.mm(left, right) * alpha + added * beta


def _convolve_same(
    convolution: Rule,
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: str = "valid",
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """Write out ``same``: what does not divide by two goes behind."""
    taps = weight.shape[2:]
    dilations = list(dilation) * (len(taps) // len(dilation))
    sums = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, taps, strict=True)]
    pads = [edge for total in reversed(sums) for edge in (total // 2, total - total // 2)]
    result: Tensor = convolution(functional.pad(image, pads), weight, bias, stride, [0], dilation, groups)
    return result


def _convolve(convolution: Rule, image: Tensor, weight: Tensor, *options: Any) -> Any:
    """Give a single image a batch axis."""
    if image.dim() == weight.dim():
        return NotImplemented
    batch: Tensor = convolution(image.unsqueeze(0), weight, *options)
    return batch.squeeze(0)


def _transpose_convolve(
    convolution: Rule,
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    *options: Any,
) -> Any:
    """Give a single image a batch axis; pad the whole result where TVM refuses to: by a stride or more."""
    if image.dim() < weight.dim():
        return _convolve(convolution, image, weight, bias, stride, padding, output_padding, *options)
    axes = weight.dim() - 2
    strides, paddings, more = (list(given) * (axes // len(given)) for given in (stride, padding, output_padding))
    if all(behind < step for behind, step in zip(more, strides, strict=True)):
        return NotImplemented
    whole: Tensor = convolution(image, weight, None, strides, [0], [0], *options)
    padded = functional.pad(whole, [edge for behind in reversed(more) for edge in (0, behind)])
    for axis, border in enumerate(paddings, start=2):
        padded = padded.narrow(axis, border, padded.shape[axis] - 2 * border)
    return padded if bias is None else padded + bias.reshape([-1] + [1] * axes)


def _convolve_any(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """Call the operation of the image's rank, which is imported in our own way."""
    axes = weight.dim() - 3
    if transposed:
        turned = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)[axes]
        spread: Tensor = turned(image, weight, bias, stride, padding, output_padding, groups, dilation)
        return spread
    plain = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)[axes]
    result: Tensor = plain(image, weight, bias, stride, padding, dilation, groups)
    return result


def _layer_norm(
    data: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, *options: Any
) -> Any:
    """Fill in the scale and the shift, which the importer needs; TVM knows no layer norm in double precision."""
    if data.dtype == torch.float64:
        return _layer_norm_in_parts(data, shape, weight, bias, *options)
    if weight is not None and bias is not None:
        return NotImplemented
    scale = torch.ones(list(shape), dtype=data.dtype) if weight is None else weight
    shift = torch.zeros(list(shape), dtype=data.dtype) if bias is None else bias
    result: Tensor = aten.layer_norm.default(data, list(shape), scale, shift, *options)
    return result


def _layer_norm_in_parts(
    data: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn_enable: bool = True,
) -> Tensor:
    axes = list(range(-len(shape), 0))
    deviations = data - data.mean(axes, keepdim=True)
    normal = deviations * torch.rsqrt((deviations * deviations).mean(axes, keepdim=True) + eps)
    scaled = normal if weight is None else normal * weight
    return scaled if bias is None else scaled + bias


def _group_norm(
    data: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn_enabled: bool = True,
) -> Tensor:
    """Normalise deviations from the mean; TVM subtracts squares, which loses digits where the mean is large."""
    batch, channels, *image = data.shape
    rows = data.reshape(batch, groups, channels // groups * prod(image))
    deviations = rows - rows.mean(-1, keepdim=True)
    variance = (deviations * deviations).mean(-1, keepdim=True)
    normal = (deviations * torch.rsqrt(variance + eps)).reshape(data.shape)
    per_channel = [channels, *(1 for _ in image)]
    scaled = normal if weight is None else normal * weight.reshape(per_channel)
    return scaled if bias is None else scaled + bias.reshape(per_channel)


def _instance_norm(
    data: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    use_input_stats: bool,
    _momentum: float,
    eps: float,
    _cudnn_enabled: bool,
) -> Tensor:
    if use_input_stats:
        return _group_norm(data, data.shape[1], weight, bias, eps)
    result: Tensor = aten.batch_norm.default(data, weight, bias, mean, variance, False, 0.0, eps, False)
    return result


def _rms_norm(data: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    axes = list(range(-len(shape), 0))
    epsilon = torch.finfo(data.dtype).eps if eps is None else eps
    normal = data * torch.rsqrt((data * data).mean(axes, keepdim=True) + epsilon)
    return normal if weight is None else normal * weight


def _average_pool(
    image: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Any:
    """Exchange the divisor, which the importer ignores."""
    if divisor is None:
        return NotImplemented
    if ceil_mode:
        raise UnsupportedModelError(["avg_pool2d with divisor_override and ceil_mode; leave one of them out"])
    taps = kernel[0] * kernel[-1]
    mean: Tensor = aten.avg_pool2d.default(image, kernel, stride, padding)
    return mean * (taps / divisor)


def _max_pool_1d(
    sequence: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    window = [1, *kernel], [1, *(stride or kernel)], [0, *padding], [1, *dilation]
    return _as_row(sequence, lambda image: aten.max_pool2d.default(image, *window, ceil_mode))


def _average_pool_1d(
    sequence: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    window = [1, *kernel], [1, *(stride or kernel)], [0, *padding]
    return _as_row(sequence, lambda image: aten.avg_pool2d.default(image, *window, ceil_mode, count_include_pad))


def _adaptive_average_pool_1d(sequence: Tensor, size: Sequence[int]) -> Tensor:
    return _as_row(sequence, lambda image: aten.adaptive_avg_pool2d.default(image, [1, *size]))


def _as_row(sequence: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """Pool a sequence, with or without a batch axis, as an image of one row."""
    batch = sequence if sequence.dim() == 3 else sequence.unsqueeze(0)
    pooled = pool(batch.unsqueeze(-2)).squeeze(-2)
    return pooled if sequence.dim() == 3 else pooled.squeeze(0)


def _maximum_along(data: Tensor, axes: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    chosen = sorted(axis % data.dim() for axis in axes) if axes else list(range(data.dim()))
    for axis in reversed(chosen):
        data = data.max(dim=axis, keepdim=keepdim).values
    return data


def _minimum_along(data: Tensor, axes: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    return -_maximum_along(-data, axes, keepdim)


def _minimum_and_position(data: Tensor, axis: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, positions = (-data).max(dim=axis, keepdim=keepdim)
    return -values, positions


def _standard_deviation(
    data: Tensor, axes: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Take the root of the variance; the importer ignores the correction."""
    dims = None if axes is None else list(axes)
    return data.var(dims, correction=1 if correction is None else correction, keepdim=keepdim).sqrt()


def _clamp(data: Tensor, low: float | None = None, high: float | None = None) -> Any:
    """Take integers to one bound at a time; the importer fills in infinity for the other."""
    if data.is_floating_point() or (low is not None and high is not None):
        return NotImplemented
    if low is not None:
        return torch.maximum(data, torch.full_like(data, low))
    return data if high is None else torch.minimum(data, torch.full_like(data, high))


def _upsample_nearest(image: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None) -> Any:
    """Leave whole factors to the importer; others it rounds to other pixels."""
    if _are_whole(scales):
        return NotImplemented
    result: Tensor = _BY_PYTORCH[aten.upsample_nearest2d.vec](image, size, scales)
    return result


def _upsample_bilinear(
    image: Tensor, size: Sequence[int] | None, align_corners: bool, scales: Sequence[float] | None
) -> Any:
    """Leave sizes and whole factors to the importer; it takes the factor from the sizes."""
    if scales is None or _are_whole(scales):
        return NotImplemented
    result: Tensor = _BY_PYTORCH[aten.upsample_bilinear2d.vec](image, size, align_corners, scales)
    return result


def _are_whole(scales: Sequence[float] | None) -> bool:
    return scales is not None and all(float(scale).is_integer() for scale in scales)


_BY_PYTORCH = get_decompositions(
    [
        aten.celu.default,
        aten.grid_sampler_2d.default,
        aten.masked_fill.Scalar,
        aten.pixel_shuffle.default,
        aten.upsample_bilinear2d.vec,
        aten.upsample_nearest2d.vec,
    ]
)
"""Operations the importer takes but gets wrong or fails at."""

RULES: Mapping[Any, Rule] = {
    **_BY_PYTORCH,
    aten._unsafe_view.default: aten.view.default,
    aten.add.Tensor: _add,
    aten.adaptive_avg_pool1d.default: _adaptive_average_pool_1d,
    aten.addmm.default: _add_product,
    aten.amax.default: _maximum_along,
    aten.amin.default: _minimum_along,
    aten.avg_pool1d.default: _average_pool_1d,
    aten.avg_pool2d.default: _average_pool,
    aten.clamp.default: _clamp,
    aten.conv1d.padding: partial(_convolve_same, aten.conv1d.default),
    aten.conv3d.padding: partial(_convolve_same, aten.conv3d.default),
    **{
        convolution: partial(_convolve, convolution)
        for convolution in (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
    },
    **{
        convolution: partial(_transpose_convolve, convolution)
        for convolution in (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
    },
    aten.convolution.default: _convolve_any,
    aten.conv2d.padding: partial(_convolve_same, aten.conv2d.default),
    aten.group_norm.default: _group_norm,
    aten.instance_norm.default: _instance_norm,
    aten.layer_norm.default: _layer_norm,
    aten.max_pool1d.default: _max_pool_1d,
    aten.min.dim: _minimum_and_position,
    aten.rms_norm.default: _rms_norm,
    aten.rsub.Scalar: _subtract_from,
    aten.scaled_dot_product_attention.default: attention,
    aten.std.correction: _standard_deviation,
    aten.sub.Tensor: _subtract,
    aten.upsample_bilinear2d.vec: _upsample_bilinear,
    aten.upsample_nearest2d.vec: _upsample_nearest,
}
