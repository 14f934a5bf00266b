import pytest
import torch
from torch import nn

from cospipe.ir.errors import CaptureError, CospipeError, UsageError
from cospipe.ir.load import load_model

FACTORIES = """
import torch
from torch import nn
class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)
ready = nn.Linear(4, 2)
def make(): return nn.Linear(4, 2)
def make_sized(width, depth=1): return nn.Linear(width, 2)
def make_list(): return [nn.Linear(4, 2)]
def fails(): raise ValueError("no weights here.\\nmore lines")
number = 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "factories_for_test.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return "factories_for_test"


@pytest.fixture
def program_file(tmp_path):
    path = tmp_path / "linear.pt2"
    inputs = (torch.full((2, 4), 0.5),)
    torch.export.save(torch.export.export(nn.Linear(4, 3), inputs), path)
    return path


@pytest.mark.parametrize("attribute", ["make", "Net", "ready"])
def test_factory_class_and_object_of_the_current_folder(factories, attribute):
    model, inputs = load_model(f"{factories}:{attribute}", [(5, 4)])
    assert isinstance(model, nn.Linear)
    assert not model.training
    assert [tuple(tensor.shape) for tensor in inputs] == [(5, 4)]


def test_default_input_is_one_image_and_always_the_same():
    (first,) = load_model("torch.nn:Identity")[1]
    (second,) = load_model("torch.nn:Identity")[1]
    assert first.shape == (1, 3, 224, 224)
    assert torch.equal(first, second)


def test_several_inputs():
    _, inputs = load_model("torch.nn:Identity", [(1, 2), (3,)])
    assert [tuple(tensor.shape) for tensor in inputs] == [(1, 2), (3,)]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision.modelz:resnet18", ["no module 'torchvision.modelz'", "torchvision.models"]),
        ("torchvizion.models:resnet18", ["no module 'torchvizion'", "torchvision"]),
        ("torchvision.models:resnet81", ["no 'resnet81'", "resnet18"]),
        ("torchvision.models:resnet", ["resnet"]),
        ("torchvision.models", ["package.module:factory"]),
        (":resnet18", ["package.module:factory"]),
        ("there/is/no.pt2", ["no file 'there/is/no.pt2'"]),
        ("factories_for_test:make_sized", ["needs the argument(s) width;"]),
        ("factories_for_test:make_list", ["gives a list"]),
        ("factories_for_test:number", ["gives a int"]),
        ("factories_for_test:mak", ["Did you mean", "make"]),
    ],
)
def test_wrong_name_is_a_usage_error(factories, spec, words):
    with pytest.raises(UsageError) as failure:
        load_model(spec)
    assert all(word in str(failure.value) for word in words)
    assert len(str(failure.value)) < 300


def test_failing_factory_gives_its_first_line(factories):
    with pytest.raises(CaptureError, match=r"fails\(\) fails: no weights here\.$"):
        load_model(f"{factories}:fails")


def test_module_that_misses_a_dependency(tmp_path, monkeypatch):
    (tmp_path / "needs_something.py").write_text("import package_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaptureError, match="Importing needs_something fails: No module named 'package_nobody_has'"):
        load_model("needs_something:make")


def test_module_with_a_mistake(tmp_path, monkeypatch):
    (tmp_path / "has_mistake.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaptureError, match="Importing has_mistake fails: division by zero"):
        load_model("has_mistake:make")


def test_onnx_has_no_module():
    with pytest.raises(CospipeError, match=r"model.onnx: an ONNX file has no PyTorch module, which is needed here"):
        load_model("model.onnx")


def test_program_file_brings_its_own_inputs(program_file):
    program, inputs = load_model(str(program_file))
    assert torch.equal(inputs[0], torch.full((2, 4), 0.5))
    assert program.module()(*inputs).shape == (2, 3)


def test_program_file_of_another_shape(program_file):
    with pytest.raises(CaptureError, match=r"exported for input.s. of shape 2x4, not 1x4"):
        load_model(str(program_file), [(1, 4)])


def test_program_file_without_inputs(tmp_path):
    class Constant(nn.Module):
        def forward(self):
            return torch.ones(2) * 2

    path = tmp_path / "constant.pt2"
    torch.export.save(torch.export.export(Constant(), ()), path)
    with pytest.raises(CaptureError, match="has no example inputs"):
        load_model(str(path))


def test_damaged_program_file(tmp_path):
    path = tmp_path / "damaged.pt2"
    path.write_bytes(b"not a program")
    with pytest.raises(CaptureError, match=r"is not a program saved by torch.export.save"):
        load_model(str(path))
