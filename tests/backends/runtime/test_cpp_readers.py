"""The C++ readers, under sanitizers: they read what the Python readers read, and refuse what those refuse."""

import copy
import json
import os
import shutil
import struct

import cpp_readers
import hypothesis.extra.numpy as st_numpy
import numpy as np
import pytest
import safetensors.numpy
from cpp_readers import Refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_bundle import WEIGHTS, build, small_adapter, small_manifest, write_manifest, write_small_bundle

from cospipe.backends.bundle import open_bundle
from cospipe.backends.runtime.adapter_weights import adapter_overrides
from cospipe.ir.adapter_file import read_adapter, write_adapter
from cospipe.ir.errors import CospipeError, UsageError
from cospipe.ir.tensor_file import map_tensors, read_metadata, write_tensors

FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"])
ARRAYS = DTYPES.flatmap(
    lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
TENSORS = st.dictionaries(st.text(min_size=1, max_size=5).filter(lambda name: name.isprintable()), ARRAYS, max_size=5)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    return write_small_bundle(tmp_path_factory.mktemp("small") / "bundle")


@pytest.fixture
def bundle(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "bundle")


@pytest.fixture
def adapter(tmp_path):
    write_adapter(tmp_path / "adapter.safetensors", small_adapter())
    return tmp_path / "adapter.safetensors"


def refused(*arguments):
    """Return what the C++ readers say of something that they must refuse."""
    with pytest.raises(Refused) as failure:
        cpp_readers.read(*arguments)
    return failure.value


# ---- What a manifest says ----


def expected_spec(spec):
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def expected_build(build):
    arguments = [
        {"tensor": expected_spec(a.tensor), "function": a.function, "weights": list(a.weights)}
        for a in build.weight_arguments
    ]
    return {
        "library": build.library,
        "core_type": build.core_type,
        "threads": build.threads,
        "shares_by_speed": build.shares_by_speed,
        "weight_arguments": arguments,
    }


def expected_stage(stage, planned):
    replicas = [
        {
            "build": number,
            "cpu_ids": list(replica.cpu_ids),
            "configuration": replica.text,
            "predicted_us": replica.compute_us + planned.hand_over_us,
        }
        for number, replica in zip(stage.replica_builds, planned.replicas, strict=True)
    ]
    return {
        "name": stage.name,
        "weights": stage.weights,
        "inputs": [expected_spec(spec) for spec in stage.inputs],
        "outputs": [expected_spec(spec) for spec in stage.outputs],
        "weight_names": list(stage.weight_names),
        "adapter_slots": [slot.model_dump() for slot in stage.adapter_slots],
        "replaceable": list(stage.replaceable),
        "builds": [expected_build(build) for build in stage.builds],
        "replicas": replicas,
        "configuration": planned.text,
        "predicted_us": planned.time_us,
        "predicted_period_us": pytest.approx(planned.period_us),
    }


def expected_manifest(manifest):
    runner = manifest.runner
    same = ("cospipe_version", "tvm_version", "model", "architecture", "soc_architecture", "reference")
    return {
        **{name: getattr(manifest, name) for name in same},
        "soc": manifest.plan.soc,
        "inputs": [expected_spec(spec) for spec in manifest.inputs],
        "outputs": [expected_spec(spec) for spec in manifest.outputs],
        "stages": [expected_stage(*pair) for pair in zip(manifest.stages, manifest.plan.stages, strict=True)],
        "relative_tolerance": manifest.relative_tolerance,
        "runner": {"program": runner.program if runner else "", "libraries": list(runner.libraries) if runner else []},
        "files": {name: record.model_dump() for name, record in manifest.files.items()},
    }


def test_a_compiled_bundle_is_read_alike(adaptable):
    found = cpp_readers.read("bundle", adaptable.bundle.folder)
    assert found == expected_manifest(adaptable.bundle.manifest)


def drop(*path):
    """Return a change that takes something out of a manifest."""

    def change(manifest):
        *ways, last = path
        for way in ways:
            manifest = manifest[way]
        del manifest[last]

    return change


def put(value, *path):
    """Return a change that puts a value into a manifest."""

    def change(manifest):
        *ways, last = path
        for way in ways:
            manifest = manifest[way]
        manifest[last] = value

    return change


PLAN = ("plan", "stages", 1)
REPLICA = (*PLAN, "replicas", 2)
STAGE = ("stages", 0)
INPUT = (*STAGE, "inputs", 0)
ARGUMENT = (*STAGE, "weight_arguments", 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: None,
        drop("runner"),
        put(None, "runner"),
        put(None, "plan", "search"),
        drop("plan", "search"),
        drop("plan", "contention"),
        put(12.5, "plan", "energy_mj"),
        put(-3.0, "plan", "clock_mhz", "odd"),
        drop(*STAGE, "generic_nodes"),
        put(0, *PLAN, "replicas", 0, "compute_us"),
        put(0, *PLAN, "hand_over_us"),
        put("équipe 7 \N{SNOWMAN}", "model"),
        put('quotes " and \\ and \n', "passes"),
        put(1e-300, "relative_tolerance"),
        put(5, "relative_tolerance"),
        put("equal", *REPLICA, "sharing"),
    ],
)
def test_manifests_are_read_alike(bundle, change):
    manifest = small_manifest()
    change(manifest)
    write_manifest(bundle, manifest)
    assert cpp_readers.read("bundle", bundle) == expected_manifest(open_bundle(bundle).manifest)


