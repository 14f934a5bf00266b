"""A bundle of two stages with all but compiled libraries: enough for whoever reads bundles and does not run them."""

import json

import numpy as np

from cospipe.ir.adapter_file import AdaptedWeight, AdapterHeader, StoredAdapter, fingerprint
from cospipe.ir.manifest import FileRecord
from cospipe.ir.tensor_file import write_tensors

VALUES = {
    "image": np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2),
    "middle": np.ones((1, 4), np.float16),
    "scores": np.zeros((), np.int64),
}
WEIGHTS = {
    "stage0.safetensors": {
        "conv": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6),
        "conv.coefficients": np.zeros(5, np.float32),
        "conv.places": np.zeros(5, np.int32),
        "bias": np.ones(4, np.float16),
    },
    "stage1.safetensors": {
        "head": np.linspace(-2, 2, 12, dtype=np.float16).reshape(2, 3, 2),
        "head.coefficients": np.zeros(4, np.float16),
        "head.places": np.zeros(4, np.int64),
    },
}


def spec(name):
    """Return what a manifest says of a value or weight."""
    known = VALUES | {name: array for arrays in WEIGHTS.values() for name, array in arrays.items()}
    return {"name": name, "shape": list(known[name].shape), "dtype": str(known[name].dtype)}


def build(library, stored, prepared, threads=1):
    """Return a build that takes one weight as it is stored, and one that its library prepares."""
    arguments = [
        {"tensor": spec(stored), "function": None, "weights": [stored]},
        {
            "tensor": {"name": "prepared", "shape": [24], "dtype": "float32"},
            "function": "prepare_0",
            "weights": prepared,
        },
    ]
    return {"library": library, "core_type": "cortex-a76", "threads": threads, "weight_arguments": arguments}


def small_manifest():
    """Return a manifest as its JSON has it; the second stage has three replicas of two kinds."""
    first = {
        "name": "stage0",
        "weights": "stage0.safetensors",
        "inputs": [spec("image")],
        "outputs": [spec("middle")],
        "weight_names": [*WEIGHTS["stage0.safetensors"]],
        "adapter_slots": [{"weight": "conv", "coefficients": "conv.coefficients", "places": "conv.places"}],
        "replaceable": ["bias"],
        "generic_nodes": [{"name": "sort", "module": "head.sort", "predicted_us": 1.5}],
        **build("stage0.so", "bias", ["conv", "conv.coefficients", "conv.places"], threads=2),
    }
    second = {
        "name": "stage1",
        "weights": "stage1.safetensors",
        "inputs": [spec("middle")],
        "outputs": [spec("scores")],
        "weight_names": [*WEIGHTS["stage1.safetensors"]],
        "adapter_slots": [{"weight": "head", "coefficients": "head.coefficients", "places": "head.places"}],
        "further_builds": [build("lib/little.so", "head", ["head.places"], threads=3) | {"shares_by_speed": True}],
        "replica_builds": [0, 0, 1],
        **build("stage1.so", "head", ["head", "head.coefficients", "head.places"]),
    }
    return {
        "format": "cospipe-bundle",
        "version": 4,
        "cospipe_version": "0.1.0",
        "tvm_version": "0.27.0",
        "model": "Small",
        "architecture": "aarch64",
        "soc_architecture": "aarch64",
        "passes": "fold-batch-norm",
        "winograd": True,
        "plan": small_plan(),
        "inputs": [spec("image")],
        "outputs": [spec("scores")],
        "stages": [first, second],
        "reference": "reference.safetensors",
        "relative_tolerance": 1e-3,
        "runner": {"program": "cospipe-run", "libraries": ["lib/libtvm_ffi.so"], "glibc": "2.28"},
        "files": {},
    }


def small_plan():
    """Return the plan of the small manifest."""
    big = {"cores": [{"cluster": "big", "cores": 1}], "compute_us": 30.0}
    both = [{"cluster": "big", "cores": 1}, {"cluster": "little", "cores": 2}]
    first = {"cores": [{"cluster": "little", "cores": 2}], "cpu_ids": [0, 1], "compute_us": 20.0}
    second = [big | {"cpu_ids": [4]}, big | {"cpu_ids": [5]}]
    second += [{"cores": both, "cpu_ids": [6, 2, 3], "compute_us": 10.0, "sharing": "by-speed"}]
    common = {"nodes": ["a", "b"], "hand_over_us": 2.5, "hand_over_bytes": 8}
    search = {"positions": 3, "states": 4, "transitions": 5, "seconds": 0.1, "limited_by": "The big cores."}
    return {
        "soc": "rk3588",
        "objective": "throughput",
        "stages": [
            {"name": "stage0", "replicas": [first], **common},
            {"name": "stage1", "replicas": second, **common},
        ],
        "single_stage_us": {"big:4": 77.0},
        "contention": 1.25,
        "clock_mhz": {"big": 2400.0},
        "energy_mj": None,
        "power_mw": 4000.0,
        "memory_bytes": 4096,
        "search": search,
    }


def write_small_bundle(folder):
    """Write the bundle into a directory; return the directory."""
    folder.mkdir(parents=True)
    (folder / "lib").mkdir()
    for name in ("stage0.so", "stage1.so", "lib/little.so", "lib/libtvm_ffi.so", "cospipe-run"):
        (folder / name).write_bytes(f"the code of {name}".encode())
    write_tensors(folder / "reference.safetensors", VALUES)
    for name, arrays in WEIGHTS.items():
        write_tensors(folder / name, arrays)
    write_manifest(folder, small_manifest())
    return folder


def write_manifest(folder, manifest):
    """Write a manifest with the records of the files as they are."""
    from cospipe.backends.bundle import sha256

    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "manifest.json")
    records = {str(f.relative_to(folder)): FileRecord(bytes=f.stat().st_size, sha256=sha256(f)) for f in files}
    manifest["files"] = {name: record.model_dump() for name, record in records.items()}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def small_adapter(base=None):
    """Return an adapter on the small bundle, or on other weights of the same names and shapes."""
    base = base or WEIGHTS["stage0.safetensors"] | WEIGHTS["stage1.safetensors"]
    weights = {
        "conv": AdaptedWeight(shape=(4, 6), n=3, alpha=0.3, fingerprint=fingerprint(base["conv"])),
        "head": AdaptedWeight(shape=(2, 3, 2), n=4, alpha=1.5, fingerprint=fingerprint(base["head"])),
    }
    config = {"n": 3, "alpha": 0.3, "selection": "low", "layers": "conv:3|head", "delta": 0.5, "seed": 7}
    header = AdapterHeader(base="Small", config=config, labels=("cat", "dog"), weights=weights, trained={"bias": (4,)})
    coefficients = {"conv": np.array([1, -2.7, 3e-6], np.float32), "head": np.array([7, 1e-7, -1e-9, 5], np.float32)}
    places = {"conv": np.array([23, 0, 7]), "head": np.array([11, 1, 3, 2])}
    return StoredAdapter(header, coefficients, places, {"bias": np.array([1, 0.1, -3e4, 1e-8], np.float32)})
