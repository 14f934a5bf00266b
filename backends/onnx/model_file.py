"""Reading an ONNX file: complete, valid, and of an opset the rules know."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import checker, inliner, version_converter

from cospipe.ir.errors import CaptureError, UsageError, first_line

OLDEST_OPSET, NEWEST_OPSET = 11, 22


def read_model(path: str | Path) -> onnx.ModelProto:
    """Read an ONNX file with its external data; local functions are inlined.

    Returns
    -------
    onnx.ModelProto
        Its opset is between :data:`OLDEST_OPSET` and :data:`NEWEST_OPSET`; an older one was converted.

    Raises
    ------
    UsageError
        When there is no such file.
    CaptureError
        When it is no valid ONNX file, a file with its data is missing, or the opset is too old or too new.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no file {str(path)!r}.")
    model = _loaded(path)
    _check_valid(path, model)
    return _of_known_opset(path, inliner.inline_local_functions(model) if model.functions else model)


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise CaptureError(f"{path} is not an ONNX file: {first_line(error)}.") from error
    if not model.HasField("graph") or not model.opset_import:
        raise CaptureError(f"{path} is not an ONNX file: it has no graph.")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, checker.ValidationError) as error:
        raise CaptureError(
            f"{path} keeps its weights in other files, and reading these fails: {first_line(error)}."
            " Put them beside it."
        ) from error
    return model


def _check_valid(path: Path, model: onnx.ModelProto) -> None:
    # the checker wants shapes where other readers, this one too, do without
    declared = (*model.graph.input, *model.graph.output)
    without_shape = [value.type.tensor_type for value in declared if not value.type.tensor_type.HasField("shape")]
    for tensor_type in without_shape:
        tensor_type.shape.SetInParent()
    try:
        # protobuf cannot pass more than 2 GiB to the checker but as a file
        checker.check_model(str(path) if model.ByteSize() >= checker.MAXIMUM_PROTOBUF else model)
    except checker.ValidationError as error:
        raise CaptureError(f"{path} is not a valid ONNX file: {first_line(error)}.") from error
    for tensor_type in without_shape:
        tensor_type.ClearField("shape")


def _of_known_opset(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OLDEST_OPSET)
    if opset > NEWEST_OPSET:
        raise CaptureError(
            f"{path} uses opset {opset}; {OLDEST_OPSET} to {NEWEST_OPSET} are supported. Export it again with one of"
            " these (opset_version of torch.onnx.export)."
        )
    if opset >= OLDEST_OPSET:
        return model
    try:
        return version_converter.convert_version(model, OLDEST_OPSET)
    except (RuntimeError, ValueError) as error:
        raise CaptureError(
            f"{path} uses opset {opset}, and converting it to {OLDEST_OPSET} fails: {first_line(error)}. Export it"
            f" again with an opset between {OLDEST_OPSET} and {NEWEST_OPSET}."
        ) from error