BOTH_REFUSE = [
    ("version 3", put(3, "version"), "of format version 3, this version of cospipe reads 4; compile the model again"),
    ("version text", put("four", "version"), "is of format version"),
    ("version huge", put(10**30, "version"), "is of format version"),
    ("version null", put(None, "version"), "is of format version"),
    ("format", put("other", "format"), "format: is 'other'"),
    ("surprise", put(1, "surprise"), "surprise: this version knows no such field"),
    ("surprise in a stage", put(1, *STAGE, "surprise"), r"stages\.0\.surprise: this version knows no such field"),
    ("surprise in a plan", put(1, *REPLICA, "surprise"), r"plan\.stages\.1\.replicas\.2\.surprise: "),
    ("no plan", drop("plan"), "plan: is missing"),
    ("no library", drop(*STAGE, "library"), r"stages\.0\.library: is missing"),
    ("no dtype", drop(*INPUT, "dtype"), r"stages\.0\.inputs\.0\.dtype: is missing"),
    ("plan is a list", put([], "plan"), "plan: must be an object"),
    ("stages are an object", put({}, "stages"), "stages: must be a list"),
    ("model is a number", put(5, "model"), "model: must be a text"),
    ("tolerance is a text", put("small", "relative_tolerance"), "relative_tolerance: must be a number"),
    ("winograd is a list", put([], "winograd"), "winograd: must be true or false"),
    ("architecture", put("riscv64", "architecture"), "architecture: is 'riscv64', it must be aarch64 or x86_64"),
    ("path up", put("../../bin/true", *STAGE, "library"), r"stages\.0\.library: '\.\./\.\./bin/true' is not a path in"),
    ("path up inside", put("lib/../../x", *STAGE, "library"), "not a path inside the bundle"),
    ("path absolute", put("/bin/true", *STAGE, "library"), "not a path inside the bundle"),
    ("path double", put("//bin/true", *STAGE, "library"), "not a path inside the bundle"),
    ("path of here", put("./stage0.so", *STAGE, "library"), "not a path inside the bundle"),
    ("path to a folder", put("lib/", *STAGE, "library"), "not a path inside the bundle"),
    ("path of Windows", put("lib\\x", *STAGE, "library"), "not a path inside the bundle"),
    ("path empty", put("", *STAGE, "library"), "not a path inside the bundle"),
    ("path dot", put(".", *STAGE, "library"), "not a path inside the bundle"),
    ("path with NUL", put("stage0.so\0.txt", *STAGE, "library"), "not a path inside the bundle"),
    ("path long", put("x/" * 3000 + "x", *STAGE, "library"), "more than 4096 bytes"),
    ("path of the weights", put("../w", *STAGE, "weights"), r"stages\.0\.weights: "),
    ("path of the reference", put("../w", "reference"), "reference: "),
    ("path of the runner", put("../run", "runner", "program"), r"runner\.program: "),
    ("path of a runtime", put(["/lib/libc.so.6"], "runner", "libraries"), r"runner\.libraries\.0: "),
    ("manifest as weights", put("manifest.json", *STAGE, "weights"), "manifest.json cannot vouch for itself"),
    ("signature as library", put("manifest.sig", *STAGE, "library"), "manifest.sig cannot vouch for itself"),
    ("unknown reference", put("nothing", "reference"), "no SHA-256 is given for nothing"),
    ("unknown runner", put("nothing", "runner", "program"), "no SHA-256 is given for nothing"),
    ("negative extent", put([-1], *INPUT, "shape"), r"stages\.0\.inputs\.0\.shape\.0: is -1, it must be from 0"),
    ("large extent", put([2**40], *INPUT, "shape"), r"shape\.0: is 1099511627776, it must be"),
    ("larger extent", put([10**30], *INPUT, "shape"), r"shape\.0: must be a whole number"),
    ("largest extent", put([2**63], *INPUT, "shape"), r"shape\.0: is 9223372036854775808, it must be"),
    ("absurd shape", put([2**31] * 9, *INPUT, "shape"), "no memory could hold"),
    ("absurd shape without elements", put([2**31, 2**31, 2**31, 0], *INPUT, "shape"), "no memory could hold"),
    ("many dimensions", put([1] * 17, *INPUT, "shape"), "has 17 dimensions"),
    ("fractional extent", put([1.5], *INPUT, "shape"), "must be a whole number"),
    ("other extent", put([7], *INPUT, "shape"), r"reference\.safetensors does not hold image \(7 float32\)"),
    ("other type", put("float16", *INPUT, "dtype"), r"does not hold image \(1x3x2x2 float16\)"),
    ("dtype of objects", put("object", *INPUT, "dtype"), "'object' is no element type"),
    ("read before written", put("nobody", *INPUT, "name"), "stage0 reads nobody, which nothing before it writes"),
    ("stages swapped", lambda m: m["stages"].reverse(), "the stages of the plan and of the files differ"),
    ("output of nobody", put("nobody", "outputs", 0, "name"), "no stage writes the output nobody"),
    ("no stages", put([], "stages"), "stages: must not be empty"),
    ("no planned stages", put([], "plan", "stages"), r"plan\.stages: must not be empty"),
    ("one stage planned", lambda m: m["plan"]["stages"].pop(), "the stages of the plan and of the files differ"),
    ("no cores", put([], *REPLICA, "cores"), "cores: must not be empty"),
    ("cores are pairs", put([["big", 1]], *REPLICA, "cores"), r"cores\.0: must be an object"),
    ("zero cores", put(0, *REPLICA, "cores", 0, "cores"), r"cores\.0\.cores: is 0, it must be from 1"),
    ("a core too few", put([6, 2], *REPLICA, "cpu_ids"), "stage1 has 2 cpu ids for big:1.little:2 by-speed"),
    ("no cpu ids", drop(*REPLICA, "cpu_ids"), "stage1 has 0 cpu ids"),
    ("cpu ids are text", put("all", *REPLICA, "cpu_ids"), "cpu_ids: must be a list"),
    ("unknown sharing", put("fair", *REPLICA, "sharing"), "sharing: is 'fair', it must be equal or by-speed"),
    ("negative time", put(-1, *REPLICA, "compute_us"), "compute_us: is -1, it must be at least 0"),
    ("negative hand-over", put(-1, *PLAN, "hand_over_bytes"), "hand_over_bytes: is -1"),
    ("contention", put(0.5, "plan", "contention"), "contention: is 0.5, it must be at least 1"),
    ("no nodes", put([], *PLAN, "nodes"), "nodes: must not be empty"),
    ("search", put({"positions": 1}, "plan", "search"), r"plan\.search\.states: is missing"),
    ("a replica too many", lambda m: m["plan"]["stages"][0]["replicas"].append(m["plan"]["stages"][0]["replicas"][0]),
     "stage0 has 2 replicas, builds are named for 1"),
    ("unknown build", put([1], *STAGE, "replica_builds"), "stage0 has 1 builds, its replicas run others"),
    ("negative build", put([-1], *STAGE, "replica_builds"), r"replica_builds\.0: is -1"),
    ("no builds", put([], *STAGE, "replica_builds"), "replica_builds: must not be empty"),
    ("unused build", put([0, 0, 0], "stages", 1, "replica_builds"), "stage1 has 2 builds, its replicas run others"),
    ("other threads", put(3, *STAGE, "threads"), "stage0 runs a library for 3 threads on little:2"),
    ("no threads", put(0, *STAGE, "threads"), "threads: is 0, it must be from 1 to 1024"),
    ("absurd threads", put(1025, *STAGE, "threads"), "threads: is 1025, it must be from 1 to 1024"),
    ("build of an unknown file", put([build("other.so", "head", ["head"], 3)], "stages", 1, "further_builds"),
     "no SHA-256 is given for other.so"),
    ("build outside", put([build("/other.so", "head", ["head"], 3)], "stages", 1, "further_builds"),
     r"stages\.1\.further_builds\.0\.library: "),
    ("prepares nobody", put(["nobody"], *ARGUMENT, "weights"), "stage0 prepares or replaces nobody"),
    ("prepares of nothing", put([], *ARGUMENT, "weights"), "weights: must not be empty"),
    ("no function", put(None, *ARGUMENT, "function"), "but no function is named"),
    ("any function", put("main", *ARGUMENT, "function"), "'main' is not prepare_ and a number"),
    ("a function and more", put("prepare_1x", *ARGUMENT, "function"), "is not prepare_ and a number"),
    ("a function and a line", put("prepare_1\n", *ARGUMENT, "function"), "is not prepare_ and a number"),
    ("replaces nobody", put(["nobody"], *STAGE, "replaceable"), "stage0 prepares or replaces nobody"),
    ("slot of nobody", put("nobody", *STAGE, "adapter_slots", 0, "places"), "stage0 prepares or replaces nobody"),
    ("weight of nobody", lambda m: m["stages"][0]["weight_names"].append("nobody"), "does not hold nobody"),
    ("weight of another shape", put([2, 2], *STAGE, "weight_arguments", 0, "tensor", "shape"), "does not hold bias"),
    ("slow node", put([{"name": "a", "module": "b", "predicted_us": -1}], *STAGE, "generic_nodes"), "predicted_us"),
    ("no tolerance", put(0, "relative_tolerance"), "relative_tolerance: must be greater than 0"),
    ("negative tolerance", put(-1.0, "relative_tolerance"), "relative_tolerance: must be greater than 0"),
    ("infinite tolerance", put(float("inf"), "relative_tolerance"), "not valid JSON: line [0-9]+"),
    ("undefined tolerance", put(float("nan"), "relative_tolerance"), "not valid JSON: line [0-9]+"),
    ("runner of nothing", put([], "runner", "libraries"), "libraries: must not be empty"),
    ("any C library", put("new", "runner", "glibc"), "'new' is not a version"),
    ("version is a fraction", put(4.0, "version"), "is of format version 4.0, this version"),
    ("no version", drop("version"), "version: is missing"),
    ("no format", drop("format"), "format: is missing"),
    ("threads are text", put("2", *STAGE, "threads"), "threads: must be a whole number"),
    ("threads are true", put(True, *STAGE, "threads"), "threads: must be a whole number"),
    ("winograd is a number", put(1, "winograd"), "winograd: must be true or false"),
    ("time is a text", put("1", *REPLICA, "compute_us"), "compute_us: must be a number"),
    ("infinite time", put(float("inf"), *REPLICA, "compute_us"), "not valid JSON"),
    ("negative cpu id", put([6, 2, -1], *REPLICA, "cpu_ids"), r"cpu_ids\.2: is -1, it must be from 0 to 65535"),
    ("absurd cpu id", put([6, 2, 10**9], *REPLICA, "cpu_ids"), r"cpu_ids\.2: is 1000000000"),
    ("absurd cores", put(1025, *REPLICA, "cores", 0, "cores"), "cores: is 1025, it must be from 1 to 1024"),
    ("accelerator", put("npu", *REPLICA, "cores", 0, "cluster"), "compiled for CPU cores, not for the npu"),
    ("the same name", lambda m: [s.update(name="stage0") for s in (*m["stages"], *m["plan"]["stages"])],
     "two stages have the name stage0"),
    ("absurd replicas", lambda m: absurd_replicas(m), "all replicas together have 1027 threads, more than 1024"),
]  # fmt: skip


