"""The methods of fine-tuning that are compared, each put on the same network with the same new classifier.

``sdctft-*`` are this project's, with a selection; ``sdctft`` alone is the selection that is best on validation.
``fourierft``, ``waveft``, ``vera``, ``lora1`` and ``lora8`` are peft's, ``head`` trains the classifier alone, ``full``
everything. What makes the comparison fair:

* All adapters are on the same weights. The spectral ones have as many coefficients: n for a matrix of 384x384, others
  in proportion to rows + columns as LoRA has it, so n = 256 is a third of LoRA of rank 1 for every network.
* FourierFT's ``scaling`` is sqrt(2 M N) and WaveFT's is 1, for their atoms to have norm 1 like a cosine here. An Adam
  step of one learning rate then changes the weights as far in all three, and one grid serves them. peft's defaults
  mean the same at another learning rate, 543 / 150 = 3.6 times as large for FourierFT on 384x384.
* All adapters start without effect; FourierFT needs ``init_weights=True`` for that.
* LoRA's ``lora_alpha`` is twice its rank, VeRA has its defaults (rank 256).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from finetune_networks import HEAD, Classifier, matrix_sides
from finetune_tasks import import_package
from torch import nn

import cospipe
from cospipe.ir.adapter_file import read_adapter, write_adapter
from cospipe.ir.errors import CospipeError, UsageError, first_line, nearest, several
from cospipe.ir.spectral_config import SpectralConfig

SPECTRAL = tuple(f"sdctft-{selection}" for selection in ("hybrid", "random", "low", "gradient"))
PEFT = ("fourierft", "lora1", "lora8", "waveft", "vera")
METHODS = ("sdctft", *SPECTRAL, *PEFT, "head", "full")
REFERENCE_SIDES = 384 + 384
"""Rows + columns of the weights that ``--n`` is meant for."""


class UnsupportedError(CospipeError):
    """A method cannot adapt the layers of a network."""


@dataclass(frozen=True)
class Arm:
    """A network ready to be trained by one method.

    Parameters
    ----------
    network : nn.Module
        Called with the inputs of a batch; returns logits.
    adapter, head : list of Parameter
        What is trained, apart for their learning rates.
    file_bytes : callable
        Returns the size of the saved adapter without the classifier.
    """

    network: nn.Module
    adapter: list[nn.Parameter]
    head: list[nn.Parameter]
    file_bytes: Callable[[], int]

    @property
    def trainable_parameters(self) -> int:
        """Numbers that are trained, without the classifier's."""
        return sum(parameter.numel() for parameter in self.adapter)


def chosen_methods(text: str) -> tuple[str, ...]:
    """Return the methods of a list with commas.

    Raises
    ------
    UsageError
        Naming all that do not exist.
    """
    names = tuple(dict.fromkeys(filter(None, text.split(","))))
    if wrong := [f"{name!r}. {nearest(name, METHODS)}" for name in names if name not in METHODS]:
        raise UsageError(several("There are no such methods", wrong))
    return names


def build_arm(
    method: str, network: Classifier, n: int, seed: int, calibrate: Callable[[nn.Module], None] | None = None
) -> Arm:
    """Put a method on a network, in place.

    Parameters
    ----------
    method : str
        One of ``METHODS`` but ``sdctft``.
    network : Classifier
        As :func:`finetune_networks.pretrained` returns it.
    n : int
        Coefficients of a weight of 384x384.
    seed : int
        Of places, random matrices and initial values.
    calibrate : callable, optional
        Gives the weights gradients, for ``sdctft-gradient``.

    Raises
    ------
    UnsupportedError
        When peft's method cannot adapt such layers.
    """
    torch.manual_seed(seed)
    if method in SPECTRAL:
        return _spectral_arm(method.partition("-")[2], network, n, seed, calibrate)
    if method in PEFT:
        return _peft_arm(method, network, n, seed)
    if method == "full":
        network.requires_grad_(True)
    head = list(network.classifier.parameters())
    adapter = [p for p in network.parameters() if p.requires_grad and not any(p is h for h in head)]
    return Arm(network, adapter, head, lambda: sum(p.numel() * p.element_size() for p in adapter))


def coefficient_budget(network: Classifier, n: int) -> int:
    """Return the coefficients of all adapted weights together."""
    sides = matrix_sides(network, network.adapted_modules())
    return round(sum(rows + columns for rows, columns in sides) * n / REFERENCE_SIDES)


def _spectral_arm(
    selection: str, network: Classifier, n: int, seed: int, calibrate: Callable[[nn.Module], None] | None
) -> Arm:
    head = list(network.classifier.parameters())
    config = SpectralConfig(
        budget=coefficient_budget(network, n),
        selection=selection,
        seed=seed,
        layers="|".join(network.adapted_modules()),
        also_train=HEAD,
    )
    adapters = cospipe.adapt(network, config, calibrate=calibrate)
    adapter = [delta.coefficients for delta in adapters.deltas().values()]
    return Arm(network, adapter, head, lambda: _spectral_bytes(adapters))


def _spectral_bytes(adapters: cospipe.Adapters) -> int:
    """Return the bytes of the adapter's file once the classifier is taken out of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        adapters.save(path)
        stored = read_adapter(path)
        header = stored.header.model_copy(update={"trained": {}})
        write_adapter(path, replace(stored, header=header, trained={}))
        return path.stat().st_size


def _peft_arm(method: str, network: Classifier, n: int, seed: int) -> Arm:
    head = list(network.classifier.parameters())
    peft = import_package("peft")
    config = _peft_config(peft, method, network, n, seed)
    try:
        with redirect_stdout(StringIO()):
            adapted = peft.get_peft_model(network, config)
    except (TypeError, ValueError) as error:
        raise UnsupportedError(f"peft's {method} cannot adapt this network: {first_line(error)}") from error
    adapter = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.classifier.requires_grad_(True)
    return Arm(adapted.eval(), adapter, head, lambda: _peft_bytes(adapted))


def _peft_config(peft: Any, method: str, network: Classifier, n: int, seed: int) -> Any:
    targets = network.adapted_modules()
    if method.startswith("lora"):
        rank = int(method.removeprefix("lora"))
        return peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    if method == "vera":
        return peft.VeraConfig(target_modules=targets, projection_prng_key=seed)
    rows, columns = matrix_sides(network, targets)[0]
    count = round(n * (rows + columns) / REFERENCE_SIDES)
    if method == "waveft":
        return peft.WaveFTConfig(n_frequency=count, scaling=1.0, random_loc_seed=seed, target_modules=targets)
    return peft.FourierFTConfig(
        n_frequency=count,
        scaling=sqrt(2 * rows * columns),
        init_weights=True,  # zeros: its default draws them, and the network is another one before the first step
        random_loc_seed=seed,
        target_modules=targets,
    )


def _peft_bytes(adapted: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        adapted.save_pretrained(folder)
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
