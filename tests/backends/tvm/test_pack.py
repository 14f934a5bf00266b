"""From a split graph to a bundle: borders, weights and reference values of unusual networks."""

import numpy as np
import pytest
import torch
from torch import nn

import cospipe
from cospipe.backends.verify import verify_bundle
from cospipe.ir.errors import LoweringError
from cospipe.ir.tensor_file import map_tensors


class Unusual(nn.Module):
    """An input handed on, an output returned twice, numbers as input and weight, an integer output, tied weights."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.factor = nn.Parameter(torch.tensor(1.5))

    def forward(self, x, shift, unused):
        twice = self.linear(self.linear(x)) * self.factor + shift
        return {"first": twice, "input": x, "best": twice.argmax(1), "again": twice}


@pytest.fixture(scope="module")
def unusual(tmp_path_factory):
    torch.manual_seed(0)
    model = Unusual().eval()
    inputs = (torch.randn(8, 2).t(), torch.tensor(0.25), torch.randn(3))  # the first lies transposed in memory
    output = tmp_path_factory.mktemp("unusual") / "bundle"
    return model, inputs, cospipe.optimize(model, inputs, output=output, max_stages=1).bundle


def test_every_border_is_described(unusual):
    _, _, bundle = unusual
    assert [(spec.shape, spec.dtype) for spec in bundle.manifest.inputs] == [
        ((2, 8), "float32"),
        ((), "float32"),
        ((3,), "float32"),
    ]
    assert [(spec.shape, spec.dtype) for spec in bundle.manifest.outputs] == [
        ((2, 8), "float32"),
        ((2, 8), "float32"),
        ((2,), "int64"),
    ]
    assert bundle.manifest.outputs[1] == bundle.manifest.inputs[0]


def test_tied_weights_are_stored_once_and_numbers_stay_numbers(unusual):
    _, _, bundle = unusual
    weights = map_tensors(bundle.file(bundle.manifest.stages[0].weights))
    assert {name: array.shape for name, array in weights.items()} == {
        "linear.weight": (8, 8),
        "linear.bias": (8,),
        "factor": (),
    }


def test_it_computes_what_eager_does(unusual):
    model, inputs, bundle = unusual
    verify_bundle(bundle).raise_if_failed()
    frame = {spec.name: tensor.numpy() for spec, tensor in zip(bundle.manifest.inputs, inputs, strict=True)}
    with cospipe.PipelineRunner(bundle) as runner:
        [result] = runner.run([frame])
    with torch.no_grad():
        expected = model(*inputs)
    for spec, name in zip(bundle.manifest.outputs, ("first", "input", "best"), strict=True):
        assert np.allclose(result[spec.name], expected[name].numpy(), atol=1e-5)


def test_the_reference_is_the_models_own_output(unusual):
    model, inputs, bundle = unusual
    with torch.no_grad():
        expected = model(*inputs)["first"]
    assert np.array_equal(bundle.reference()[bundle.manifest.outputs[0].name], expected.numpy())


def test_a_model_that_returns_nan_is_refused(tmp_path):
    class Logarithm(nn.Module):
        def forward(self, x):
            return (x - 1).log()

    with pytest.raises(LoweringError, match="The model itself returns NaN as log"):
        cospipe.optimize(Logarithm(), (torch.zeros(2, 3),), output=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_cannot_be_compiled_leaves_the_old_bundle(unusual, tmp_path, monkeypatch):
    model, inputs, _ = unusual
    output = tmp_path / "bundle"
    cospipe.optimize(model, inputs, output=output)
    before = {file.name: file.read_bytes() for file in output.iterdir()}

    def fail(*_):
        raise LoweringError("The linker is on strike.")

    monkeypatch.setattr("cospipe.backends.tvm.lower.link_shared_library", fail)
    with pytest.raises(LoweringError, match="on strike"):
        cospipe.optimize(model, inputs, output=output)
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before
    assert list(tmp_path.iterdir()) == [output]