def absurd_replicas(manifest):
    manifest["stages"][1]["replica_builds"] = [0] * 1022 + [1]
    planned = manifest["plan"]["stages"][1]["replicas"]
    manifest["plan"]["stages"][1]["replicas"] = [planned[0]] * 1022 + [planned[2]]


def names(cases):
    return [case[0] for case in cases]


@pytest.mark.parametrize(("name", "change", "words"), BOTH_REFUSE, ids=names(BOTH_REFUSE))
def test_both_refuse_a_hostile_manifest(bundle, name, change, words):
    manifest = small_manifest()
    write_manifest(bundle, manifest)
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CospipeError):
        open_bundle(bundle)
    failure = refused("bundle", bundle)
    assert not failure.is_usage
    with pytest.raises(Refused, match=words):
        raise failure


def test_both_compare_every_build_with_the_weights(bundle):
    manifest = small_manifest()
    manifest["stages"][1]["further_builds"][0]["weight_arguments"][0]["tensor"]["shape"] = [3, 2, 2]
    write_manifest(bundle, manifest)
    words = r"stage1\.safetensors does not hold head \(3x2x2 float16\)"
    with pytest.raises(CospipeError, match=words):
        open_bundle(bundle)
    with pytest.raises(Refused, match=words):
        cpp_readers.read("bundle", bundle)


