"""``--desired-layout`` and ``--mixed-precision``: what they mean in Relax."""

from __future__ import annotations

from collections.abc import Sequence

from cospipe.ir.errors import UsageError, several

_OPERATIONS = {"nn.conv2d": "relax.nn.conv2d", "nn.conv2d_transpose": "relax.nn.conv2d_transpose"}
_QUANTISED = "qnn.conv2d"
_OWN_LAYOUT = "NCHW"
_WEIGHTS = {
    "nn.conv2d": {"NCHW": "OIHW", "NHWC": "OHWI"},
    "nn.conv2d_transpose": {"NCHW": "IOHW", "NHWC": "IHWO"},
}
_MIXED = {"nn.conv2d", "nn.dense"}


def layouts(desired: Sequence[str] | None, operations: Sequence[str] | None) -> dict[str, list[str]]:
    """Return the layouts of the data and weights of Relax operations.

    Networks from ONNX and PyTorch are NCHW from the start, and the inputs and outputs stay so: only what is computed
    between is converted. That NCHW is wanted therefore asks for nothing.

    Parameters
    ----------
    desired : sequence of str, optional
        ``NHWC``, or with the layout of the weights ``NHWC:OHWI``: one for all operations, or one for each.
    operations : sequence of str, optional
        Relay's names of operations, ``nn.conv2d``.

    Raises
    ------
    UsageError
        When a layout or an operation does not exist, or there are not as many layouts as operations.
    """
    if not desired:
        if operations:
            raise UsageError("--desired-layout-ops says where a --desired-layout is wanted; name that, too.")
        return {}
    chosen = list(operations) if operations else list(_OPERATIONS)
    chosen = [name for name in chosen if name != _QUANTISED]  # Relax has no quantised convolution to convert
    wanted = list(desired) * len(chosen) if len(desired) == 1 else list(desired)
    problems = [f"there is no operation {n!r}; known: {', '.join(_OPERATIONS)}" for n in chosen if n not in _OPERATIONS]
    if len(wanted) != len(chosen):
        problems.append(f"there are {len(wanted)} layouts for {len(chosen)} operations; give one, or one for each")
    pairs = [(name, text) for name, text in zip(chosen, wanted, strict=False) if name in _OPERATIONS]
    problems += [
        f"{text!r} is no layout of {name}; choose NCHW or NHWC" for name, text in pairs if not _read(name, text)
    ]
    if problems:
        raise UsageError(several("The desired layout cannot be had", problems))
    return {_OPERATIONS[name]: _read(name, text) for name, text in pairs if not text.startswith(_OWN_LAYOUT)}


def _read(operation: str, text: str) -> list[str]:
    """Return the layouts of data and weights in a text; empty when it is none."""
    data, _, weights = text.partition(":")
    if data not in _WEIGHTS[operation]:
        return []
    default = _WEIGHTS[operation][data]
    if not weights or weights == "default":
        return [data, default]
    return [data, weights] if sorted(weights) == sorted(default) else []


def mixed_precision(
    is_wanted: bool, operations: Sequence[str] | None, calculation: str, accumulation: str
) -> str | None:
    """Return the type of the results of convolutions and products that compute in FP16; None when they do not.

    Raises
    ------
    UsageError
        When something else is asked for than TVM's pass can do.
    """
    if not is_wanted:
        if operations:
            raise UsageError("--mixed-precision-ops says where --mixed-precision is wanted; add that, too.")
        return None
    if operations is not None and set(operations) != _MIXED:
        raise UsageError(
            "--mixed-precision-ops cannot be chosen any more: TVM's pass converts all convolutions and products"
            f" ({' '.join(sorted(_MIXED))}); leave it out."
        )
    if calculation != "float16":
        raise UsageError("--mixed-precision computes in float16; leave it out to compute in float32.")
    return accumulation
