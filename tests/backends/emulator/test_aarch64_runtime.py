"""The AArch64 TVM runtime: downloaded once, checked on every use, told when it cannot be had."""

import subprocess
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from cospipe.backends.emulator import aarch64_runtime as runtime
from cospipe.ir.errors import EmulatorError

LIBRARIES = {"libtvm_runtime.so", "libtvm_ffi.so"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COSPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def downloads(cache, monkeypatch):
    """Wheels as the package index would give them, and a list of what was asked for."""
    asked = []

    def download(package, wanted, folder):
        asked.append((package, wanted))
        wheel = folder / f"{package}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(runtime._WHEELS[package], f"AArch64 code of {package}")
        return wheel

    monkeypatch.setattr(runtime, "_download_wheel", download)
    return asked


def test_both_libraries_are_downloaded_once_in_the_installed_versions(downloads, cache):
    folder = runtime.aarch64_runtime()
    assert {file.name for file in folder.iterdir()} == {*LIBRARIES, "sha256.json"}
    assert runtime.aarch64_runtime() == folder
    assert sorted(downloads) == sorted((package, version(package)) for package in runtime._WHEELS)
    assert [file.name for file in (cache / "aarch64").iterdir()] == [folder.name]


@pytest.mark.parametrize("damage", ["altered", "removed", "no sums"])
def test_a_damaged_runtime_is_downloaded_again(downloads, damage):
    folder = runtime.aarch64_runtime()
    library = folder / "libtvm_runtime.so"
    if damage == "altered":
        library.write_bytes(b"something else")
    else:
        (library if damage == "removed" else folder / "sha256.json").unlink()
    assert runtime.aarch64_runtime() == folder
    assert library.read_text() == "AArch64 code of apache-tvm"
    assert len(downloads) == 4


def test_an_interrupted_download_leaves_nothing(cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime, "_download_wheel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runtime.aarch64_runtime()
    assert list((cache / "aarch64").iterdir()) == []


def test_a_wheel_that_cannot_be_downloaded_is_named_with_the_reason(cache, monkeypatch):
    def offline(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(EmulatorError, match=rf"apache-tvm {version('apache-tvm')} .*ERROR: no network"):
        runtime.aarch64_runtime()


def test_a_cache_that_cannot_be_written_is_told(cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(EmulatorError, match="cannot be kept in"):
        runtime.aarch64_runtime()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"COSPIPE_CACHE": "/a"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/cospipe"),
        ({"HOME": "/c"}, "/c/.cache/cospipe"),
    ],
)
def test_where_the_cache_is(monkeypatch, variables, expected):
    for name in ("COSPIPE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert runtime.cache_folder() == Path(expected)
