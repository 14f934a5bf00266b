"""Translate the options of peft's FourierFT and LoRA adapters, as in their ``adapter_config.json``. Needs no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from cospipe.ir.errors import UsageError, several
from cospipe.ir.spectral_config import SpectralConfig

_COUNTS = {"FOURIERFT": ("n_frequency", 1000, "n_frequency_pattern"), "LORA": ("r", 8, "rank_pattern")}
_UNSUPPORTED = (
    "layers_to_transform",
    "layers_pattern",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "alora_invocation_tokens",
)
"""Options that change what is trained, or where, in a way that has no counterpart here; fine when they are off."""


def spectral_config(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> SpectralConfig:
    """Translate options of peft.

    * FourierFT: ``n_frequency`` coefficients at random places with the seed ``random_loc_seed``. The places are others
      than peft's, and the unit of a coefficient too: see :func:`learning_rate_factor`.
    * LoRA: as many coefficients as LoRA trains numbers, ``r (rows + columns)`` for each weight. ``lora_alpha`` scales
      matrices that do not exist here and is left out.

    Parameters
    ----------
    config : mapping
        What ``adapter_config.json`` holds, or ``config.to_dict()`` returns.
    shapes : mapping of str to shape
        Shapes of the model's weights by parameter name; patterns of peft are resolved against them.

    Returns
    -------
    SpectralConfig
        With ``alpha=1`` and ``selection="random"``.

    Raises
    ------
    UsageError
        Listing every option that cannot be translated.
    """
    if problems := _problems(config):
        raise UsageError(several("These options of peft cannot be translated", problems))
    counts = {
        name: _count(config, name, shape)
        for name, shape in shapes.items()
        if len(shape) > 1 and _is_target(config, _module(name))
    }
    if not counts:
        raise UsageError(f"No weight matches target_modules={config['target_modules']!r}. Known: {', '.join(shapes)}.")
    options: dict[str, Any] = {"selection": "random", "seed": config.get("random_loc_seed") or 0}
    saved = config.get("modules_to_save") or []
    options["also_train"] = "|".join(pattern for module in saved for pattern in (module, f"*.{module}"))
    return SpectralConfig(**options, **_sizes(config, counts, shapes))


def learning_rate_factor(config: Mapping[str, Any], shape: Sequence[int]) -> float:
    """Return what a learning rate of FourierFT is multiplied with for a weight of some shape.

    A coefficient of FourierFT scales a wave of norm ``scaling / sqrt(2 M N)``, one of ours a wave of norm 1 (``alpha``
    is 1). An optimizer that moves coefficients by its learning rate, as Adam does, moves the weight equally far with
    the learning rate times this factor.

    Parameters
    ----------
    config : mapping
        Options of FourierFT.
    shape : sequence of int
        Of the weight.

    Raises
    ------
    UsageError
        For another method: LoRA's factors have no fixed norm.
    """
    if str(_plain(config.get("peft_type"))) != "FOURIERFT":
        raise UsageError(
            "Only learning rates of FourierFT can be translated; the norm of LoRA's waves changes with them."
        )
    return float(config.get("scaling", 150.0)) / math.sqrt(2 * prod(shape))


def _problems(config: Mapping[str, Any]) -> list[str]:
    kind, target = str(_plain(config.get("peft_type"))), config.get("target_modules")
    if kind not in _COUNTS:
        return [f"peft_type={kind}: only FOURIERFT and LORA are known"]
    problems = [f"{name}={config[name]!r}: this has no counterpart" for name in _UNSUPPORTED if config.get(name)]
    if config.get("bias", "none") != "none":
        problems.append(f"bias={config['bias']!r}: name the biases in also_train instead")
    if not target or target == "all-linear":
        problems.append(f"target_modules={target!r}: name the modules, in a list or as a regular expression")
    for option in ("target_modules", "exclude_modules"):
        problems += _pattern_problems(option, config.get(option))
    name, default, pattern = _COUNTS[kind]
    counts = {name: config.get(name, default), **{f"{pattern}[{k}]": v for k, v in (config.get(pattern) or {}).items()}}
    problems += [
        f"{key}={n!r}: it must be a positive integer" for key, n in counts.items() if type(n) is not int or n < 1
    ]
    for key in config.get(pattern) or {}:
        problems += _pattern_problems(pattern, key)
    return problems


def _pattern_problems(option: str, pattern: object) -> list[str]:
    if not isinstance(pattern, str):
        return []
    try:
        re.compile(pattern)
    except re.error as error:
        return [f"{option}={pattern!r}: it is no regular expression ({error})"]
    return []


def _plain(value: object) -> object:
    """Return the text of one of peft's enumerations."""
    return getattr(value, "value", value)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _is_target(config: Mapping[str, Any], module: str) -> bool:
    saved = config.get("modules_to_save") or []
    if any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in saved):
        return False
    return _is_named(config["target_modules"], module) and not _is_named(config.get("exclude_modules") or [], module)


def _is_named(pattern: str | Sequence[str], module: str) -> bool:
    """Tell whether a module is meant: a text is a regular expression, a list holds the ends of paths."""
    if isinstance(pattern, str):
        return re.fullmatch(pattern, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in pattern)


def _count(config: Mapping[str, Any], name: str, shape: Sequence[int]) -> int:
    kind = str(_plain(config["peft_type"]))
    option, default, pattern = _COUNTS[kind]
    patterns = config.get(pattern) or {}
    before = r"(.*\.)?" if kind == "LORA" else r".*\."  # FourierFT's patterns do not match from the start of a path
    found = next((n for key, n in patterns.items() if re.match(rf"{before}({key})$", _module(name))), None)
    count = int(config.get(option, default) if found is None else found)
    size = prod(shape)
    return min(count * (shape[0] + size // shape[0]) if kind == "LORA" else count, size)


def _sizes(config: Mapping[str, Any], counts: Mapping[str, int], shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the options that give each weight its count: one number for all, a budget, or a number for each."""
    names = _layers(config, counts, shapes)
    if str(_plain(config["peft_type"])) == "LORA" and not config.get("rank_pattern"):
        return {"budget": sum(counts.values()), "layers": names}
    numbers = set(counts.values())
    if len(numbers) == 1:
        return {"n": numbers.pop(), "layers": names}
    return {"layers": "|".join(f"{name}:{count}" for name, count in counts.items())}


def _layers(config: Mapping[str, Any], counts: Mapping[str, int], shapes: Mapping[str, Sequence[int]]) -> str:
    """Return a short pattern where it means the same weights, else all their names."""
    targets = config["target_modules"]
    if not isinstance(targets, str):
        short = "|".join(pattern for name in sorted(targets) for pattern in (name, f"*.{name}"))
        matcher = SpectralConfig(layers=short)
        if {name for name in shapes if len(shapes[name]) > 1 and matcher.count_for(name) is not None} == set(counts):
            return short
    return "|".join(counts)
