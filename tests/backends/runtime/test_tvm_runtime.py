"""The TVM runtime alone: its version, and what is said where it is missing."""

import importlib.metadata
import importlib.util
import sys
import threading

import pytest

from cospipe.backends.runtime import tvm_runtime
from cospipe.ir.errors import BundleError


@pytest.mark.parametrize("version", ["0.27.0", "0.27.0.post1", "0.27.1", "0.27"])
def test_major_and_minor_must_agree(version):
    assert tvm_runtime.compatible_version(version) == "0.27"
    assert tvm_runtime.compatible_version("0.28.0") != "0.27"


def test_the_installed_version():
    assert importlib.metadata.version("apache-tvm").startswith(tvm_runtime.runtime_version())


def test_a_missing_runtime_is_told(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    for call in (tvm_runtime.load_runtime.__wrapped__, tvm_runtime.runtime_version):
        with pytest.raises(BundleError, match="pip install 'apache-tvm"):
            call()


@pytest.mark.parametrize("package", ["torch", "cuda"])
def test_packages_are_kept_away_only_while_the_runtime_is_imported(monkeypatch, package):
    monkeypatch.delitem(sys.modules, package, raising=False)
    with tvm_runtime._without_optional_packages(), pytest.raises(ImportError):
        importlib.import_module(package)
    assert package not in sys.modules


def test_torch_stays_where_it_is_loaded_already(monkeypatch):
    loaded = object()
    monkeypatch.setitem(sys.modules, "torch", loaded)
    with tvm_runtime._without_optional_packages():
        assert sys.modules["torch"] is loaded
    assert sys.modules["torch"] is loaded


@pytest.mark.parametrize(("cpu_ids", "threads", "mode"), [((4, 5), 2, -2), ((0, 1, 2), 2, -3), ((3,), 1, -2)])
def test_a_pool_gets_one_core_a_thread_or_all_cores_together(monkeypatch, cpu_ids, threads, mode):
    asked = []

    class Runtime:
        @staticmethod
        def get_global_func(name):
            return lambda *arguments: asked.append((name, *arguments, threading.get_ident()))

    monkeypatch.setattr(tvm_runtime, "load_runtime", lambda: Runtime)
    tvm_runtime.configure_thread_pool(cpu_ids, threads)
    ids = [str(cpu) for cpu in cpu_ids]
    assert asked == [("runtime.config_threadpool", mode, threads, ids, threading.get_ident())]
