"""Bundles that were damaged, altered or made to do harm: a sentence each, and nothing of them is loaded."""

import json
import os
import platform
import shutil
import subprocess

import pytest
from cpp_runner import fake_runner
from fake_stages import chain

OTHER = {"x86_64": "aarch64", "aarch64": "x86_64"}[platform.machine()]


@pytest.fixture(scope="module")
def runner():
    return fake_runner("address")


@pytest.fixture(scope="module")
def tattling(tmp_path_factory):
    """A runtime that leaves a file where it is loaded: libraries with a constructor."""
    runner = fake_runner("address")
    folder = tmp_path_factory.mktemp("tattling")
    source = folder / "tattle.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n"
        '__attribute__((constructor)) static void tattle(void) { fclose(fopen(getenv("TATTLE"), "w")); }\n'
    )
    for name in ("libtvm_ffi.so", "libtvm_runtime.so"):
        subprocess.run(["gcc", "-shared", "-fPIC", source, "-o", folder / name], check=True)
    source.unlink()
    return runner.__class__(runner.program, folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return chain(2, adapted=True).write(tmp_path_factory.mktemp("good") / "bundle")


def refused(runner, folder, tmp_path, *words):
    """Check that a bundle is refused with a sentence, before anything is loaded."""
    tattle = tmp_path / "tattle"
    ended = runner.__class__(runner.program, runner.runtime, {"TATTLE": str(tattle)}).run(folder)
    assert ended.status in (1, 2), ended
    assert ended.errors.startswith("cospipe-run: "), ended.errors
    assert ended.output == b""
    assert not tattle.exists()
    for word in words:
        assert word in ended.errors
    return ended


def test_the_runtime_would_tattle(tattling, bundle, tmp_path):
    tattle = tmp_path / "tattle"
    ended = tattling.__class__(tattling.program, tattling.runtime, {"TATTLE": str(tattle)}).run(bundle)
    assert ended.status == 1
    assert "TVMFFI" in ended.errors  # it lacks everything
    assert tattle.exists()


def _copy(bundle, tmp_path):
    return shutil.copytree(bundle.folder, tmp_path / "bundle")


NAMES = ["stage0-0.so", "stage1-0.so", "stage0.safetensors", "stage1.safetensors", "reference.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_was_cut_off_altered_lost_or_replaced_by_a_link(tattling, bundle, tmp_path, name):
    folder = _copy(bundle, tmp_path)
    file = folder / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    refused(tattling, folder, tmp_path, name, "bytes")
    file.write_bytes(whole + b"\n")
    refused(tattling, folder, tmp_path, name, "bytes")
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(tattling, folder, tmp_path, name, "SHA-256")
    file.unlink()
    refused(tattling, folder, tmp_path, name, "missing")
    (tmp_path / "elsewhere").write_bytes(whole)
    file.symlink_to(tmp_path / "elsewhere")
    refused(tattling, folder, tmp_path, name)
    file.unlink()
    os.mkfifo(file)
    refused(tattling, folder, tmp_path, name)
    file.unlink()
    file.mkdir()
    refused(tattling, folder, tmp_path, name)


def test_every_problem_is_said(tattling, bundle, tmp_path):
    folder = _copy(bundle, tmp_path)
    for name in NAMES:
        (folder / name).unlink()
    refused(tattling, folder, tmp_path, *NAMES)


def test_no_manifest(tattling, bundle, tmp_path):
    folder = _copy(bundle, tmp_path)
    (folder / "manifest.json").unlink()
    refused(tattling, folder, tmp_path, "manifest.json")
    refused(tattling, tmp_path / "nothing here", tmp_path)


def _edited(path, value):
    """Return a function that puts a value at a path of a manifest."""

    def edit(manifest):
        part = manifest
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value

    return edit


HARMFUL = {
    "path out of the bundle": _edited(("stages", 0, "library"), "../evil.so"),
    "absolute path": _edited(("stages", 0, "library"), "/lib/evil.so"),
    "path of the manifest": _edited(("reference",), "manifest.json"),
    "file that is not listed": _edited(("stages", 0, "weights"), "other.safetensors"),
    "listed file outside": lambda m: m["files"].update({"../evil": m["files"]["stage0-0.so"]}),
    "another version": _edited(("version",), 99),
    "version as text": _edited(("version",), "4"),
    "another format": _edited(("format",), "something"),
    "negative extent": _edited(("inputs", 0, "shape"), [-1, 3]),
    "absurd extent": _edited(("inputs", 0, "shape"), [2**40, 3]),
    "product that overflows": _edited(("inputs", 0, "shape"), [2**31, 2**31, 2**31]),
    "fractional extent": _edited(("inputs", 0, "shape"), [1.5]),
    "seventeen dimensions": _edited(("inputs", 0, "shape"), [1] * 17),
    "unknown type": _edited(("inputs", 0, "dtype"), "complex64"),
    "no stages": _edited(("stages",), []),
    "stages that are text": _edited(("stages",), "many"),
    "unknown key": _edited(("evil",), 1),
    "build that does not exist": _edited(("stages", 0, "replica_builds"), [7]),
    "negative build": _edited(("stages", 0, "replica_builds"), [-1]),
    "absurd threads": _edited(("stages", 0, "threads"), 10**9),
    "negative cpu": _edited(("plan", "stages", 0, "replicas", 0, "cpu_ids"), [-1]),
    "cpu beyond all": _edited(("plan", "stages", 0, "replicas", 0, "cpu_ids"), [2**40]),
    "no cpu": _edited(("plan", "stages", 0, "replicas", 0, "cpu_ids"), []),
    "tolerance zero": _edited(("relative_tolerance",), 0),
    "weight that is not stored": _edited(("stages", 0, "weight_names"), ["nobody"]),
    "slot on an unknown weight": _edited(("stages", 0, "adapter_slots", 0, "weight"), "nobody"),
    "unknown function": _edited(("stages", 0, "weight_arguments", 0, "function"), "system"),
    "other shape than stored": _edited(("stages", 0, "outputs", 0, "shape"), [7, 7]),
    "input that nothing writes": _edited(("stages", 1, "inputs", 0, "name"), "nobody"),
    "output that nothing writes": _edited(("outputs", 0, "name"), "nobody"),
    "stage that the plan lacks": _edited(("stages", 0, "name"), "other"),
    "SHA-256 of another length": _edited(("files", "stage0-0.so", "sha256"), "ab"),
    "absurd size": _edited(("files", "stage0-0.so", "bytes"), 2**70),
    "negative size": _edited(("files", "stage0-0.so", "bytes"), -1),
}


@pytest.mark.parametrize("harm", HARMFUL)
def test_a_manifest_that_does_harm(tattling, bundle, tmp_path, harm):
    folder = _copy(bundle, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    HARMFUL[harm](manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(tattling, folder, tmp_path, "manifest.json" if "other shape" not in harm else "")


NO_MANIFESTS = {
    "empty": b"",
    "cut off": b'{"format": "cospipe-bundle", "version": 4',
    "no object": b"[]",
    "not UTF-8": b'{"format": "\xff\xfe"}',
    "nested deep": b"[" * 1_000_000,
    "number beyond all": b'{"version": 1e999999}',
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("text", NO_MANIFESTS)
def test_what_is_no_manifest(tattling, bundle, tmp_path, text):
    folder = _copy(bundle, tmp_path)
    (folder / "manifest.json").write_bytes(NO_MANIFESTS[text])
    refused(tattling, folder, tmp_path, "manifest.json")


def test_a_manifest_without_an_end(tattling, bundle, tmp_path):
    folder = _copy(bundle, tmp_path)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    refused(tattling, folder, tmp_path, "manifest.json")
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("/dev/zero")
    refused(tattling, folder, tmp_path, "manifest.json")
    (folder / "manifest.json").unlink()
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk
    refused(tattling, folder, tmp_path, "manifest.json")


def test_another_architecture(tattling, bundle, tmp_path):
    folder = _copy(bundle, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["architecture"] = OTHER
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(tattling, folder, tmp_path, OTHER, platform.machine())


def test_a_bundle_without_a_runtime(runner, bundle):
    ended = runner.__class__(runner.program, None).run(bundle)
    assert ended.status == 1
    assert "--runtime" in ended.errors


@pytest.mark.parametrize("missing", ["libtvm_ffi.so", "libtvm_runtime.so"])
def test_a_runtime_that_lacks_a_library(runner, bundle, tmp_path, missing):
    folder = shutil.copytree(runner.runtime, tmp_path / "runtime")
    (folder / missing).unlink()
    ended = runner.__class__(runner.program, folder).run(bundle)
    assert ended.status == 1
    assert missing in ended.errors


def test_a_runtime_for_another_architecture(runner, bundle, tmp_path):
    folder = shutil.copytree(runner.runtime, tmp_path / "runtime")
    library = folder / "libtvm_ffi.so"
    header = bytearray(library.read_bytes())
    header[18:20] = {"x86_64": 183, "aarch64": 62}[platform.machine()].to_bytes(2, "little")  # e_machine
    library.write_bytes(header)
    ended = runner.__class__(runner.program, folder).run(bundle)
    assert ended.status == 1
    assert "libtvm_ffi.so" in ended.errors


def test_a_stage_that_is_no_library(runner, tmp_path):
    pipeline = chain(2)
    bundle = pipeline.write(tmp_path / "bundle")
    manifest = json.loads((bundle.folder / "manifest.json").read_text())
    manifest["stages"][1]["library"] = "reference.safetensors"
    (bundle.folder / "manifest.json").write_text(json.dumps(manifest))
    ended = runner.run(bundle.folder)
    assert ended.status == 1
    assert "stage1 (big:1)" in ended.errors
    assert "wrong format" in ended.errors


def test_a_library_that_takes_other_tensors_than_its_manifest_says(runner, tmp_path):
    bundle = chain(2, lines=[(), ("weights 3",)]).write(tmp_path / "bundle")
    ended = runner.run(bundle)
    assert ended.status == 1
    assert "takes 4 tensors, its manifest describes 1" in ended.errors


def test_a_weight_that_becomes_another_shape(runner, tmp_path):
    bundle = chain(1, adapted=True, lines=("prepare prepare_0 1.0 float32 1 60",)).write(tmp_path / "bundle")
    ended = runner.run(bundle)
    assert ended.status == 1
    assert "stage0" in ended.errors
    assert "weight0.made (2x3 float32)" in ended.errors


def test_a_library_that_does_not_prepare_what_it_should(runner, tmp_path):
    pipeline = chain(1, adapted=True)
    bundle = pipeline.write(tmp_path / "bundle")
    manifest = json.loads((bundle.folder / "manifest.json").read_text())
    manifest["stages"][0]["weight_arguments"][0]["function"] = "prepare_9"
    (bundle.folder / "manifest.json").write_text(json.dumps(manifest))
    ended = runner.run(bundle.folder)
    assert ended.status == 1
    assert "prepare_9" in ended.errors
