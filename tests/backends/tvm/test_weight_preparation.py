"""What depends on weights only is computed when they are loaded: right numbers, nothing of it left in ``main``."""

import pytest
import torch
import tvm
from compiling import compile_and_compare
from torch import nn
from torch.nn import functional as F
from tvm import relax
from tvm_ffi import structural_equal

import cospipe
from cospipe.backends.bundle import open_bundle
from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.target import kernel_core
from cospipe.backends.tvm.weight_preparation import lift_weight_preparation, weight_arguments
from cospipe.backends.verify import verify_bundle
from cospipe.ir.capture import capture
from cospipe.ir.errors import EmulatorError
from cospipe.ir.soc import load_soc

HOST = load_soc("host")
CORE = kernel_core(HOST.clusters[0], 2, HOST.architecture)


class Normalised(nn.Module):
    """Weight normalisation by hand, a scaled and a transposed weight, a bias in another shape and as it is."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.direction = nn.Parameter(torch.randn(8, 4, 3, 3, generator=generator))
        self.length = nn.Parameter(torch.randn(8, 1, 1, 1, generator=generator))
        self.bias = nn.Parameter(torch.randn(8, generator=generator))
        self.matrix = nn.Parameter(torch.randn(16, 8, generator=generator))
        self.scale = nn.Parameter(torch.randn(16, 1, generator=generator))

    def forward(self, image):
        norm = self.direction.square().sum((1, 2, 3), keepdim=True).sqrt()
        features = F.conv2d(image, self.direction * (self.length / norm)) + self.bias.view(1, -1, 1, 1)
        return (features.mean((2, 3)) + self.bias) @ (self.matrix * self.scale).t()


class Shared(nn.Module):
    """A weight in three parts, one tied, one expanded, one not used, one returned."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.parts = nn.Parameter(torch.randn(24, 8, generator=generator))
        self.tied = nn.Parameter(torch.randn(8, 8, generator=generator))
        self.row = nn.Parameter(torch.randn(1, 8, generator=generator))
        self.unused = nn.Parameter(torch.zeros(3))
        self.position = nn.Embedding(6, 8)

    def forward(self, x):
        first, second, third = self.parts.chunk(3)
        x = (x @ first + x @ second) @ third.t() @ self.tied.t().exp() @ self.tied.t().exp()
        rows = torch.cat([x, self.row.expand(5, 8)])
        return rows + self.position(torch.arange(6))[2], self.position.weight * 2


IMAGE = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)),)
ROWS = (torch.randn(4, 8, generator=torch.Generator().manual_seed(3)),)


def lifted(model, inputs):
    """Return the module before and after the weights' part was taken out of main, and the names of the weights."""
    imported = import_stage(capture(model.eval(), inputs), inputs)
    before = tvm.transform.Sequential(
        [
            relax.transform.CanonicalizeBindings(),
            relax.transform.DecomposeOpsForInference(),
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
        ]
    )(imported.module)
    return before, lift_weight_preparation(before), imported.weight_names


def kernels(function):
    """Return (name of the kernel, whether an input reaches it) of every call."""
    reached = set(function.params[: int(function.attrs.get("num_input", 0))])
    calls = []
    for block in function.body.blocks:
        for binding in block.bindings:
            is_reached = any(var in reached for var in relax.analysis.free_vars(binding.value))
            if is_reached:
                reached.add(binding.var)
            if isinstance(binding.value, relax.Call) and binding.value.op == tvm.ir.Op.get("relax.call_tir"):
                calls.append((binding.value.args[0].name_hint, is_reached))
    return calls


@pytest.mark.parametrize(("model", "inputs"), [(Normalised, IMAGE), (Shared, ROWS)])
def test_numbers_equal_eager(model, inputs, tmp_path):
    assert max(compile_and_compare(model(), inputs, CORE, tmp_path)) <= 1e-4


def test_main_keeps_only_what_an_input_reaches():
    before, after, names = lifted(Normalised(), IMAGE)
    assert len([name for name, is_reached in kernels(before["main"]) if not is_reached]) >= 7
    assert all(is_reached for _, is_reached in kernels(after["main"]))
    reached = [name for name, is_reached in kernels(before["main"]) if is_reached]
    assert [name for name, _ in kernels(after["main"])] == reached
    described = {(a.function is None, frozenset(a.weights), a.tensor.shape) for a in weight_arguments(after, names)}
    assert described == {
        (True, frozenset({"bias"}), (8,)),
        (False, frozenset({"bias"}), (1, 8, 1, 1)),
        (False, frozenset({"direction", "length"}), (8, 4, 3, 3)),
        (False, frozenset({"matrix", "scale"}), (8, 16)),
    }


