"""Damaged and hostile packages: one sentence each, nothing written elsewhere, no library of them loaded."""

import gc
import hashlib
import io
import json
import os
import platform
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from library_packages import with_metadata, write_library_package
from torch import nn

from cospipe.ir.tensor_file import write_tensors
from cospipe.tvmc.main import _main

METADATA, LIBRARY, WEIGHTS = "metadata.json", "lib.so", "weights.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_library_package(nn.Linear(8, 4), (torch.ones(2, 8),), ["x"], tmp_path_factory.mktemp("p") / "good.tar")


@pytest.fixture(scope="module")
def content(good):
    """The members of a good package: their bytes by name."""
    with tarfile.open(good) as members:
        return {member.name: members.extractfile(member).read() for member in members}


@pytest.fixture
def failure(tmp_path, capsys, monkeypatch):
    """Run what is refused; return the sentence."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(package):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        assert _main(["run", str(package)]) == 4
        if any(path not in before for path in tmp_path.rglob("*")):
            gc.collect()  # what an error refers to
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("Error: ")
        assert captured.err.count("Error: ") == 1
        return captured.err

    return run


def packed(path, members, mode="w"):
    """Write a .tar file of contents by name, or of members that are made already."""
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for name, value in members:
            if isinstance(value, tarfile.TarInfo):
                archive.addfile(value)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(value)
            archive.addfile(member, io.BytesIO(value))
    return path


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return name, member


def changed(content, path, **fields):
    """Write a package whose metadata has other values."""
    metadata = {**json.loads(content[METADATA]), **fields}
    return packed(path, {**content, METADATA: json.dumps(metadata).encode()}.items())


@pytest.mark.parametrize("text", [b"", b"root:x:0:0:root:/root:/bin/bash\n" * 40, b"\x1f\x8b" + bytes(600), bytes(511)])
def test_files_that_are_no_archive(text, tmp_path, failure):
    file = tmp_path / "module.tar"
    file.write_bytes(text)
    told = failure(file)
    assert f"{file} is no package" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2", "net.pth"])
def test_models_are_to_be_compiled_first(name, tmp_path, failure):
    (tmp_path / name).write_bytes(b"PK\x03\x04 whatever it holds")
    assert f"compile it first: tvmc compile {tmp_path / name}" in failure(tmp_path / name)


def test_pipes_are_not_waited_for(tmp_path, failure):
    os.mkfifo(tmp_path / "pipe")
    assert "it is no plain file" in failure(tmp_path / "pipe")
    assert "it is no plain file" in failure("/dev/zero")


def test_compressed_packages_could_unpack_to_any_size(content, tmp_path, failure):
    assert "it is no plain .tar file" in failure(packed(tmp_path / "module.tar", content.items(), "w:gz"))


def test_every_truncation_is_noticed(good, tmp_path, failure):
    whole = good.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for size in range(1, end, 509):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        failure(tmp_path / "cut.tar")


def test_every_altered_file_is_named(content, tmp_path, failure):
    altered = {name: value[:-1] + bytes([value[-1] ^ 1]) for name, value in content.items() if name != METADATA}
    told = failure(packed(tmp_path / "altered.tar", {**content, **altered}.items()))
    assert all(f"{name} was altered (its SHA-256 differs)" in told for name in (LIBRARY, WEIGHTS))


def test_missing_files(content, tmp_path, failure):
    told = failure(packed(tmp_path / "less.tar", [(METADATA, content[METADATA])]))
    assert f"{LIBRARY} is missing" in told
    assert f"{WEIGHTS} is missing" in told


@pytest.mark.parametrize("name", ["extra.so", "../outside", "/tmp/cospipe-hostile", "a/../../outside", "é\udc80\n"])
def test_files_that_the_metadata_does_not_name(content, name, tmp_path, failure):
    package = packed(tmp_path / "more.tar", [*content.items(), (name, b"hostile")])
    assert "is no file of it" in failure(package)
    assert not Path("/tmp/cospipe-hostile").exists()


def test_members_twice(content, tmp_path, failure):
    package = packed(tmp_path / "twice.tar", [*content.items(), (f"./{LIBRARY}", b"hostile")])
    assert f"{LIBRARY} is in it 2 times" in failure(package)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("name", [METADATA, LIBRARY])
def test_files_that_are_something_else(content, kind, name, tmp_path, failure):
    others = [(n, value) for n, value in content.items() if n != name]
    told = failure(packed(tmp_path / "links.tar", [special(name, kind, "/etc/passwd"), *others]))
    assert "no plain file" in told


def test_a_link_beside_the_files(content, tmp_path, failure):
    package = packed(tmp_path / "link.tar", [special("folder", tarfile.SYMTYPE, "/"), *content.items()])
    assert "'folder' is no file of it" in failure(package)


def test_many_problems_are_not_all_told(content, tmp_path, failure):
    told = failure(packed(tmp_path / "many.tar", [*content.items(), *((f"extra{i}", b"") for i in range(500))]))
    assert told.count("\n") == 1 + 9
    assert "and 492 more" in told


@pytest.mark.parametrize("size", [1 << 40, 1 << 62, (1 << 80) - 1, -512, -1])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE])
def test_sizes_that_are_not_true(content, size, kind, tmp_path, failure):
    liar = tarfile.TarInfo(LIBRARY)
    liar.type, liar.size = kind, size
    package = packed(tmp_path / "liar.tar", [(name, content[name]) for name in (METADATA, WEIGHTS)])
    others = package.read_bytes().rstrip(b"\0")
    blocks = others + bytes(-len(others) % tarfile.BLOCKSIZE)
    package.write_bytes(blocks + liar.tobuf(tarfile.GNU_FORMAT) + content[LIBRARY])
    failure(package)


def test_negative_sizes_in_extended_headers_would_be_read_for_ever(content, tmp_path, failure):
    member = tarfile.TarInfo("endless")
    member.pax_headers = {"size": "-1536"}
    assert "lie over each other" in failure(packed(tmp_path / "endless.tar", [*content.items(), ("", member)]))


def test_sparse_files_could_fill_the_disk(content, tmp_path, failure):
    sparse = tarfile.TarInfo(LIBRARY)
    sparse.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
    others = [(name, content[name]) for name in (METADATA, WEIGHTS)]
    assert f"{LIBRARY} is no plain file" in failure(packed(tmp_path / "sparse.tar", [*others, ("", sparse)]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "nested more than"),
        (b"{}", "was not made by this tvmc"),
        (b"[]", "was not made by this tvmc"),
        (b'{"format": "cospipe-tvmc"}', "is of format version null"),
        (
            b'{"format": "cospipe-tvmc", "version": 2, "new": 1}',
            "is of format version 2, this version of cospipe reads 1",
        ),
        (b'{"format": "cospipe-tvmc", "version": true}', "is of format version true"),
        (b'{"format": "cospipe-tvmc", "version": 1, "version": 1}', "it names 'version' twice"),
        (b'{"format": "cospipe-tvmc", "version": 1}', "library: Field required"),
    ],
)
def test_metadata_that_cannot_be_read(content, text, sentence, tmp_path, failure):
    assert sentence in failure(packed(tmp_path / "bad.tar", {**content, METADATA: text}.items()))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"threads": 0}, "threads: "),
        ({"threads": "1"}, "threads: "),
        ({"threads": 1 << 20}, "threads: "),
        ({"architecture": "riscv64"}, "architecture: "),
        ({"library": "../lib.so"}, "library: "),
        ({"library": WEIGHTS}, "library: "),
        ({"weights": "/etc/passwd"}, "weights: "),
        ({"weights": "other"}, "no SHA-256 is given for other"),
        ({"files": {}}, "no SHA-256 is given for"),
        ({"files": {"../x": {"bytes": 1, "sha256": "0" * 64}}}, "is not a path inside"),
        ({"files": {LIBRARY: {"bytes": -1, "sha256": "0" * 64}}}, "bytes: "),
        ({"inputs": [{"name": "x", "shape": [1 << 31] * 3, "dtype": "float32"}]}, "no memory could hold"),
        ({"inputs": [{"name": "x", "shape": [-1, 1 << 31, 1 << 31, 8], "dtype": "float32"}]}, "no memory could hold"),
        ({"inputs": [{"name": "x", "shape": [1] * 17, "dtype": "float32"}]}, "shape: "),
        ({"inputs": [{"name": "x", "shape": [-2], "dtype": "float32"}]}, "shape.0: "),
        ({"inputs": [{"name": "x", "shape": [2, 8], "dtype": "object"}]}, "dtype: "),
        ({"inputs": [{"name": "x", "shape": [2, 8], "dtype": "float32"}] * 2}, "two inputs have the name x"),
        ({"stored_weights": []}, "which is none of its weights"),
        ({"unknown": 1}, "unknown: "),
    ],
)
def test_metadata_of_wrong_types(content, fields, sentence, tmp_path, failure):
    assert sentence in failure(changed(content, tmp_path / "wrong.tar", **fields))


def test_inputs_for_which_there_is_no_memory(content, tmp_path, failure):
    inputs = [{"name": "x", "shape": [1 << 30, 1 << 30], "dtype": "uint8"}]
    assert "There is no memory for the input x" in failure(changed(content, tmp_path / "vast.tar", inputs=inputs))


def with_file(content, path, name, value):
    """Write a package with another file, whose SHA-256 is right."""
    files = json.loads(content[METADATA])["files"]
    files[name] = {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    return changed({**content, name: value}, path, files=files)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((8, 4), "float32"), ((32,), "float32"), ((), "float32"), ((4, 8), "int32")]
)
def test_weights_that_the_library_does_not_take(content, shape, dtype, tmp_path, failure):
    write_tensors(tmp_path / WEIGHTS, {"weight": np.zeros(shape, dtype), "bias": np.zeros(4, "float32")})
    told = failure(with_file(content, tmp_path / "other.tar", WEIGHTS, (tmp_path / WEIGHTS).read_bytes()))
    assert f"{WEIGHTS} does not hold weight (4x8 float32)" in told


def test_weights_that_are_missing_or_no_tensors(content, tmp_path, failure):
    write_tensors(tmp_path / WEIGHTS, {"weight": np.zeros((4, 8), "float32")})
    less = with_file(content, tmp_path / "less.tar", WEIGHTS, (tmp_path / WEIGHTS).read_bytes())
    assert f"{WEIGHTS} does not hold bias" in failure(less)
    none = with_file(content, tmp_path / "none.tar", WEIGHTS, b"\xff" * 100)
    assert "not a safetensors file" in failure(none)


def test_libraries_that_are_none(content, tmp_path, failure):
    riscv = bytearray(content[LIBRARY])
    riscv[18] = 0xF3  # of the ELF header: the machine
    for library in (bytes(riscv), b"no library"):
        told = failure(with_file(content, tmp_path / "none.tar", LIBRARY, library))
        assert f"The library {LIBRARY} cannot be loaded" in told


def test_a_library_for_another_architecture(good, tmp_path, failure):
    other = {"aarch64": "x86_64", "x86_64": "aarch64"}[platform.machine()]
    assert f"it was compiled for {other}" in failure(with_metadata(good, tmp_path / "other.tar", architecture=other))


@pytest.mark.parametrize("names", [["mod.so", "mod.params", "mod.json"], ["./mod.tar"], ["mod.so", "consts"]])
def test_packages_of_older_tvmc(names, tmp_path, failure):
    package = packed(tmp_path / "old.tar", [(name, b"{}") for name in names])
    assert "was made by the tvmc of TVM 0.19 or older; compile the model again" in failure(package)


def test_other_archives(tmp_path, failure):
    package = packed(tmp_path / "sources.tar", [("README", b""), special("link", tarfile.SYMTYPE, "README")])
    assert "it has neither a metadata.json nor a manifest.json" in failure(package)
