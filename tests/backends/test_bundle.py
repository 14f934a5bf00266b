"""Bundles: complete or not there at all, checked before use, never run when altered."""

import errno
import json
import os
import re
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cospipe.backends.bundle import check_output, open_bundle, replace_weights, sha256, write_bundle
from cospipe.ir.errors import BundleError, UsageError
from cospipe.ir.tensor_file import map_tensors, write_tensors


@pytest.fixture
def bundle(compiled, tmp_path):
    return open_bundle(shutil.copytree(compiled.bundle.path, tmp_path / "bundle"))


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def edit(bundle, change):
    path = bundle.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def replica(manifest):
    return manifest["plan"]["stages"][0]["replicas"][0]


def build(manifest):
    stage = manifest["stages"][0]
    return {key: stage[key] for key in ("library", "core_type", "threads", "weight_arguments")}


def weight(name):
    return {"tensor": {"name": name, "shape": [1], "dtype": "float32"}, "function": None, "weights": [name]}


def runner(**changes):
    return {"program": "cospipe-run", "libraries": ["lib/libtvm_ffi.so"], "glibc": "2.28"} | changes


def add_build(manifest, **changes):
    """Give the first stage a second replica with a build of its own."""
    planned = manifest["plan"]["stages"][0]
    planned["replicas"] = [replica(manifest)] * 2
    manifest["stages"][0].update(further_builds=[build(manifest) | changes], replica_builds=[0, 1])


def test_a_manifest_names_every_file(bundle):
    assert set(bundle.manifest.files) | {"manifest.json"} == set(contents(bundle.folder))
    assert bundle.manifest.tvm_version.startswith("0.27")


