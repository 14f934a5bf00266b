"""Networks in Relax: TVM's JSON of a module, and the archive that ``TVMCModel.save`` writes."""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tvm

from cospipe.backends.tar_archive import read_member, unreadable
from cospipe.backends.tvm.tvmc.model import ForeignModel, LoadedModel
from cospipe.backends.tvm.tvmc.package import write_archive
from cospipe.backends.tvm.tvmc.relax_import import relax_model
from cospipe.ir.errors import CaptureError, UsageError, first_line
from cospipe.ir.tensor_file import map_tensors, write_tensors

_MODULE, _WEIGHTS, _NAMES = "relax.json", "weights.safetensors", "names.json"
_MOST_JSON_BYTES, _MOST_WEIGHT_BYTES = 1 << 30, 1 << 40


def load_relax_file(path: Path, shapes: Mapping[str, Sequence[int]]) -> ForeignModel:
    """Read a network in Relax.

    Parameters
    ----------
    path : Path
        What ``tvm.ir.save_json`` has written of a module with a function ``main``, weights as constants or as its
        parameters; or the archive of :func:`save_relax`.
    shapes : mapping of str to sequence of int
        None: the module says the shapes of its inputs.

    Raises
    ------
    UsageError
        When shapes are given.
    CaptureError
        When the file holds something else.
    """
    if shapes:
        raise UsageError(f"{path} is Relax, which has the shapes of its inputs already; leave --input-shapes out.")
    if tarfile.is_tarfile(path):
        return _load_archive(path)
    return ForeignModel(path.stem, relax_model(_module(path, path.read_text(encoding="utf-8", errors="replace"))))


def _module(path: Path, text: str) -> tvm.IRModule:
    try:
        module = tvm.ir.load_json(text)
    except Exception as error:  # TVM raises whatever it meets
        raise CaptureError(f"{path} is not the JSON of a Relax module: {first_line(error)}.") from error
    if not isinstance(module, tvm.IRModule) or "main" not in [v.name_hint for v in module.get_global_vars()]:
        raise CaptureError(f"{path} holds no Relax module with a function main.")
    return module


def _load_archive(path: Path) -> ForeignModel:
    module = _module(path, read_member(path, _MODULE, _MOST_JSON_BYTES).decode("utf-8", "replace"))
    try:
        names = json.loads(read_member(path, _NAMES, _MOST_JSON_BYTES))
        name, outputs = str(names["name"]), [str(output) for output in names["outputs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise unreadable(path, error) from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / _WEIGHTS
        file.write_bytes(read_member(path, _WEIGHTS, _MOST_WEIGHT_BYTES))
        weights = {weight: value.copy() for weight, value in map_tensors(file).items()}
    return ForeignModel(name, relax_model(module, outputs, weights))


def save_relax(model: LoadedModel, output: str | Path) -> None:
    """Write a network as Relax, an archive that ``--model-format relax`` reads.

    Raises
    ------
    UsageError
        When something other than a .tar file lies at ``output``.
    BundleError
        When it cannot be written.
    """
    relax = model.relax()

    def fill(folder: Path) -> None:
        (folder / _MODULE).write_text(tvm.ir.save_json(relax.module), encoding="utf-8")
        parameters = relax.module["main"].params[len(relax.inputs) :]
        pairs = zip(parameters, relax.weight_names, strict=True)
        write_tensors(folder / _WEIGHTS, {parameter.name: relax.weights[name] for parameter, name in pairs})
        names = {"name": model.name, "outputs": [tensor.name for tensor in relax.outputs]}
        (folder / _NAMES).write_text(json.dumps(names), encoding="utf-8")

    write_archive(os.fspath(output), fill)
