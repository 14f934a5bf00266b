import math

import pytest

from cospipe.ir.errors import UsageError
from cospipe.ir.spectral_config import SpectralConfig, matches


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("encoder.0.query.weight", "*", True),
        ("encoder.0.query.weight", "*.query", True),
        ("encoder.0.query.weight", "*.query.weight", True),
        ("encoder.0.query.weight", "encoder", True),
        ("encoder.0.query.weight", "encoder.[1-9]", False),
        ("encoder.0.query.weight", "query", False),
        ("encoder.0.query.bias", "*.query.weight", False),
        ("weight", "weight", True),
        ("Encoder.weight", "encoder", False),
    ],
)
def test_patterns_match_parameters_and_modules(name, pattern, expected):
    assert matches(name, pattern) is expected


def test_the_first_matching_pattern_counts():
    config = SpectralConfig(n=7, layers="*.query:1000|encoder.*|*.query:3")
    assert config.count_for("encoder.0.query.weight") == 1000
    assert config.count_for("encoder.0.value.weight") == 7
    assert config.count_for("pooler.weight") is None


def test_what_is_trained_whole():
    config = SpectralConfig(also_train="classifier|*.norm")
    assert config.trains_whole("classifier.bias")
    assert config.trains_whole("encoder.3.norm.weight")
    assert not config.trains_whole("encoder.3.query.weight")
    assert not SpectralConfig().trains_whole("classifier.bias")


def test_everything_that_makes_no_sense_is_listed():
    with pytest.raises(UsageError) as failure:
        SpectralConfig(
            n=0, budget=-1, alpha=math.nan, selection="randm", delta=1.5, distance="far", seed=-1, layers="a:x|b:0|:5"
        )
    lines = str(failure.value).removeprefix("These options of spectral adapters make no sense: ").split("; ")
    starts = ["n=0", "budget=-1", "alpha=nan", "selection=randm: Did you mean random?", "delta=1.5", "distance=far"]
    starts += ["seed=-1", "layers=a:x", "layers=b:0", "layers=:5"]
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


@pytest.mark.parametrize(
    "options", [{"alpha": 0.0}, {"alpha": math.inf}, {"layers": ""}, {"layers": "|"}, {"seed": 2**32}]
)
def test_other_senseless_options(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        SpectralConfig(**options)


def test_a_budget_and_numbers_for_patterns_exclude_each_other():
    with pytest.raises(UsageError, match=r"layers=\*\.query:5: a budget shares all coefficients"):
        SpectralConfig(budget=100, layers="*.query:5|*.value")


def test_negative_alpha_and_extreme_shares_are_fine():
    assert SpectralConfig(alpha=-2.0, delta=0.0).alpha == -2.0
    assert SpectralConfig(delta=1.0, seed=2**32 - 1).seed == 2**32 - 1


def test_patterns_in_a_list_are_refused():
    with pytest.raises(UsageError, match=r"layers=\['query'\]: write patterns as one text, with \| in between"):
        SpectralConfig(layers=["query"])