def test_every_mistake_is_listed_with_its_place(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    for change in (put(-1, *INPUT, "shape", 0), put("x", *REPLICA, "cpu_ids"), put({}, "model"), drop("inputs")):
        change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    places = [line.partition(":")[0] for line in str(refused("bundle", bundle)).splitlines()[1:]]
    assert sorted(places) == [
        "  - inputs",
        "  - model",
        "  - plan.stages.1.replicas.2.cpu_ids",
        "  - stages.0.inputs.0.shape.0",
    ]


def test_thousands_of_mistakes_are_counted(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest |= {f"surprise{number}": 0 for number in range(5000)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert str(refused("bundle", bundle)).endswith("\n  - and 4900 more")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not valid JSON: line 1, column 1"),
        (b"not json", "not valid JSON: line 1, column 2"),
        (b'{\n "format": x}', "not valid JSON: line 2, column 12"),
        (b"[]", "must be an object"),
        (b"3", "must be an object"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b'{"model": "\xc3\x28"}', "ill-formed UTF-8 byte"),
        (b'{"model": "\xed\xa0\x80"}', "ill-formed UTF-8 byte"),
        (b'{"format": 1' * 1000, "not valid JSON"),
        (b"[" * 100_000, "nested more than 64 deep"),
        (b'{"a":' * 100_000, "nested more than 64 deep"),
        (b"\0" * 100, "not valid JSON"),
        (b'{"version": 4, "model": "\x1b[2J"}', "not valid JSON"),
        (b"{} {}", "not valid JSON: line 1, column 4"),
        (b"1e999999", "not valid JSON: number overflow"),
    ],
)
def test_both_refuse_a_broken_manifest(bundle, text, words):
    (bundle / "manifest.json").write_bytes(text)
    with pytest.raises(CospipeError):
        open_bundle(bundle)
    assert words in str(refused("bundle", bundle))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"version": 4, "version": 4}', "names version twice"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"[" + b"0," * (1 << 21) + b"0]", "more than 2097152 values"),
    ],
)
def test_both_refuse_json_that_two_readers_could_read_differently(bundle, text, words):
    (bundle / "manifest.json").write_bytes(text)
    with pytest.raises(CospipeError):
        open_bundle(bundle)
    assert words in str(refused("bundle", bundle))


def test_no_terminal_is_written_to_by_a_manifest(bundle):
    manifest = small_manifest()
    manifest["surprise\x1b[2J"] = 1
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert r"surprise\x1b[2J: this version" in str(refused("bundle", bundle))


