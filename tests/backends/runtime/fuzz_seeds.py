"""Writes the files that fuzzing began with: ``python fuzz_seeds.py FOLDER`` makes a directory for each target.

``fuzz_corpus/`` holds what libFuzzer kept of them and found from there (``-merge=1``).
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy
from small_bundle import VALUES, WEIGHTS, small_manifest

from cospipe.ir.adapter_file import AdaptedWeight, AdapterHeader, StoredAdapter, fingerprint, write_adapter
from cospipe.ir.tensor_file import write_tensors

ARRAYS = {
    name: np.arange(6).reshape(2, 3).astype(name)
    for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
}


def manifest_seeds(folder):
    """Write a manifest with everything, and others with less."""
    whole = small_manifest()
    names = ("stage0.so", "stage1.so", "lib/little.so", "lib/libtvm_ffi.so", "cospipe-run")
    for name in (*names, "reference.safetensors", *WEIGHTS):
        whole["files"][name] = {"bytes": len(name), "sha256": "0123456789abcdef" * 4}
    (folder / "whole").write_text(json.dumps(whole, separators=(",", ":")))
    small = copy.deepcopy(whole)
    del small["runner"]
    for key in ("single_stage_us", "contention", "clock_mhz", "energy_mj", "power_mw", "memory_bytes", "search"):
        del small["plan"][key]
    for stage in small["stages"]:
        for key in ("adapter_slots", "replaceable", "generic_nodes"):
            stage.pop(key, None)
    (folder / "small").write_text(json.dumps(small, separators=(",", ":")))
    (folder / "version").write_text('{"version":3}')


def safetensors_seeds(folder):
    """Write files of the project's own writer and of the safetensors library."""
    write_tensors(folder / "own", ARRAYS | VALUES, {"made": "here"})
    safetensors.numpy.save_file(ARRAYS, folder / "library", {"format": "np"})
    write_tensors(folder / "empty", {})
    write_tensors(folder / "weights", WEIGHTS["stage0.safetensors"])


def adapter_seeds(folder):
    """Write adapters for the weights of zeros in fuzz_adapter.cpp."""
    shapes = {"first": (4, 6), "second": (2, 3, 2)}
    prints = {name: fingerprint(np.zeros(shape, np.float32)) for name, shape in shapes.items()}
    weights = {
        name: AdaptedWeight(shape=shape, n=3, alpha=0.5, fingerprint=prints[name]) for name, shape in shapes.items()
    }
    coefficients = {name: np.array([1, -2, 0.5], np.float32) for name in shapes}
    places = {name: np.array([11, 0, 5]) for name in shapes}
    trained = {"bias": np.array([1, 2, 3], np.float32)}
    config = {
        "n": 3,
        "alpha": 0.5,
        "selection": "low",
        "delta": 0.5,
        "distance": "corner",
        "seed": 1,
        "layers": "f*:3|*",
    }
    header = AdapterHeader(base="net", config=config, labels=("cat",), weights=weights, trained={"bias": (3,)})
    write_adapter(folder / "whole", StoredAdapter(header, coefficients, places, trained))
    only = AdapterHeader(weights={"second": weights["second"]})
    some = ({"second": coefficients["second"]}, {"second": places["second"]})
    write_adapter(folder / "one", StoredAdapter(only, *some))
    write_adapter(folder / "trained", StoredAdapter(AdapterHeader(trained={"bias": (3,)}), trained=trained))
    write_adapter(folder / "nothing", StoredAdapter(AdapterHeader()))


def npy_seeds(folder):
    """Write an array of each type, and some that networks do not take."""
    for name, array in ARRAYS.items():
        with (folder / name).open("wb") as file:
            np.save(file, array)
    for name, array in {
        "scalar": np.float32(3),
        "empty": np.zeros((0, 4), np.float32),
        "big_endian": np.ones(3, ">f4"),
        "fortran": np.asfortranarray(np.ones((2, 3), np.float32)),
        "complex": np.ones(2, np.complex64),
        "record": np.zeros(2, [("a", "<f4")]),
    }.items():
        with (folder / name).open("wb") as file:
            np.save(file, array)


def npz_seeds(folder):
    """Write archives, compressed and not."""
    for name, save in {"stored": np.savez, "compressed": np.savez_compressed}.items():
        with (folder / name).open("wb") as file:
            save(file, **{key: ARRAYS[key] for key in ("float32", "int64", "bool")})
    with (folder / "nothing").open("wb") as file:
        np.savez(file)


SEEDS = {
    "manifest": manifest_seeds,
    "safetensors": safetensors_seeds,
    "adapter": adapter_seeds,
    "npy": npy_seeds,
    "npz": npz_seeds,
}


def main(output):
    """Write the seeds of every target into a directory of its own."""
    for target, write in SEEDS.items():
        folder = output / target
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
