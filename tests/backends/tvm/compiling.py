"""Compiles small modules and compares them with eager PyTorch; many in one library, since every compilation costs."""

from itertools import chain

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_leaves

from cospipe.backends.runtime.compare import relative_error
from cospipe.backends.runtime.stage import StageExecutable, as_tensor, to_numpy
from cospipe.backends.tvm.importer import check_supported
from cospipe.backends.tvm.lower import lower_stage
from cospipe.backends.tvm.target import core_target
from cospipe.backends.tvm.tiling import Core
from cospipe.ir.capture import capture
from cospipe.ir.manifest import StageFiles, TensorSpec
from cospipe.ir.soc import load_soc
from cospipe.ir.tensor_file import write_tensors
from cospipe.passes.fold_batch_norm import FoldBatchNorm


class SideBySide(nn.Module):
    """Modules that have nothing to do with each other, each with inputs of its own."""

    def __init__(self, modules, counts):
        super().__init__()
        self.parts, self.counts = nn.ModuleList(modules), counts

    def forward(self, *inputs):
        results, position = [], 0
        for part, count in zip(self.parts, self.counts, strict=True):
            results.append(part(*inputs[position : position + count]))
            position += count
        return tuple(results)


class Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def randomise_batch_norms(model):
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model


def specs(prefix, tensors):
    return tuple(
        TensorSpec(name=f"{prefix}{i}", shape=tuple(t.shape), dtype=str(t.dtype).removeprefix("torch."))
        for i, t in enumerate(tensors)
    )


@torch.no_grad()
def compile_and_compare(model, inputs, unit, folder):
    """Return the error of every output tensor, relative to its scale."""
    model = randomise_batch_norms(model).eval()
    expected = tree_leaves(model(*inputs))
    graph_module = capture(model, inputs)
    check_supported(graph_module)
    graph_module = FoldBatchNorm()(graph_module).graph_module
    library, weights = folder / "stage0.so", folder / "stage0.safetensors"
    soc = load_soc("host")
    lowered = lower_stage(graph_module, inputs, core_target(soc.clusters[0], 2, soc.architecture), unit, library)
    stored = dict(graph_module.named_parameters(remove_duplicate=False))
    write_tensors(weights, {name: stored[name].numpy() for name in lowered.weight_names})
    files = StageFiles(
        name="stage0",
        library=library.name,
        weights=weights.name,
        core_type="any",
        inputs=specs("in", inputs),
        outputs=specs("out", expected),
        weight_names=lowered.weight_names,
        weight_arguments=lowered.weight_arguments,
    )
    values = {spec.name: as_tensor(tensor.numpy()) for spec, tensor in zip(files.inputs, inputs, strict=True)}
    results = to_numpy(StageExecutable(files, library, weights).call(values), [spec.name for spec in files.outputs])
    return [relative_error(results[s.name], t.numpy()) for s, t in zip(files.outputs, expected, strict=True)]


def compare_all(cases, unit, folder):
    """Compile ``{name: (module or function, inputs)}`` as one library; return the largest error of each."""
    torch.manual_seed(0)
    modules = [part if isinstance(part, nn.Module) else Function(part) for part, _ in cases.values()]
    inputs = [tensors for _, tensors in cases.values()]
    with torch.no_grad():
        results = [tree_leaves(module.eval()(*own)) for module, own in zip(modules, inputs, strict=True)]
    model = SideBySide(modules, [len(own) for own in inputs])
    errors = iter(compile_and_compare(model, tuple(chain(*inputs)), unit, folder))
    return {name: max(next(errors) for _ in tensors) for name, tensors in zip(cases, results, strict=True)}


WIDTHS = {
    "neon": Core("aarch64", 16, 32),
    "avx2": Core("x86_64", 32, 16, fma_per_cycle=2),
    "avx512": Core("x86_64", 64, 32, cores=2),
}
"""Kinds of cores; a stage made for any of them runs on this machine, whose compiler splits or joins the vectors."""


ONE_LIST = settings(max_examples=1, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
"""A compilation is dear: one list of random cases is compiled as one library, and not shrunk."""


def several(cases, count):
    """Return a strategy of lists of ``count`` cases that differ.

    hypothesis tries the simplest list first; were the cases allowed to be equal, it would be the simplest case alone.
    """
    return st.lists(cases, min_size=count, max_size=count, unique_by=_description)


def _description(case):
    return str([getattr(leaf, "shape", leaf) for leaf in tree_leaves(case)])


def compile_and_compare_all_widths(cases, folder):
    """Return the largest error of each case on each kind of core, as ``{"name on neon": error}``."""
    errors = {}
    for width, core in WIDTHS.items():
        own = folder / width
        own.mkdir()
        compared = compare_all(cases, core, own)
        errors.update({f"{name} on {width}": error for name, error in compared.items()})
    return errors
