"""Models by name: ``package.module:factory`` and ``.pt2`` files."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from torch.export import ExportedProgram

from cospipe.ir.errors import CaptureError, UsageError, first_line, nearest

DEFAULT_INPUT_SHAPE = (1, 3, 224, 224)


def load_model(
    spec: str, input_shapes: Sequence[Sequence[int]] | None = None
) -> tuple[nn.Module | ExportedProgram, tuple[torch.Tensor, ...]]:
    """Return a model and example inputs for it.

    Parameters
    ----------
    spec : str
        ``package.module:factory``, a function without arguments or a module class (or an ``nn.Module`` object), for
        example ``torchvision.models:squeezenet1_1``; or a ``.pt2`` file written by ``torch.export.save``.
    input_shapes : sequence of shapes, optional
        One shape for each input; 1x3x224x224 by default, for a file those it was exported with.

    Returns
    -------
    model : nn.Module or ExportedProgram
        A module is in eval mode.
    example_inputs : tuple of Tensor
        Those stored in the file, or normally distributed numbers from a fixed seed.

    Raises
    ------
    UsageError
        When the module, the factory or the file does not exist, or the factory needs arguments or returns no module.
    CaptureError
        When importing or calling the factory fails, the file is no exported program or has other input shapes, or
        the model is an ONNX file, which :func:`cospipe.models.load_model` takes.
    """
    if spec.endswith(".onnx"):
        raise CaptureError(
            f"{spec}: an ONNX file has no PyTorch module, which is needed here; name the factory it was exported from."
        )
    if spec.endswith(".pt2"):
        return _load_file(Path(spec), input_shapes)
    model = _load_factory(spec)
    return model.eval(), _example_inputs(input_shapes or [DEFAULT_INPUT_SHAPE])


def _example_inputs(shapes: Iterable[Sequence[int]]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=generator) for shape in shapes)


def _load_file(path: Path, shapes: Sequence[Sequence[int]] | None) -> tuple[ExportedProgram, tuple[torch.Tensor, ...]]:
    if not path.is_file():
        raise UsageError(f"There is no file {str(path)!r}.")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise CaptureError(f"{path} is not a program saved by torch.export.save: {first_line(error)}.") from error
    inputs = _program_inputs(path, program)
    _check_shapes(path, inputs, shapes)
    return program, inputs


def _program_inputs(path: Path, program: ExportedProgram) -> tuple[torch.Tensor, ...]:
    positional, by_keyword = program.example_inputs or ((), {})
    inputs = (*positional, *by_keyword.values())
    if not inputs or not all(isinstance(value, torch.Tensor) for value in inputs):
        raise CaptureError(f"{path} has no example inputs that are tensors; export it with a tuple of tensors.")
    return inputs


def _check_shapes(path: Path, inputs: Sequence[torch.Tensor], shapes: Sequence[Sequence[int]] | None) -> None:
    exported = [tuple(tensor.shape) for tensor in inputs]
    if shapes and [tuple(shape) for shape in shapes] != exported:
        raise CaptureError(
            f"{path} was exported for input(s) of shape {_shapes_text(exported)}, not {_shapes_text(shapes)};"
            " export it again with these, or leave the shape out."
        )


def _shapes_text(shapes: Iterable[Sequence[int]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def _load_factory(spec: str) -> nn.Module:
    model = load_object(
        spec,
        "model; write package.module:factory, for example torchvision.models:resnet18, or name a .pt2 or .onnx file",
    )
    if not isinstance(model, nn.Module):
        raise UsageError(f"{spec} gives a {type(model).__name__}, not a torch.nn.Module.")
    return model


def load_object(spec: str, expected: str) -> object:
    """Return what the factory ``package.module:factory`` gives; a module object of that name as it is.

    Parameters
    ----------
    spec : str
        The name; modules of the current folder are found as well.
    expected : str
        Ends the sentence "SPEC is no ..." when the text is no such name.

    Raises
    ------
    UsageError
        When the module or the factory does not exist, or the factory needs arguments.
    CaptureError
        When importing or calling the factory fails.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{spec!r} is no {expected}.")
    module = _import(module_name)
    if not hasattr(module, attribute):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UsageError(f"{module_name} has no {attribute!r}.{_suggestion(attribute, names)}")
    candidate = getattr(module, attribute)
    return candidate if isinstance(candidate, nn.Module) else _call(spec, candidate)


def _import(name: str) -> ModuleType:
    try:
        with _current_folder_on_path():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise CaptureError(f"Importing {name} fails: {first_line(error)}.") from error
        raise UsageError(
            f"There is no module {error.name!r}.{_suggestion(error.name, _siblings(error.name))}"
        ) from error
    except Exception as error:
        raise CaptureError(f"Importing {name} fails: {first_line(error)}.") from error


@contextmanager
def _current_folder_on_path() -> Iterator[None]:
    # a console script, unlike `python -m`, does not search the current folder
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _siblings(name: str) -> list[str]:
    parent = name.rpartition(".")[0]
    search_path = list(sys.modules[parent].__path__) if parent in sys.modules else None
    prefix = f"{parent}." if parent else ""
    return [f"{prefix}{entry.name}" for entry in pkgutil.iter_modules(search_path) if not entry.name.startswith("_")]


def _suggestion(name: str, known: Sequence[str]) -> str:
    # all known names are only helpful when they are few
    is_helpful = known and (len(known) <= 20 or get_close_matches(name.lower(), known, cutoff=0.5))
    return f" {nearest(name, known)}" if is_helpful else ""


def _call(spec: str, factory: Callable[[], object] | object) -> object:
    if not callable(factory):
        return factory
    needed = _required_arguments(factory)
    if needed:
        raise UsageError(
            f"{spec} needs the argument(s) {', '.join(needed)}; name a function without arguments that returns a model."
        )
    try:
        return factory()
    except Exception as error:
        raise CaptureError(f"{spec}() fails: {first_line(error)}.") from error


def _required_arguments(factory: Callable[..., object]) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    optional_kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional_kinds]
