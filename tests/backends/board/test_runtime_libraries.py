"""TVM's runtime for a board: downloaded once, checked on every use, told when it cannot be had."""

import platform
import subprocess
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

from cospipe.backends.board import cache as board_cache
from cospipe.backends.board import runtime_libraries as runtime
from cospipe.ir.errors import BoardError

LIBRARIES = {"libtvm_runtime.so", "libtvm_ffi.so"}
OTHER = "x86_64" if platform.machine() == "aarch64" else "aarch64"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COSPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def downloads(cache, monkeypatch):
    """Wheels as the package index would give them, and a list of what was asked for."""
    asked = []

    def download(package, wanted, architecture, folder):
        asked.append((package, wanted, architecture))
        wheel = folder / f"{package}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(runtime._WHEELS[package], f"{architecture} code of {package}")
        return wheel

    monkeypatch.setattr(runtime, "_download_wheel", download)
    return asked


def test_both_libraries_are_downloaded_once_in_the_installed_versions(downloads, cache):
    folder = runtime.runtime_libraries(OTHER)
    assert {file.name for file in folder.iterdir()} == {*LIBRARIES, "sha256.json"}
    assert runtime.runtime_libraries(OTHER) == folder
    assert sorted(downloads) == sorted((package, version(package), OTHER) for package in runtime._WHEELS)
    assert [file.name for file in (cache / OTHER).iterdir()] == [folder.name]


def test_those_of_this_machine_are_the_installed_ones(downloads):
    folder = runtime.runtime_libraries(platform.machine())
    for package, member in runtime._WHEELS.items():
        installed = Path(distribution(package).locate_file(member))
        assert (folder / installed.name).read_bytes() == installed.read_bytes()
    assert downloads == []


@pytest.mark.parametrize("damage", ["altered", "removed", "no sums"])
def test_a_damaged_runtime_is_downloaded_again(downloads, damage):
    folder = runtime.runtime_libraries(OTHER)
    library = folder / "libtvm_runtime.so"
    if damage == "altered":
        library.write_bytes(b"something else")
    else:
        (library if damage == "removed" else folder / "sha256.json").unlink()
    assert runtime.runtime_libraries(OTHER) == folder
    assert library.read_text() == f"{OTHER} code of apache-tvm"
    assert len(downloads) == 4


def test_an_interrupted_download_leaves_nothing(cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime, "_download_wheel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runtime.runtime_libraries(OTHER)
    assert list((cache / OTHER).iterdir()) == []


def test_a_wheel_that_cannot_be_downloaded_is_named_with_the_reason(cache, monkeypatch):
    def offline(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(BoardError, match=rf"{OTHER} wheel of apache-tvm-ffi {version('apache-tvm-ffi')} .*no network"):
        runtime.runtime_libraries(OTHER)


def test_a_cache_that_cannot_be_written_is_told(cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(BoardError, match="cannot be kept in"):
        runtime.runtime_libraries(OTHER)


def test_another_process_may_be_faster(cache):
    def fill(folder):
        (folder / "file").write_text("the same")

    def fill_slowly(folder):
        board_cache.kept("thing", fill)
        fill(folder)

    assert (board_cache.kept("thing", fill_slowly) / "file").read_text() == "the same"
    assert [file.name for file in cache.iterdir()] == ["thing"]


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
    assert board_cache.cache_folder() == Path(expected)
