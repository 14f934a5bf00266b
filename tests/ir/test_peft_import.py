"""Options of peft: names, counts and units against the installed library itself."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from cospipe.ir import peft_import
from cospipe.ir.coefficient_places import coefficient_counts
from cospipe.ir.errors import UsageError
from cospipe.ir.peft_import import learning_rate_factor, spectral_config
from cospipe.ir.spectral_config import SpectralConfig

peft = pytest.importorskip("peft")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.value, self.dense = nn.Linear(12, 12), nn.Linear(12, 8), nn.Linear(8, 12)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
        self.classifier = nn.Linear(12, 2)


SHAPES = {name: tuple(parameter.shape) for name, parameter in Net().named_parameters()}
TARGETS = [
    {"target_modules": ["query", "value"]},
    {"target_modules": ["layers.0.query", "dense"]},
    {"target_modules": r".*\.1\.(query|dense)"},
    {"target_modules": ["query", "value"], "exclude_modules": ["layers.1.value"]},
    {"target_modules": ["query"], "modules_to_save": ["classifier"]},
]


def trained_by_peft(config):
    """Numbers that peft trains, by weight, and the modules it saves whole."""
    found = {}
    for name, parameter in peft.get_peft_model(Net(), config).base_model.model.named_parameters():
        if parameter.requires_grad and "modules_to_save" not in name:
            weight = name.split(".fourierft")[0].split(".lora")[0] + ".weight"
            found[weight] = found.get(weight, 0) + parameter.numel()
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("FourierFTConfig", {"n_frequency": 20, "random_loc_seed": 11}),
        ("FourierFTConfig", {"n_frequency": 20, "n_frequency_pattern": {"query": 7, r"layers\.1\.dense": 9}}),
        ("LoraConfig", {"r": 2, "lora_alpha": 16}),
        ("LoraConfig", {"r": 2, "rank_pattern": {"layers.0.query": 3}}),
    ],
)
def test_as_many_numbers_on_the_same_weights_as_peft_trains(target, kind, options):
    config = getattr(peft, kind)(**options, **target)
    ours = SpectralConfig.from_peft(config.to_dict(), SHAPES)
    counts = coefficient_counts({name: shape for name, shape in SHAPES.items() if len(shape) > 1}, ours)
    assert counts == trained_by_peft(config)
    assert (ours.selection, ours.alpha) == ("random", 1.0)
    assert ours.seed == getattr(config, "random_loc_seed", 0)
    assert ours.trains_whole("classifier.weight") == ("modules_to_save" in target)


def test_names_are_short_where_they_can_be():
    config = {"peft_type": "FOURIERFT", "n_frequency": 5, "target_modules": ["value", "query"]}
    assert spectral_config(config, SHAPES) == SpectralConfig(
        n=5, selection="random", layers="query|*.query|value|*.value"
    )


def test_the_factor_is_the_norm_of_pefts_waves():
    config = peft.FourierFTConfig(n_frequency=12 * 8, target_modules=["value"], scaling=37.0)
    layer = peft.get_peft_model(Net(), config).base_model.model.layers[0].value
    spectrum, norms = layer.fourierft_spectrum["default"], []
    for which in range(len(spectrum)):
        with torch.no_grad():
            spectrum.zero_()[which] = 1
            norms.append(layer.get_delta_weight("default").norm().item())
    factor = learning_rate_factor(config.to_dict(), (8, 12))
    assert factor == pytest.approx(37 / math.sqrt(2 * 8 * 12))
    # the few frequencies that are their own mirror image have the norm 1 / sqrt(MN)
    assert sorted(norms)[len(norms) // 2] == pytest.approx(factor, rel=1e-5)


def test_every_option_that_is_named_exists_in_peft():
    fields = {
        kind: {f.name: f.default for f in dataclasses.fields(kind)} for kind in (peft.FourierFTConfig, peft.LoraConfig)
    }
    known = fields[peft.FourierFTConfig] | fields[peft.LoraConfig]
    assert set(peft_import._UNSUPPORTED) <= set(known)
    assert not any(known[name] for name in peft_import._UNSUPPORTED)
    for kind in (peft.FourierFTConfig, peft.LoraConfig):
        name, default, pattern = peft_import._COUNTS[kind().peft_type.value]
        assert fields[kind][name] == default
        assert pattern in fields[kind]
    assert fields[peft.FourierFTConfig]["scaling"] == 150.0
    assert fields[peft.LoraConfig]["bias"] == "none"


def test_everything_that_cannot_be_translated_is_listed():
    config = {
        "peft_type": "LORA",
        "r": 0,
        "target_modules": "(",
        "bias": "all",
        "use_dora": True,
        "layers_to_transform": [1],
    }
    with pytest.raises(UsageError) as failure:
        spectral_config(config, SHAPES)
    lines = str(failure.value).splitlines()[1:]
    starts = ["layers_to_transform=[1]", "use_dora=True", "bias='all'", "target_modules='('", "r=0"]
    assert len(lines) == len(starts)
    assert all(line.startswith(f"  - {start}") for line, start in zip(lines, starts, strict=True))
    with pytest.raises(UsageError, match="peft_type=VERA: only FOURIERFT and LORA"):
        spectral_config({"peft_type": "VERA", "target_modules": ["query"]}, SHAPES)
    with pytest.raises(UsageError, match="target_modules='all-linear': name the modules"):
        spectral_config({"peft_type": "LORA", "target_modules": "all-linear"}, SHAPES)
    with pytest.raises(UsageError, match=r"No weight matches target_modules=\['heads'\]"):
        spectral_config({"peft_type": "LORA", "target_modules": ["heads"]}, SHAPES)
    with pytest.raises(UsageError, match="Only learning rates of FourierFT"):
        learning_rate_factor({"peft_type": "LORA"}, (3, 4))


def test_pefts_registry_takes_no_method_of_others():
    """The reason why there is no plug-in, see docs/adapters.md; when this fails, write one."""
    from peft.utils.peft_types import register_peft_method

    with pytest.raises(ValueError, match=r"Unknown PEFT type SDCTFT, please add an entry to .*PeftType"):
        register_peft_method(name="sdctft", config_cls=peft.FourierFTConfig, model_cls=peft.FourierFTModel)