@pytest.mark.parametrize("position", range(8))
@pytest.mark.parametrize("damage", ["altered", "truncated", "removed", "linked"])
def test_any_damaged_file_is_named(bundle, tmp_path, damage, position):
    names = sorted(bundle.manifest.files)
    name = names[position % len(names)]
    file = bundle.folder / name
    data = bytearray(file.read_bytes())
    file.unlink()
    if damage == "altered":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "truncated":
        file.write_bytes(data[:-1])
    elif damage == "linked":
        (tmp_path / "elsewhere").write_bytes(data)
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"will not be run(.|\n)*{name}"):
        open_bundle(bundle.folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(version=1), r"is of format version 1(.|\n)*reads 4; compile the model again"),
        (lambda m: m.update(format="other"), "format"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.pop("plan"), "plan"),
        (lambda m: m["stages"][0].update(library="../../bin/true"), "not a path inside the bundle"),
        (lambda m: m["stages"][0].update(library="/bin/true"), "not a path inside the bundle"),
        (lambda m: m.update(reference="nothing.safetensors"), "no SHA-256"),
        (lambda m: m["stages"][0]["inputs"][0].update(shape=[-1]), "shape"),
        (lambda m: m["stages"][0]["inputs"][0].update(shape=[2**40]), "shape"),
        (lambda m: m["stages"][0]["inputs"][0].update(dtype="object"), "dtype"),
        (lambda m: m["stages"][0]["inputs"][0].update(name="nobody"), "nobody"),
        (lambda m: m["outputs"][0].update(name="nobody"), "no stage writes"),
        (lambda m: replica(m)["cores"][0].update(cores=0), r"cores\.0\.cores: .*greater than or equal to 1"),
        (lambda m: m.update(stages=[]), "stages"),
        (lambda m: replica(m).update(cpu_ids=[]), "0 cpu ids for cpu:1"),
        (lambda m: replica(m).update(cpu_ids="all"), "cpu_ids"),
        (lambda m: m["plan"]["stages"][0].update(replicas=[replica(m), replica(m)]), "builds are named for 1"),
        (lambda m: m["stages"][0].update(replica_builds=[1]), "has 1 builds, its replicas run others"),
        (lambda m: m["stages"][0].update(replica_builds=[]), "replica_builds"),
        (lambda m: m["stages"][0].update(threads=2), "a library for 2 threads on cpu:1"),
        (lambda m: m["stages"][0].update(further_builds=[{**build(m), "library": "/bin/true"}]), "inside the bundle"),
        (lambda m: add_build(m, library="other.so"), "no SHA-256 is given for other.so"),
        (lambda m: add_build(m, weight_arguments=[weight("nobody")]), "prepares or replaces nobody"),
        (lambda m: m["stages"][0]["inputs"][0].update(shape=[2**31] * 9), "no memory could hold"),
        (lambda m: m["stages"][0]["inputs"][0].update(shape=[2**31, 2**31, 2, 0]), "no memory could hold"),
        (lambda m: m["stages"][0]["weight_names"].append("nobody"), "does not hold nobody"),
        (lambda m: m.update(relative_tolerance=0), "relative_tolerance"),
        (lambda m: m.update(relative_tolerance=float("inf")), "not valid JSON: Infinity is no number"),
        (lambda m: m["files"].update({"../../outside": m["files"]["reference.safetensors"]}), "inside the bundle"),
        (lambda m: m["files"]["reference.safetensors"].update(sha256="0"), "sha256"),
        (lambda m: m["files"]["reference.safetensors"].update(bytes="many"), "bytes"),
        (lambda m: m["stages"][0].update(threads=1025), "threads"),
        (lambda m: m["stages"][0]["inputs"][0].update(shape=[1] * 17), "shape"),
        (lambda m: m["files"].update({f"{i}": m["files"]["reference.safetensors"] for i in range(65536)}), "files"),
        (lambda m: m["files"].update({"x" * 5000: m["files"]["reference.safetensors"]}), "more than 4096 bytes"),
        (lambda m: m["files"].update({"manifest.sig": m["files"]["reference.safetensors"]}), "vouch for itself"),
        (lambda m: m["files"].update({".": m["files"]["reference.safetensors"]}), "inside the bundle"),
        (lambda m: m["files"].update({"a\0b": m["files"]["reference.safetensors"]}), "inside the bundle"),
        (lambda m: replica(m).update(cpu_ids=[65536]), r"cpu_ids\.0: .*less than or equal to 65535"),
        (lambda m: replica(m).update(cpu_ids=[-1]), r"cpu_ids\.0: .*greater than or equal to 0"),
        (lambda m: replica(m).update(cpu_ids=[0] * 1025), "1025 cpu ids for cpu:1"),
        (lambda m: replica(m)["cores"][0].update(cores=1025), r"cores\.0\.cores: .*less than or equal to 1024"),
        (
            lambda m: replica(m).update(cores=[{"cluster": "cpu", "cores": 1000}] * 2),
            r"have 200\d threads, more than 1024",
        ),
        (lambda m: replica(m)["cores"][0].update(cluster="npu"), "compiled for CPU cores, not for the NPU"),
        (lambda m: replica(m).update(compute_us="1"), "compute_us: .*valid number"),
        (lambda m: replica(m).update(compute_us=float("inf")), "not valid JSON: Infinity is no number"),
        (lambda m: m["plan"].update(memory_bytes=2**63), "memory_bytes"),
        (lambda m: m["plan"]["stages"][0].update(hand_over_bytes=1.0), "hand_over_bytes: .*valid integer"),
        (lambda m: m["stages"][0].update(threads="1"), "threads: .*valid integer"),
        (lambda m: m["stages"][0].update(threads=True), "threads: .*valid integer"),
        (lambda m: m.update(winograd=1), "winograd: .*valid boolean"),
        (lambda m: m.update(version=4.0), r"is of format version 4\.0, "),
        (lambda m: m.update(version=[4]), r"is of format version \[4\], "),
        (lambda m: m.pop("version"), "version: Field required"),
        (lambda m: m.pop("format"), "format: Field required"),
        (
            lambda m: [s.update(name="twin") for s in (*m["stages"], *m["plan"]["stages"])],
            "two stages have the name twin",
        ),
        (lambda m: m.update(runner=runner()), "no SHA-256 is given for cospipe-run, lib/libtvm_ffi.so"),
        (lambda m: m.update(runner=runner(program="../cospipe-run")), "inside the bundle"),
        (lambda m: m.update(runner=runner(libraries=[])), "runner.libraries"),
        (lambda m: m.update(runner=runner(glibc="new")), "runner.glibc"),
    ],
)
def test_a_hostile_manifest_gets_a_sentence(bundle, change, words):
    edit(bundle, change)
    with pytest.raises(BundleError, match=words):
        open_bundle(bundle.folder)