def test_a_manifest_that_is_too_large_is_not_read(bundle):
    with (bundle / "manifest.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(CospipeError):
        open_bundle(bundle)
    assert "has 67108865 bytes, which is too large" in str(refused("bundle", bundle))


# ---- The files of a bundle ----


@pytest.mark.parametrize("name", ["stage0.so", "lib/little.so", "reference.safetensors", "cospipe-run"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("altered", "was altered"),
        ("shorter", "bytes instead of"),
        ("longer", "bytes instead of"),
        ("removed", "is missing"),
        ("a link", "is a symbolic link"),
        ("a folder", "is not a file"),
        ("a pipe", "is not a file"),
    ],
)
def test_both_refuse_a_damaged_file(bundle, tmp_path, name, damage, words):
    data = (bundle / name).read_bytes()
    (bundle / name).unlink()
    other = {"altered": bytes([data[0] ^ 1]) + data[1:], "shorter": data[:-1], "longer": data + b"x"}
    if damage in other:
        (bundle / name).write_bytes(other[damage])
    elif damage == "a link":
        (tmp_path / "elsewhere").write_bytes(data)
        (bundle / name).symlink_to(tmp_path / "elsewhere")
    elif damage == "a folder":
        (bundle / name).mkdir()
    elif damage == "a pipe":
        os.mkfifo(bundle / name)
    with pytest.raises(CospipeError):
        open_bundle(bundle)
    message = str(refused("bundle", bundle))
    assert "was damaged or altered and will not be run" in message
    assert f"{name} {words}" in message or (f"{name} has" in message and words in message)


def test_a_folder_inside_a_bundle_may_not_be_a_link(bundle, tmp_path):
    shutil.move(bundle / "lib", tmp_path / "lib")
    (bundle / "lib").symlink_to(tmp_path / "lib")
    with pytest.raises(CospipeError):
        open_bundle(bundle)
    message = str(refused("bundle", bundle))
    assert "lib/little.so" in message
    assert "lib/libtvm_ffi.so" in message


def test_the_bundle_itself_may_be_a_link_and_hold_other_files(bundle, tmp_path):
    (bundle / "notes.txt").write_text("nothing of ours")
    (tmp_path / "current").symlink_to(bundle)
    assert cpp_readers.read("bundle", tmp_path / "current")["model"] == "Small"


def test_what_is_no_bundle(tmp_path):
    assert refused("bundle", tmp_path / "nowhere").is_usage
    (tmp_path / "bundle.zip").write_bytes(b"PK")
    assert "must be unpacked first" in str(refused("bundle", tmp_path / "bundle.zip"))
    (tmp_path / "empty").mkdir()
    assert "is not a bundle: its manifest.json is missing" in str(refused("bundle", tmp_path / "empty"))


def test_a_manifest_that_is_a_link_is_not_read(bundle, tmp_path):
    shutil.move(bundle / "manifest.json", tmp_path / "manifest.json")
    (bundle / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(CospipeError):
        open_bundle(bundle)
    assert "manifest.json is a symbolic link" in str(refused("bundle", bundle))


# ---- Signatures ----


@pytest.fixture
def keys(tmp_path):
    """A private key, and its public key as PEM and as 32 bytes."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives import serialization

    private = ed25519.Ed25519PrivateKey.generate()
    encoding, form = serialization.Encoding, serialization.PublicFormat
    (tmp_path / "key.pem").write_bytes(private.public_key().public_bytes(encoding.PEM, form.SubjectPublicKeyInfo))
    (tmp_path / "key.raw").write_bytes(private.public_key().public_bytes(encoding.Raw, form.Raw))
    return private


@pytest.mark.parametrize("key", ["key.pem", "key.raw"])
def test_a_signed_bundle_opens_with_its_key(bundle, keys, tmp_path, key):
    (bundle / "manifest.sig").write_bytes(keys.sign((bundle / "manifest.json").read_bytes()))
    assert cpp_readers.read("bundle", bundle, tmp_path / key) == cpp_readers.read("bundle", bundle)


@pytest.mark.parametrize("key", ["key.pem", "key.raw"])
@pytest.mark.parametrize("part", [0, 31, 32, 63])
def test_an_altered_signature_is_refused(bundle, keys, tmp_path, key, part):
    signature = bytearray(keys.sign((bundle / "manifest.json").read_bytes()))
    signature[part] ^= 1
    (bundle / "manifest.sig").write_bytes(signature)
    assert "was not signed by the owner of" in str(refused("bundle", bundle, tmp_path / key))


def test_an_altered_manifest_is_refused_before_it_is_parsed(bundle, keys, tmp_path):
    (bundle / "manifest.sig").write_bytes(keys.sign((bundle / "manifest.json").read_bytes()))
    (bundle / "manifest.json").write_bytes(b"not json")
    assert "was not signed by the owner of" in str(refused("bundle", bundle, tmp_path / "key.pem"))


@pytest.mark.parametrize("content", [None, b"", b"x" * 63, b"x" * 65])
def test_a_missing_or_short_signature_is_refused(bundle, keys, tmp_path, content):
    if content is not None:
        (bundle / "manifest.sig").write_bytes(content)
    message = str(refused("bundle", bundle, tmp_path / "key.pem"))
    assert ("is not signed" if content is None else "bytes; a signature has 64") in message
    assert cpp_readers.read("bundle", bundle)["model"] == "Small"


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"-----BEGIN PUBLIC KEY-----\nAAAA", b"\xff" * 100000])
def test_what_is_no_public_key(bundle, tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    failure = refused("bundle", bundle, tmp_path / "key")
    assert failure.is_usage
    assert "is no Ed25519 public key" in str(failure)


def test_keys_of_other_kinds_are_refused(bundle, keys, tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import x25519

    encoding, form = serialization.Encoding, serialization.PublicFormat
    other = x25519.X25519PrivateKey.generate().public_key().public_bytes(encoding.PEM, form.SubjectPublicKeyInfo)
    private = keys.private_bytes(encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for content in (other, private):
        (tmp_path / "key").write_bytes(content)
        assert "is no Ed25519 public key" in str(refused("bundle", bundle, tmp_path / "key"))
    assert refused("bundle", bundle, tmp_path / "nowhere").is_usage


# ---- Safetensors ----


def expected_tensors(path):
    tensors = {
        name: {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "data": array.tobytes().hex(),
            "is_kept": True,
            "is_aligned": True,
        }
        for name, array in map_tensors(path).items()
    }
    return {"tensors": tensors, "metadata": read_metadata(path)}


@given(tensors=TENSORS, metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2))
@FEW
def test_own_files_are_read_alike(tensors, metadata, tmp_path):
    write_tensors(tmp_path / "weights", tensors, metadata)
    assert cpp_readers.read("tensors", tmp_path / "weights") == expected_tensors(tmp_path / "weights")


@given(tensors=TENSORS)
@FEW
def test_files_of_the_safetensors_library_are_read_alike(tensors, tmp_path):
    safetensors.numpy.save_file(tensors, tmp_path / "weights")
    assert cpp_readers.read("tensors", tmp_path / "weights") == expected_tensors(tmp_path / "weights")


@given(position=st.integers(0, 400), byte=st.integers(0, 255), length=st.integers(0, 470))
@FEW
def test_what_is_accepted_of_a_damaged_file_python_reads_alike(tmp_path, position, byte, length):
    write_tensors(tmp_path / "weights", WEIGHTS["stage0.safetensors"], {"made": "here"})
    data = bytearray((tmp_path / "weights").read_bytes())
    data[position] = byte
    (tmp_path / "weights").write_bytes(data[: length + 100])
    try:
        found = cpp_readers.read("tensors", tmp_path / "weights")
    except Refused:
        return
    assert found == expected_tensors(tmp_path / "weights")


def test_a_tensor_larger_than_a_page_comes_back_after_its_memory_was_given_away(tmp_path):
    write_tensors(tmp_path / "weights", {"w": np.arange(5000, dtype=np.float32), "odd": np.arange(5001, dtype=np.int8)})
    assert cpp_readers.read("tensors", tmp_path / "weights") == expected_tensors(tmp_path / "weights")


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def safetensors_file(path, header, data=b"\0" * 64, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


BROKEN_HEADERS = [
    ({"w": entry("F33")}, "'F33' is no element type"),
    ({"w": entry("BF16", (2,))}, "'BF16' is no element type"),
    ({"w": entry(7)}, r"w\.dtype: must be a text"),
    ({"w": entry(shape=(2,))}, "a tensor of 2 float32 does not fit bytes 0 to 4"),
    ({"w": entry(shape=(-1,))}, r"w\.shape\.0: is -1"),
    ({"w": entry(shape=(2**63,))}, r"w\.shape\.0: is 9223372036854775808"),
    ({"w": entry(shape=(10**30,))}, r"w\.shape\.0: must be a whole number"),
    ({"w": entry(shape=(2**62, 4))}, "does not fit"),
    ({"w": entry(shape=(2**32, 2**32))}, "does not fit"),
    ({"w": entry(shape=(2**32, 2**32, 0), offsets=(0, 0))}, "does not fit"),
    ({"w": entry(shape=(1.5,))}, "must be a whole number"),
    ({"w": entry(shape="1")}, r"w\.shape: must be a list"),
    ({"w": entry(shape=(1,) * 17)}, "has 17 dimensions"),
    ({"w": entry(offsets=(0,))}, "data_offsets must be two numbers"),
    ({"w": entry(offsets=(0, 4, 8))}, "data_offsets must be two numbers"),
    ({"w": entry(offsets=(-4, 0))}, "is -4"),
    ({"w": entry(offsets=(4, 0))}, "does not fit bytes 4 to 0"),
    ({"w": entry(offsets=(64, 68))}, "does not fit bytes 64 to 68"),
    ({"w": entry(offsets=(2**63 - 4, 2**63))}, "it must be from 0"),
    ({"w": entry(offsets=(2**63 - 5, 2**63 - 1))}, "does not fit"),
    ({"w": entry(offsets="04")}, "must be a list"),
    ({"w": {"dtype": "F32", "shape": [1]}}, r"w\.data_offsets: is missing"),
    ({"w": [1, 2]}, "w: must be an object"),
    (b"[]", "must be an object"),
    (b"null", "must be an object"),
    (b"{", "not valid JSON"),
    (b"", "not valid JSON"),
    (b"\xff\xff", "not valid JSON"),
    (b"[" * 2000, "nested more than 64 deep"),
]


@pytest.mark.parametrize(("header", "words"), BROKEN_HEADERS)
def test_both_refuse_a_broken_header(tmp_path, header, words):
    path = safetensors_file(tmp_path / "weights", header)
    with pytest.raises(CospipeError):
        map_tensors(path)
    with pytest.raises(Refused, match=words):
        cpp_readers.read("tensors", path)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": entry(), "b": entry(offsets=(2, 6))}, "b: lies over a"),
        ({"a": entry(shape=(4,), offsets=(0, 16)), "b": entry(), "c": entry(offsets=(8, 12))}, "lies over"),
        (b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{}}', "names w twice"),
        ({"__metadata__": {"a": 1}}, "__metadata__.a: must be a text"),
        ({"__metadata__": []}, "__metadata__: must be an object"),
        ({"w": entry() | {"more": 1}}, "w.more: this version knows no such field"),
        ({"w": entry(shape=(True,))}, "must be a whole number"),
    ],
)
def test_both_refuse_headers_that_the_safetensors_library_would_not_write(tmp_path, header, words):
    path = safetensors_file(tmp_path / "weights", header)
    with pytest.raises(CospipeError):
        map_tensors(path)
    assert words in str(refused("tensors", path))


def test_empty_tensors_lie_nowhere(tmp_path):
    header = {"a": entry(shape=(0,), offsets=(2, 2)), "b": entry(), "c": entry(shape=(3, 0), offsets=(64, 64))}
    path = safetensors_file(tmp_path / "weights", header)
    assert cpp_readers.read("tensors", path) == expected_tensors(path)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 10_000])
def test_both_refuse_an_absurd_header_length(tmp_path, length):
    path = safetensors_file(tmp_path / "weights", {}, length=length)
    with pytest.raises(CospipeError):
        map_tensors(path)
    assert "cut off inside its header" in str(refused("tensors", path))


def test_both_read_no_header_longer_than_the_library_allows(tmp_path):
    with (tmp_path / "weights").open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(200_000_000)  # holes: it needs no room
    with pytest.raises(CospipeError):
        map_tensors(tmp_path / "weights")
    assert "its header has 100000001 bytes" in str(refused("tensors", tmp_path / "weights"))


@pytest.mark.parametrize("content", [b"", b"1234567", b"PK\x03\x04" * 10])
def test_other_files_are_no_safetensors(tmp_path, content):
    (tmp_path / "weights").write_bytes(content)
    assert "is not a safetensors file" in str(refused("tensors", tmp_path / "weights"))


def test_what_is_no_file_is_refused(tmp_path):
    assert "there is no such file" in str(refused("tensors", tmp_path / "nowhere"))
    assert "is not a file" in str(refused("tensors", tmp_path))


# ---- Adapters ----


def expected_overrides(bundle, adapter):
    return [
        {name: value.tobytes().hex() for name, value in overrides.items()}
        for overrides in adapter_overrides(bundle, adapter).values()
    ]


@pytest.mark.parametrize("name", ["conv", "whole"])
def test_trained_adapters_are_read_alike(adaptable, adapters, name):
    found = cpp_readers.read("adapter", adaptable.bundle.folder, adapters[name])
    assert found == expected_overrides(adaptable.bundle, adapters[name])


def test_numbers_of_all_types_are_read_alike(pristine, adapter):
    assert cpp_readers.read("adapter", pristine, adapter) == expected_overrides(open_bundle(pristine), adapter)


@given(
    values=st.lists(st.floats(-60000, 60000), min_size=4, max_size=4),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    places=st.sampled_from(["int8", "int16", "int32", "int64"]),
)
@FEW
def test_coefficients_are_rounded_alike(pristine, tmp_path, values, dtype, places):
    write_adapter(tmp_path / "a", small_adapter())
    tensors = safetensors.numpy.load_file(tmp_path / "a")
    with safetensors.safe_open(tmp_path / "a", "np") as file:
        metadata = dict(file.metadata())
    tensors["coefficients.head"] = (np.array(values) / 1.5).astype(dtype)
    tensors["trained.bias"] = np.array(values).astype(dtype)
    tensors["places.conv"] = tensors["places.conv"].astype(places)
    safetensors.numpy.save_file(tensors, tmp_path / "a", metadata)
    assert cpp_readers.read("adapter", pristine, tmp_path / "a") == expected_overrides(
        open_bundle(pristine), tmp_path / "a"
    )


def altered(path, tensors=(), header=None, metadata=None):
    """Write the small adapter with some tensors replaced (None: left out), or with another header."""
    write_adapter(path, small_adapter())
    found = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "np") as file:
        known = dict(file.metadata())
    found |= dict(tensors)
    if header is not None:
        content = json.loads(known["cospipe.adapter"])
        header(content)
        known["cospipe.adapter"] = json.dumps(content)
    kept = {name: tensor for name, tensor in found.items() if tensor is not None}
    safetensors.numpy.save_file(kept, path, known if metadata is None else metadata)
    return path


ADAPTED = ("weights", "conv")
BROKEN_ADAPTERS = [
    ({"metadata": {}}, "its header does not say so"),
    ({"metadata": {"cospipe.adapter": "{"}}, "not valid JSON"),
    ({"metadata": {"cospipe.adapter": "[]"}}, "must be an object"),
    ({"header": put(2, "version")}, "is of format version 2, this version of cospipe reads 1; update cospipe"),
    ({"header": put(0, "version")}, "version: is 0"),
    ({"header": put("other", "format")}, "format: is 'other'"),
    ({"header": put(1, "surprise")}, "surprise: this version knows no such field"),
    ({"header": put(1, *ADAPTED, "surprise")}, r"weights\.conv\.surprise: this version knows no such field"),
    ({"header": put([24], *ADAPTED, "shape")}, r"weights\.conv\.shape: a tensor cannot have 1 dimensions"),
    ({"header": put([0, 6], *ADAPTED, "shape")}, r"weights\.conv\.shape\.0: is 0"),
    ({"header": put([2**30, 2], *ADAPTED, "shape")}, "conv: is 4x6 in the bundle"),
    ({"header": put(0, *ADAPTED, "n")}, r"weights\.conv\.n: is 0"),
    ({"header": put(10**30, *ADAPTED, "n")}, r"weights\.conv\.n: must be a whole number"),
    ({"header": put(4, *ADAPTED, "n")}, r"coefficients\.conv: float32 of shape 3, its header says 4"),
    ({"header": put(float("nan"), *ADAPTED, "alpha")}, "not valid JSON"),
    ({"header": put(1e300, *ADAPTED, "alpha")}, "coefficients of conv: infinite or undefined numbers"),
    ({"header": put(1e37, *ADAPTED, "alpha")}, None),
    ({"header": put("0" * 31, *ADAPTED, "fingerprint")}, "must be 32 hexadecimal digits"),
    ({"header": put("0" * 32, *ADAPTED, "fingerprint")}, "conv: has other values than the one the adapter was trained"),
    ({"header": drop(*ADAPTED, "fingerprint")}, "fingerprint: is missing"),
    ({"header": drop(*ADAPTED)}, r"coefficients\.conv: is not named in its header"),
    ({"header": put([2, 2], "trained", "bias")}, r"trained\.bias: float32 of shape 4, its header says 2x2"),
    ({"header": put([-4], "trained", "bias")}, r"trained\.bias\.0: is -4"),
    ({"header": put(1, "config", "rank")}, r"config\.rank: this version knows no such field"),
    ({"header": put("many", "config", "n")}, r"config\.n: must be a whole number"),
    ({"header": put(3.5, "config", "n")}, r"config\.n: must be a whole number"),
    ({"header": put(-1, "config", "budget")}, r"config\.budget: is -1"),
    ({"header": put(0, "config", "alpha")}, r"config\.alpha: must be a number other than zero"),
    ({"header": put(2, "config", "delta")}, r"config\.delta: is a share"),
    ({"header": put("all", "config", "selection")}, r"config\.selection: is 'all'"),
    ({"header": put("far", "config", "distance")}, r"config\.distance: is 'far'"),
    ({"header": put(2**32, "config", "seed")}, r"config\.seed: is 4294967296"),
    ({"header": put("||", "config", "layers")}, "it names no weight"),
    ({"header": put("a:0", "config", "layers")}, "a:0: write PATTERN"),
    ({"header": put(":7", "config", "layers")}, ":7: write PATTERN"),
    ({"header": put(9, "config", "budget")}, "conv:3: a budget shares all coefficients"),
    ({"header": put([1], "labels")}, r"labels\.0: must be a text"),
    ({"tensors": {"coefficients.conv": None}}, r"coefficients\.conv: missing"),
    ({"tensors": {"places.conv": None}}, r"places\.conv: missing"),
    ({"tensors": {"trained.bias": None}}, r"trained\.bias: missing"),
    ({"tensors": {"more": np.zeros(1)}}, "more: is not named in its header"),
    ({"tensors": {"coefficients.conv": np.ones(3, np.int32)}}, r"coefficients\.conv: int32 of shape 3"),
    ({"tensors": {"coefficients.conv": np.ones((3, 1), np.float32)}}, r"coefficients\.conv: float32 of shape 3x1"),
    ({"tensors": {"coefficients.conv": np.float32([1, np.inf, 0])}}, "coefficients of conv: infinite"),
    ({"tensors": {"coefficients.conv": np.float64([1, 1e300, 0])}}, "coefficients of conv: infinite"),
    ({"tensors": {"coefficients.conv": np.float32([1, np.nan, 0])}}, "coefficients of conv: infinite"),
    ({"tensors": {"trained.bias": np.float32([1, np.nan, 0, 0])}}, "bias: infinite"),
    ({"tensors": {"places.conv": np.float32([0, 1, 2])}}, r"places\.conv: float32"),
    ({"tensors": {"places.conv": np.uint8([0, 1, 2])}}, r"places\.conv: uint8"),
    ({"tensors": {"places.conv": np.int32([0, 1, 24])}}, "places of conv: outside of its 24 elements"),
    ({"tensors": {"places.conv": np.int32([0, 1, -1])}}, "places of conv: outside of its 24 elements"),
    ({"tensors": {"places.conv": np.int32([0, 5, 5])}}, "places of conv: one is named twice"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), BROKEN_ADAPTERS)
def test_both_refuse_a_broken_adapter(pristine, tmp_path, changes, words):
    path = altered(tmp_path / "adapter", **changes)
    if words is None:  # as large as it may be
        assert cpp_readers.read("adapter", pristine, path) == expected_overrides(open_bundle(pristine), path)
        return
    with pytest.raises(CospipeError):
        adapter_overrides(open_bundle(pristine), path)
    with pytest.raises(Refused, match=words):
        cpp_readers.read("adapter", pristine, path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"trained.bias": np.float32([1, 65520, 0, 0])}, "bias: a number is too large for float16"),
        ({"coefficients.head": np.float32([1, 60000, 0, 0])}, "head: a coefficient is too large for float16"),
    ],
)
def test_both_refuse_numbers_that_half_precision_cannot_hold(pristine, tmp_path, tensors, words):
    path = altered(tmp_path / "adapter", tensors=tensors)
    with pytest.raises(CospipeError):
        adapter_overrides(open_bundle(pristine), path)
    assert words in str(refused("adapter", pristine, path))


def test_an_adapter_for_another_bundle_lists_everything(pristine, tmp_path):
    stored = copy.deepcopy(small_adapter())
    weights = dict(stored.header.weights)
    weights["tail"] = weights.pop("head").model_copy(update={"n": 6})
    weights["conv"] = weights["conv"].model_copy(update={"n": 6})
    header = stored.header.model_copy(update={"weights": weights, "trained": {"conv": (2,)}})
    numbers = np.arange(6)
    path = tmp_path / "adapter"
    values = {name: numbers.astype(np.float32) for name in weights}
    trained = {"conv": np.zeros(2, np.float32)}
    write_adapter(path, type(stored)(header, values, dict.fromkeys(weights, numbers), trained))
    with pytest.raises(CospipeError):
        adapter_overrides(open_bundle(pristine), path)
    message = str(refused("adapter", pristine, path))
    assert "does not fit this bundle" in message
    assert "tail: the bundle has no room for an adapter on it; compile the model with --passes" in message
    assert "conv: has 6 coefficients, the bundle has room for 5" in message
    assert "conv: was trained whole, but is not stored as it is" in message


def test_an_adapter_of_another_base_is_refused(pristine, tmp_path):
    base = {**WEIGHTS["stage0.safetensors"], **WEIGHTS["stage1.safetensors"]}
    base["head"] = base["head"] + np.float16(1)
    write_adapter(tmp_path / "adapter", small_adapter(base))
    message = str(refused("adapter", pristine, tmp_path / "adapter"))
    assert "head: has other values" in message
    assert "conv" not in message


def test_there_is_no_such_adapter(pristine, tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError):
            read_adapter(path)
        assert refused("adapter", pristine, path).is_usage


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04" * 40, b"\xff" * 64])
def test_other_files_are_no_adapters(pristine, tmp_path, content):
    (tmp_path / "adapter").write_bytes(content)
    assert "is not a safetensors file" in str(refused("adapter", pristine, tmp_path / "adapter"))