def test_every_argument_has_its_function_and_its_place():
    _, after, names = lifted(Normalised(), IMAGE)
    main, arguments = after["main"], weight_arguments(after, names)
    assert len(main.params) == 1 + len(arguments)
    for parameter, argument in zip(main.params[1:], arguments, strict=True):
        assert tuple(int(extent) for extent in parameter.ty.shape.values) == argument.tensor.shape
        if argument.function:
            function = after[argument.function]
            assert len(function.params) == len(argument.weights)
            assert structural_equal(function.ret_ty.fields[0], parameter.ty)
    assert weight_arguments(lifted(Normalised(), IMAGE)[1], names) == arguments


def test_equal_preparations_are_one_and_what_nobody_reads_is_dropped():
    _, after, names = lifted(Shared(), ROWS)
    arguments = weight_arguments(after, names)
    assert [argument.tensor.shape for argument in arguments if argument.weights == ("tied",)] == [(8, 8)]
    assert len([argument for argument in arguments if argument.weights == ("parts",)]) == 3
    assert not any("unused" in argument.weights for argument in arguments)


def test_what_only_repeats_a_weight_is_not_stored_expanded():
    _, after, names = lifted(Shared(), ROWS)
    [argument] = [argument for argument in weight_arguments(after, names) if argument.weights == ("row",)]
    assert argument.function is None
    assert ("broadcast_to", False) in kernels(after["main"])


def test_a_network_without_weights_has_nothing_to_prepare(tmp_path):
    assert max(compile_and_compare(nn.ReLU(), ROWS, CORE, tmp_path)) == 0
    _, after, names = lifted(nn.ReLU(), ROWS)
    assert weight_arguments(after, names) == ()


def test_a_lost_count_of_inputs_is_told():
    before, _, _ = lifted(Normalised(), IMAGE)
    before["main"] = before["main"].without_attr("num_input")
    with pytest.raises(RuntimeError, match="num_input"):  # TVM passes an error of ours on as one of its own
        lift_weight_preparation(before)


def exchanged(soc, folder):
    made = cospipe.optimize(Normalised().eval(), IMAGE, soc=soc, output=folder / "made", max_stages=1)
    other = Normalised().eval()
    with torch.no_grad():
        other.scale.mul_(3)
        other.direction[0].add_(1)
    return made.bundle, cospipe.exchange_weights(made.bundle, other, folder / "other")


def test_exchanged_weights_are_prepared_anew(tmp_path):
    made, other = exchanged("host", tmp_path)
    for bundle in (made, other):
        assert verify_bundle(open_bundle(bundle.path)).passed
    name = made.manifest.outputs[0].name
    assert abs(other.reference()[name] - made.reference()[name]).max() > 0.1


@pytest.mark.emulated
def test_exchanged_weights_are_prepared_on_aarch64(emulator, tmp_path):
    made, other = exchanged("rk3399", tmp_path)
    assert any(argument.function for stage in made.manifest.stages for argument in stage.weight_arguments)
    verify_bundle(made, emulate=True).raise_if_failed()
    verify_bundle(other, emulate=True).raise_if_failed()
    name = made.manifest.outputs[0].name
    assert abs(other.reference()[name] - made.reference()[name]).max() > 0.1


@pytest.mark.emulated
def test_what_does_not_fit_is_refused_on_aarch64(emulator, tmp_path):
    made = cospipe.optimize(Normalised().eval(), IMAGE, soc="rk3399", output=tmp_path / "made", max_stages=1).bundle
    [stage] = made.manifest.stages
    files = made.file(stage.library), made.file(stage.weights)
    *arguments, last = stage.weight_arguments
    narrower = last.model_copy(update={"tensor": last.tensor.model_copy(update={"shape": (1,)})})
    unknown = last.model_copy(update={"function": "prepare_99"})
    incomplete = last.model_copy(update={"weights": last.weights * 2})
    for wrong, words in [
        ([narrower], rf"another shape or type than main takes: {last.function}"),
        ([unknown], "prepare_99"),
        ([incomplete], last.function),
        ([], "main"),
    ]:
        changed = stage.model_copy(update={"weight_arguments": (*arguments, *wrong)})
        with pytest.raises(EmulatorError, match=words):
            emulator.run_library(changed, *files, made.reference())