@pytest.mark.parametrize("text", [b"", b"not json", b"[]", b"\xff\xfe\x00", b'{"format": 1' * 1000])
def test_a_broken_manifest_gets_a_sentence(bundle, text):
    (bundle.folder / "manifest.json").write_bytes(text)
    with pytest.raises(BundleError, match=r"manifest|damaged"):
        open_bundle(bundle.folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"version": 4, "version": 4}', "it names 'version' twice"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"[" * 100_000, "nested more than 64 deep"),
        (b"[" + b"0," * (1 << 21) + b"0]", "more than 2097152 values"),
    ],
    ids=["twice", "mark", "deep", "many"],
)
def test_a_manifest_that_two_readers_could_read_differently_is_refused(bundle, text, words):
    (bundle.folder / "manifest.json").write_bytes(text)
    with pytest.raises(BundleError, match=f"is not a bundle manifest: .*{words}"):
        open_bundle(bundle.folder)


def test_everything_wrong_with_stages_and_plan_is_told(bundle):
    def change(manifest):
        manifest["reference"] = "nothing"
        manifest["outputs"][0]["name"] = "nobody"
        replica(manifest)["cpu_ids"] = []

    edit(bundle, change)
    with pytest.raises(BundleError, match=r"no SHA-256 is given for nothing; .*0 cpu ids.*; no stage writes"):
        open_bundle(bundle.folder)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_opens_like_a_directory(compiled, tmp_path, kind):
    archive = shutil.make_archive(str(tmp_path / "bundle"), kind, compiled.bundle.folder)
    opened = open_bundle(archive)
    assert opened.manifest == compiled.bundle.manifest
    assert contents(opened.folder) == contents(compiled.bundle.folder)


@pytest.mark.parametrize("kind", ["gztar", "xztar"])
def test_compressed_tars_are_no_bundles(compiled, tmp_path, kind):
    archive = shutil.make_archive(str(tmp_path / "bundle"), kind, compiled.bundle.folder)
    with pytest.raises(BundleError, match=r"neither a bundle directory nor a \.zip or \.tar"):
        open_bundle(archive)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("manifest.json", None, "it has no manifest.json"),
        ("reference.safetensors", None, "reference.safetensors is missing"),
        ("reference.safetensors", b"altered", "reference.safetensors is missing"),
        ("stranger", b"content", "'stranger' is no file of it"),
    ],
)
def test_an_altered_tar_is_refused(bundle, tmp_path, name, change, sentence):
    if change is None:
        (bundle.folder / name).unlink()
    else:
        (bundle.folder / name).write_bytes(change)
    with pytest.raises(BundleError, match=re.escape(sentence)):
        open_bundle(shutil.make_archive(str(tmp_path / "altered"), "tar", bundle.folder))


def test_a_package_of_one_library_is_called_what_it_is(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "metadata.json").write_text("{}")
    with pytest.raises(BundleError, match=r"is a package of one library.* tvmc run"):
        open_bundle(shutil.make_archive(str(tmp_path / "net"), "tar", tmp_path / "package"))


def test_an_output_where_nothing_can_be_made_is_told_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file is no directory"):
        check_output(tmp_path / "file" / "deep" / "bundle")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="it is no plain file"):
        open_bundle(tmp_path / "pipe")


