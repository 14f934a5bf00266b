"""Compiles kernels that are given as tensor expressions; many in one library, since every compilation costs."""

import numpy as np
import tvm
from tvm import te

from cospipe.backends.tvm.elementary import use_vector_functions
from cospipe.backends.tvm.schedule import schedule_module
from cospipe.backends.tvm.target import core_target
from cospipe.backends.tvm.tiling import Core
from cospipe.ir.soc import load_soc

WIDTHS = {"neon": Core("aarch64", 16, 32), "avx2": Core("x86_64", 32, 16), "avx512": Core("x86_64", 64, 32, cores=2)}
"""Kinds of cores; what is made for any of them runs on this machine."""


def host():
    """Return the target of two cores of this machine."""
    soc = load_soc("host")
    return core_target(soc.clusters[0], 2, soc.architecture)


def kernels(functions, core):
    """Return scheduled kernels, ``{name: (function of tensors, [(shape, dtype), ...])}``, as a module of TVM."""
    made = {}
    for position, (compute, specs) in enumerate(functions.values()):
        inputs = [te.placeholder(shape, dtype, name=f"input{i}") for i, (shape, dtype) in enumerate(specs)]
        function = te.create_prim_func([*inputs, compute(*inputs)], index_dtype_override="int64")
        made[f"kernel{position}"] = function.with_attrs({"global_symbol": f"kernel{position}", "tirx.noalias": True})
    return use_vector_functions(schedule_module(tvm.IRModule(made), core), core)


class Library:
    """Kernels compiled for one kind of core; each is called by its name with arrays or tensors and returns an array."""

    def __init__(self, functions, core):
        self.functions, self._library = functions, tvm.compile(kernels(functions, core), target=host())

    def __call__(self, name, *arrays):
        position = list(self.functions).index(name)
        compute, specs = self.functions[name]
        result = compute(*(te.placeholder(shape, dtype) for shape, dtype in specs))
        output = tvm.runtime.tensor(np.full([int(n) for n in result.shape], 77, str(result.dtype)))
        self._library[f"kernel{position}"](*map(_tensor, arrays), output)
        return output.numpy()


def _tensor(array):
    return array if isinstance(array, tvm.runtime.Tensor) else tvm.runtime.tensor(array)


def random_arrays(specs, seed=0):
    """Return FP32 arrays of normally distributed numbers, and whole numbers from 0 to 2."""
    generator = np.random.default_rng(seed)
    return [
        generator.standard_normal(shape).astype(dtype)
        if dtype.startswith("float")
        else generator.integers(0, 3, shape).astype(dtype)
        for shape, dtype in specs
    ]
