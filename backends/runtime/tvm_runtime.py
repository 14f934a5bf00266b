"""The TVM runtime without the TVM compiler: tvm_ffi and libtvm_runtime.so, and neither torch nor networkx."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from cospipe.ir.errors import BundleError

_ONE_CORE_A_THREAD = -2
_THREADS_SHARE_CORES = -3
_OPTIONAL_PACKAGES = ("cuda", "torch")
_NOT_INSTALLED = "The TVM runtime is not installed; install it with: pip install 'apache-tvm>=0.27,<0.28'."


@cache
def load_runtime() -> Any:
    """Load libtvm_runtime.so into the process and return the ``tvm_ffi`` module.

    Raises
    ------
    BundleError
        When TVM is not installed.
    """
    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.origin is None:
        raise BundleError(_NOT_INSTALLED)
    with _without_optional_packages():
        import tvm_ffi
    ctypes.CDLL(str(Path(spec.origin).parent / "lib" / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
    return tvm_ffi


@contextmanager
def _without_optional_packages() -> Iterator[None]:
    """Keep ``import tvm_ffi`` from importing what it only looks for: torch, to convert tensors, and CUDA's driver."""
    hidden = [name for name in _OPTIONAL_PACKAGES if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def runtime_version() -> str:
    """Return the version of the installed TVM, as ``0.27``: what a library must have been compiled with.

    Raises
    ------
    BundleError
        When TVM is not installed.
    """
    try:
        return compatible_version(importlib.metadata.version("apache-tvm"))
    except importlib.metadata.PackageNotFoundError as error:
        raise BundleError(_NOT_INSTALLED) from error


def compatible_version(version: str) -> str:
    """Return the part of a TVM version that must agree between compiler and runtime: major and minor."""
    return ".".join(version.split(".")[:2])


def configure_thread_pool(cpu_ids: Sequence[int], threads: int) -> None:
    """Give the calling thread a TVM pool of its own, before its first kernel.

    Parameters
    ----------
    cpu_ids : sequence of int
        Cores the pool may use.
    threads : int
        Size of the pool; each thread gets one core when there are as many cores, else they share all of them.
    """
    ids = [str(cpu) for cpu in cpu_ids]
    mode = _ONE_CORE_A_THREAD if len(ids) == threads else _THREADS_SHARE_CORES
    load_runtime().get_global_func("runtime.config_threadpool")(mode, threads, ids)