def test_a_broken_zip_gets_a_sentence(tmp_path):
    (tmp_path / "bundle.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(BundleError, match=r"neither a bundle directory nor a \.zip or \.tar"):
        open_bundle(tmp_path / "bundle.zip")


@pytest.mark.parametrize("suffix", ["", ".zip"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_write_leaves_the_old_bundle(compiled, tmp_path, error, suffix):
    output = tmp_path / f"bundle{suffix}"
    replace_weights(compiled.bundle, {}, compiled.bundle.reference(), output)
    before = output.read_bytes() if suffix else contents(output)

    def fill(folder):
        (folder / "half.so").write_bytes(b"half")
        raise error

    expected = BundleError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_bundle(output, fill)
    assert (output.read_bytes() if suffix else contents(output)) == before
    assert os.listdir(tmp_path) == [output.name]


def test_a_failed_rename_brings_the_old_bundle_back(compiled, tmp_path, monkeypatch):
    output = tmp_path / "bundle"
    replace_weights(compiled.bundle, {}, compiled.bundle.reference(), output)
    before = contents(output)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(BundleError, match="could not be written"):
        replace_weights(compiled.bundle, {}, compiled.bundle.reference(), output)
    assert contents(output) == before
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("name", ["folder", "file.txt", "folder.zip", "file.zip"])
def test_other_peoples_files_are_not_overwritten(tmp_path, name):
    path = tmp_path / name
    if name.startswith("folder"):
        path.mkdir()
        (path / "thesis.txt").write_text("years of work")
    else:
        path.write_text("years of work")
    with pytest.raises(UsageError, match="will not be overwritten"):
        check_output(path)


@pytest.mark.parametrize("name", ["extension", "photos.zip", "extension.zip"])
def test_other_peoples_archives_and_manifests_are_not_overwritten(tmp_path, name):
    folder = tmp_path / "extension"
    folder.mkdir()
    member = "cat.jpg" if name.startswith("photos") else "manifest.json"
    (folder / member).write_text('{"manifest_version": 3}')
    if name.endswith(".zip"):
        shutil.make_archive(str(tmp_path / name.removesuffix(".zip")), "zip", folder)
    with pytest.raises(UsageError, match="will not be overwritten"):
        check_output(tmp_path / name)


def test_a_damaged_bundle_may_be_replaced(bundle):
    bundle.file(bundle.manifest.reference).unlink()
    check_output(bundle.folder)


def test_the_current_directory_may_be_the_output(compiled, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    replace_weights(compiled.bundle, {}, compiled.bundle.reference(), ".")
    assert os.listdir(tmp_path) == ["here"]
    assert open_bundle(tmp_path / "here").manifest == compiled.bundle.manifest


def test_what_the_manifest_does_not_list_is_ignored_and_not_copied(bundle, tmp_path):
    (bundle.folder / "notes.txt").write_text("mine")
    (bundle.folder / "loop").symlink_to(bundle.folder)
    opened = open_bundle(bundle.folder)
    copy = replace_weights(opened, {}, opened.reference(), tmp_path / "copy")
    assert set(contents(copy.folder)) == {*bundle.manifest.files, "manifest.json"}


def test_a_bundle_may_be_replaced_by_itself_with_other_weights(bundle):
    name, stage = next((s.weight_names[0], s) for s in bundle.manifest.stages if s.weight_names)
    wanted = map_tensors(bundle.file(stage.weights))[name] + 1
    replaced = replace_weights(bundle, {name: wanted}, bundle.reference(), bundle.folder)
    assert np.array_equal(map_tensors(replaced.file(stage.weights))[name], wanted)
    others = [other for other in map_tensors(replaced.file(stage.weights)) if other != name]
    assert all(
        np.array_equal(map_tensors(replaced.file(stage.weights))[n], map_tensors(bundle.file(stage.weights))[n])
        for n in others
    )


def test_a_reference_that_does_not_fit_is_told(compiled, tmp_path):
    reference = dict(compiled.bundle.reference())
    missing = reference.popitem()[0]
    resized = next(iter(reference))
    reference |= {resized: np.zeros(1, np.float32), "nobody": np.zeros(1, np.float32)}
    with pytest.raises(UsageError) as error:
        replace_weights(compiled.bundle, {}, reference, tmp_path / "new")
    assert all(f"\n  - {name} is " in str(error.value) for name in (missing, resized, "nobody"))


@pytest.mark.parametrize("whose", ["reference", "weights"])
def test_a_bundle_that_contradicts_itself_is_not_run(bundle, whose):
    """Right sums, but tensors of other shapes or names than the manifest's: nothing may read beyond their end."""
    stage = next(s for s in bundle.manifest.stages if s.weight_names)
    name = bundle.manifest.reference if whose == "reference" else stage.weights
    missing = bundle.manifest.inputs[0].name if whose == "reference" else stage.weight_names[0]
    tensors = {**map_tensors(bundle.file(name))}
    del tensors[missing]
    write_tensors(bundle.folder / name, tensors)
    record = {"bytes": (bundle.folder / name).stat().st_size, "sha256": sha256(bundle.folder / name)}
    edit(bundle, lambda manifest: manifest["files"].update({name: record}))
    with pytest.raises(BundleError, match=f"contradicts itself(.|\n)*{name} does not hold {missing}"):
        open_bundle(bundle.folder)


def test_every_build_of_a_stage_is_compared_with_its_weights(bundle):
    number, stage = next((i, s) for i, s in enumerate(bundle.manifest.stages) if s.weight_names)
    name = stage.weight_names[0]
    tensor = {"name": name, "shape": [3, 3, 3], "dtype": "int8"}

    def change(manifest):
        stage, planned = manifest["stages"][number], manifest["plan"]["stages"][number]
        own = {key: stage[key] for key in ("library", "core_type", "threads")}
        own["weight_arguments"] = [{"tensor": tensor, "function": None, "weights": [name]}]
        stage.update(further_builds=[own], replica_builds=[0, 1])
        planned["replicas"] *= 2

    edit(bundle, change)
    with pytest.raises(BundleError, match=rf"contradicts itself(.|\n)*does not hold {name} \(3x3x3 int8\)"):
        open_bundle(bundle.folder)


def test_an_altered_zip_is_refused_wherever_the_damage_is(compiled, tmp_path):
    archive = tmp_path / "bundle.zip"
    replace_weights(compiled.bundle, {}, compiled.bundle.reference(), archive)
    whole = archive.read_bytes()
    damaged = 0
    for position in np.random.default_rng(0).integers(0, len(whole), 60):
        archive.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:  # names and times of members say nothing about what is run
            assert open_bundle(archive).manifest == compiled.bundle.manifest
        except BundleError:
            damaged += 1
    assert damaged > 40


def test_members_that_point_outside_a_zip_stay_inside(compiled, tmp_path):
    folder = shutil.copytree(compiled.bundle.folder, tmp_path / "folder")
    archive = Path(shutil.make_archive(str(tmp_path / "bundle"), "zip", folder))
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("../../escaped.txt", "outside")
    opened = open_bundle(archive)
    assert not (opened.folder.parent / "escaped.txt").exists()
    assert not (opened.folder.parent.parent / "escaped.txt").exists()


def zipped(folder, archive, change=lambda name, content: content):
    """Write a .zip of a bundle, with other contents."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
        for file in sorted(folder.iterdir()):
            members.writestr(file.name, change(file.name, file.read_bytes()))
    return archive


def test_a_zip_bomb_is_not_unpacked(bundle, tmp_path):
    name = bundle.manifest.reference
    expected = bundle.manifest.files[name].bytes
    archive = zipped(bundle.folder, tmp_path / "bomb.zip", lambda n, data: bytes(64 << 20) if n == name else data)
    assert archive.stat().st_size < 1 << 20
    with pytest.raises(BundleError, match=f"{name} has {expected + 1} bytes instead of {expected}"):
        open_bundle(archive)


def test_more_than_the_disk_holds_is_not_unpacked(bundle, tmp_path):
    edit(bundle, lambda m: m["files"][m["reference"]].update(bytes=2**60))
    with pytest.raises(BundleError, match=r"unpacks to 1152\d+ bytes, but .* has \d+ left"):
        open_bundle(zipped(bundle.folder, tmp_path / "huge.zip"))


def test_a_huge_manifest_is_not_read(bundle, tmp_path):
    size = (64 << 20) + 1
    os.truncate(bundle.folder / "manifest.json", size)
    with pytest.raises(BundleError, match=r"manifest\.json is larger than 64 MiB"):
        open_bundle(bundle.folder)
    with pytest.raises(BundleError, match=r"manifest\.json is larger than 64 MiB"):
        open_bundle(zipped(bundle.folder, tmp_path / "huge.zip"))


def test_a_zip_with_absurdly_many_members_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as members:
        for number in range(2 * 65536 + 1):
            members.writestr(zipfile.ZipInfo(str(number)), b"")
    with pytest.raises(BundleError, match="more than 131072 members"):
        open_bundle(tmp_path / "many.zip")


def test_links_in_a_zip_are_not_followed(bundle, tmp_path):
    name = bundle.manifest.reference
    archive = zipped(bundle.folder, tmp_path / "links.zip", lambda n, data: b"" if n == name else data)
    (bundle.folder / name).replace(tmp_path / "elsewhere")
    link = zipfile.ZipInfo(name)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as members, pytest.warns(UserWarning, match="Duplicate"):
        members.writestr(link, str(tmp_path / "elsewhere"))
    with pytest.raises(BundleError, match=f"will not be run(.|\n)*{name}"):
        open_bundle(archive)


def with_folder(bundle):
    """Move the reference into a folder of the bundle."""
    (bundle.folder / "data").mkdir()
    (bundle.folder / bundle.manifest.reference).rename(bundle.folder / "data" / "reference.safetensors")

    def change(manifest):
        manifest["files"]["data/reference.safetensors"] = manifest["files"].pop(manifest["reference"])
        manifest["reference"] = "data/reference.safetensors"

    edit(bundle, change)


def test_a_folder_that_is_a_link_is_refused(bundle, tmp_path):
    with_folder(bundle)
    assert open_bundle(bundle.folder).manifest.reference == "data/reference.safetensors"
    (bundle.folder / "data").rename(tmp_path / "elsewhere")
    (bundle.folder / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="data is a link, which may point anywhere"):
        open_bundle(bundle.folder)
    linked = tmp_path / "linked"
    linked.symlink_to(shutil.copytree(bundle.folder, tmp_path / "copy", symlinks=False))
    assert open_bundle(linked).manifest.reference == "data/reference.safetensors"  # the bundle itself may be a link


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_the_runner_goes_along_with_other_weights_and_the_signature_does_not(bundle, tmp_path, suffix):
    for name, content in {"cospipe-run": b"program", "lib/libtvm_ffi.so": b"library"}.items():
        (bundle.folder / name).parent.mkdir(exist_ok=True)
        (bundle.folder / name).write_bytes(content)
        record = {"bytes": len(content), "sha256": sha256(bundle.folder / name)}
        edit(bundle, lambda m, name=name, record=record: m["files"].update({name: record}))
    (bundle.folder / "cospipe-run").chmod(0o755)
    (bundle.folder / "manifest.sig").write_bytes(bytes(64))
    edit(bundle, lambda m: m.update(runner=runner()))
    opened = open_bundle(bundle.folder)
    copy = replace_weights(opened, {}, opened.reference(), tmp_path / f"copy{suffix}")
    assert copy.manifest.runner == opened.manifest.runner
    assert os.access(copy.folder / "cospipe-run", os.X_OK)
    assert not (copy.folder / "manifest.sig").exists()
    assert replace_weights(copy, {}, opened.reference(), bundle.folder).path == bundle.folder  # it is the bundle's own
    if suffix:
        with zipfile.ZipFile(copy.path) as members:
            assert members.getinfo("cospipe-run").external_attr >> 16 & 0o111 == 0o111


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(UsageError, match="There is no bundle at"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        open_bundle(tmp_path)


def test_weights_are_exchanged_by_name(compiled, tmp_path):
    stage = compiled.bundle.manifest.stages[-1]
    old = map_tensors(compiled.bundle.file(stage.weights))
    new = {name: array * 2 for name, array in old.items()}
    exchanged = replace_weights(compiled.bundle, new, compiled.bundle.reference(), tmp_path / "new")
    assert [s.library for s in exchanged.manifest.stages] == [s.library for s in compiled.bundle.manifest.stages]
    read = map_tensors(exchanged.file(stage.weights))
    assert all(np.array_equal(read[name], new[name]) for name in new)


def test_weights_that_do_not_fit_are_all_named(compiled, tmp_path):
    wrong = {"last.weight": np.zeros((2, 2), np.float32), "nobody": np.zeros(1, np.float32)}
    with pytest.raises(UsageError, match=r"nobody(.|\n)*last\.weight"):
        replace_weights(compiled.bundle, wrong, compiled.bundle.reference(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_files_the_user_put_into_a_bundle_are_not_lost(bundle, compiled):
    (bundle.folder / "notes").mkdir()
    (bundle.folder / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"notes/thesis\.txt"):
        replace_weights(compiled.bundle, {}, compiled.bundle.reference(), bundle.folder)
    assert (bundle.folder / "notes" / "thesis.txt").read_text() == "years of work"


def test_an_unreadable_manifest_vouches_for_no_file(bundle):
    (bundle.folder / "manifest.json").write_text('{"format": "cospipe-bundle", "files":')
    with pytest.raises(UsageError, match="are not the bundle's"):
        check_output(bundle.folder)
