"""Packages of one library for this machine, made from PyTorch networks without the tvmc command."""

import importlib.metadata
import shutil

from cospipe import __version__
from cospipe.backends.tvm.lower import lower_stage
from cospipe.backends.tvm.pack_request import as_array
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.backends.tvm.tvmc.package import LibraryPackage, open_package, write_package
from cospipe.backends.tvm.tvmc.package_metadata import PackagedKernel, PackagedTensor, PackageMetadata
from cospipe.ir.capture import capture
from cospipe.ir.soc import load_soc
from cospipe.ir.tensor_file import write_tensors

CORES = 1


def write_library_package(network, inputs, input_names, output, **changes):
    """Compile a network as ``tvmc compile`` does; ``changes`` are to what its metadata says."""
    soc = load_soc("host")
    cluster = soc.clusters[0]
    graph_module = capture(network, inputs)
    expected = network(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)

    def fill(folder):
        target, core = core_target(cluster, CORES, soc.architecture), kernel_core(cluster, CORES, soc.architecture)
        lowered = lower_stage(graph_module, inputs, target, core, folder / "lib.so")
        parameters = dict(graph_module.named_parameters(remove_duplicate=False))
        weights = {name: as_array(parameters[name]) for name in lowered.weight_names}
        write_tensors(folder / "weights.safetensors", weights)
        kinds = {kernel.name: kernel.kind for kernel in lowered.kernels}
        fields = {
            "format": "cospipe-tvmc",
            "version": 1,
            "cospipe_version": __version__,
            "tvm_version": importlib.metadata.version("apache-tvm"),
            "model": type(network).__name__,
            "module_name": "default",
            "imported_by": "cospipe",
            "target": {"kind": "llvm", "num-cores": CORES},
            "architecture": soc.architecture,
            "core_type": cluster.core_type,
            "threads": CORES,
            "library": "lib.so",
            "weights": "weights.safetensors",
            "inputs": tuple(_packaged(name, value) for name, value in zip(input_names, inputs, strict=True)),
            "outputs": tuple(_packaged(f"result{i}", value) for i, value in enumerate(expected)),
            "stored_weights": [{"name": n, "shape": w.shape, "dtype": str(w.dtype)} for n, w in weights.items()],
            "weight_arguments": lowered.weight_arguments,
            "kernels": tuple(PackagedKernel(name=c.kernel, kind=kinds[c.kernel], nodes=c.nodes) for c in lowered.calls),
        }
        return lambda files: PackageMetadata(**{**fields, **changes}, files=files)

    write_package(output, fill)
    return output


def _packaged(name, value):
    return PackagedTensor(name=name, shape=tuple(value.shape), dtype=str(value.dtype).removeprefix("torch."))


def with_metadata(package, output, **changes):
    """Write a copy of a package, or of one that is open, that says something else of itself."""
    opened = package if isinstance(package, LibraryPackage) else open_package(package)

    def fill(folder):
        for name in opened.metadata.files:
            shutil.copy(opened.folder / name, folder / name)
        return lambda files: opened.metadata.model_copy(update={**changes, "files": files})

    write_package(output, fill)
    return output
