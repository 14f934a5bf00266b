"""Code of a compiled network for people: Relax, TIR, LLVM's intermediate representation, assembly."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx

from cospipe.backends.replacement import scratch_beside
from cospipe.ir.errors import BundleError, first_line

FORMATS = ("relax", "tir", "ll", "asm")
_LLVM_FORMATS = {"ll": "ll", "asm": "s"}


def dump_code(
    package: Path, formats: Sequence[str], imported: tvm.IRModule, lowered: tvm.IRModule, executable: Any
) -> None:
    """Write code beside a package, ``<package>.<format>`` each.

    Parameters
    ----------
    package : Path
        The package's file.
    formats : sequence of str
        Some of :data:`FORMATS`.
    imported, lowered : tvm.IRModule
        The network as it was imported, and as the virtual machine runs it.
    executable
        What TVM compiled.

    Raises
    ------
    BundleError
        When a file cannot be written.
    """
    makers: dict[str, Callable[[], str]] = {
        "relax": lambda: imported.script(),
        "tir": lambda: _kernels(lowered).script(),
        "ll": lambda: _llvm_text(executable.mod, "ll"),
        "asm": lambda: _llvm_text(executable.mod, "asm"),
    }
    for name in formats:
        _write(package.with_name(f"{package.name}.{name}"), makers[name]())


def _kernels(module: tvm.IRModule) -> tvm.IRModule:
    return tvm.IRModule({name: f for name, f in module.functions.items() if isinstance(f, tirx.PrimFunc)})


def _llvm_text(module: Any, name: str) -> str:
    found = [module] if module.kind == "llvm" else []
    for inner in module.imports:
        found += [inner] if inner.kind == "llvm" else list(filter(lambda m: m.kind == "llvm", inner.imports))
    return "\n".join(part.inspect_source(_LLVM_FORMATS[name]) for part in found)


def _write(path: Path, text: str) -> None:
    try:
        with scratch_beside(path) as scratch:
            (scratch / path.name).write_text(text, encoding="utf-8")
            os.replace(scratch / path.name, path)
    except OSError as error:
        raise BundleError(f"{path} could not be written: {first_line(error)}.") from error
