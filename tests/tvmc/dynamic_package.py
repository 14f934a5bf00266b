"""A package whose tensors have sizes that are known only when it runs, straight from TVM's own pipeline."""

import importlib.metadata
from pathlib import Path

import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from cospipe import __version__
from cospipe.backends.tvm.link import link_shared_library
from cospipe.backends.tvm.tvmc.package import write_package
from cospipe.backends.tvm.tvmc.package_metadata import PackagedTensor, PackageMetadata
from cospipe.ir.soc import load_soc
from cospipe.ir.tensor_file import write_tensors


@I.ir_module
class OneInput:
    """Three times the input."""

    @R.function
    def main(x: R.Tensor(("n", 4), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            twice = R.add(x, x)
            result = R.add(twice, x)
            R.output(result)
        return (result,)


@I.ir_module
class TwoInputs:
    """The sum of two inputs of one size."""

    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), y: R.Tensor(("n", 4), "float32")):
        R.func_attr({"num_input": 2})
        with R.dataflow():
            result = R.add(x, y)
            R.output(result)
        return (result,)


def write_dynamic_package(output, inputs=1):
    """Compile one of the two for this machine."""
    architecture = load_soc("host").architecture
    tensors = tuple(PackagedTensor(name=name, shape=(-1, 4), dtype="float32") for name in "xy"[:inputs])

    def fill(folder):
        executable = relax.build(OneInput if inputs == 1 else TwoInputs, target=tvm.target.Target("llvm"))
        executable.export_library(
            str(folder / "lib.so"),
            fcompile=lambda library, objects, *_, **__: link_shared_library(objects, Path(library), architecture),
        )
        write_tensors(folder / "weights.safetensors", {})
        return lambda files: PackageMetadata(
            format="cospipe-tvmc",
            version=1,
            cospipe_version=__version__,
            tvm_version=importlib.metadata.version("apache-tvm"),
            model="Dynamic",
            module_name="default",
            imported_by="tvm",
            target={"kind": "llvm"},
            architecture=architecture,
            core_type="generic",
            threads=1,
            library="lib.so",
            weights="weights.safetensors",
            inputs=tensors,
            outputs=(PackagedTensor(name="result", shape=(-1, 4), dtype="float32"),),
            stored_weights=(),
            weight_arguments=(),
            files=files,
        )

    write_package(output, fill)
    return output
