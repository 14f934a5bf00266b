"""Packages of the stages of an emitted pipeline, made from the stages themselves instead of their ONNX files."""

import importlib.metadata

from cospipe import __version__
from cospipe.backends.tvm.lower import lower_stage
from cospipe.backends.tvm.pack_request import as_array, stage_parts
from cospipe.backends.tvm.tvmc.cores import cores_target
from cospipe.backends.tvm.tvmc.package import write_package
from cospipe.backends.tvm.tvmc.package_metadata import PackagedNode, PackagedTensor, PackageMetadata
from cospipe.ir.tensor_file import write_tensors


def write_stage_packages(request, pipeline, folder, target=None, **changes):
    """Write every package that a pipeline's description names; ``changes`` are to what their metadata says."""
    for part, stage in zip(stage_parts(request.pipeline), pipeline.stages, strict=True):
        for wanted in stage.packages:
            write_stage_package(part, stage, wanted, folder / wanted.package, target, **changes)


def write_stage_package(part, stage, wanted, output, target=None, **changes):
    """Write one package of a stage; ``target`` is what the user would say of it besides its cores."""
    chosen = cores_target(wanted.cores, target)
    inputs = example_of(part)

    def fill(folder):
        lowered = lower_stage(
            part.module, inputs, chosen.target, chosen.core, folder / "lib.so", shares_by_speed=chosen.shares_by_speed
        )
        parameters = dict(part.module.named_parameters(remove_duplicate=False))
        weights = {name: as_array(parameters[name]) for name in lowered.weight_names}
        write_tensors(folder / "weights.safetensors", weights)
        fields = {
            "format": "cospipe-tvmc",
            "version": 1,
            "cospipe_version": __version__,
            "tvm_version": importlib.metadata.version("apache-tvm"),
            "model": stage.name,
            "module_name": "default",
            "imported_by": "cospipe",
            "target": {name: chosen.target.attrs[name] for name in ("mtriple", "mcpu", "num-cores")}
            | {"mattr": list(map(str, chosen.target.attrs["mattr"]))},
            "architecture": str(chosen.target.attrs["mtriple"]).partition("-")[0],
            "core_type": chosen.core_type,
            "threads": chosen.threads,
            "shares_by_speed": chosen.shares_by_speed,
            "library": "lib.so",
            "weights": "weights.safetensors",
            "inputs": tuple(PackagedTensor(**dict(spec)) for spec in stage.inputs),
            "outputs": tuple(PackagedTensor(**dict(spec)) for spec in stage.outputs),
            "stored_weights": [{"name": n, "shape": w.shape, "dtype": str(w.dtype)} for n, w in weights.items()],
            "weight_arguments": lowered.weight_arguments,
            # of an imported ONNX file, the module of a node is called as the node of the file
            "generic_nodes": tuple(PackagedNode(name="node", module=f"x.{name}") for name in lowered.generic_nodes),
        }
        return lambda files: PackageMetadata(**{**fields, **changes}, files=files)

    return write_package(output, fill)


def example_of(part):
    """Return tensors that a stage takes."""
    import torch

    placeholders = part.module.graph.find_nodes(op="placeholder")
    return tuple(torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype) for node in placeholders)
