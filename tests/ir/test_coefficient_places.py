import math
from zlib import crc32

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.ir.coefficient_places import choose_places, coefficient_counts, matrix_shape
from cospipe.ir.errors import UsageError
from cospipe.ir.spectral_config import DISTANCES, SELECTIONS, SpectralConfig

SHAPES = [(12, 9), (1, 40), (40, 1), (30, 3), (3, 30), (8, 3, 3, 3), (17, 17)]


def weight_of(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chosen(shape, n, gradient=None, weight=None, name="layer.weight", **options):
    """Flat places, in the order they come."""
    weight = weight_of(shape) if weight is None else weight
    rows, columns = choose_places(name, weight, n, SpectralConfig(**options), gradient)
    assert rows.dtype == columns.dtype == torch.int32
    height, width = matrix_shape(shape)
    assert ((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)).all()
    return (rows.long() * width + columns.long()).tolist()


def energies(tensor):
    matrix = tensor.double().numpy().reshape(matrix_shape(tensor.shape))
    return (scipy.fft.dctn(matrix, norm="ortho") ** 2).ravel()


def distance(place, shape, kind):
    """How far a place is, and the largest distance the bands are cut from, by the formula in the documentation."""
    height, width = shape
    u, v = divmod(place, width)
    if kind == "normalized":
        return math.sqrt((u / height) ** 2 + (v / width) ** 2), math.sqrt(2)
    far = ((height - 1) ** 2 + (width - 1) ** 2) if kind == "corner" else (height / 2) ** 2 + (width / 2) ** 2
    return math.hypot(u, v), math.sqrt(far)


def bands_of(shape, kind):
    bands = [[], [], []]
    for place in range(shape[0] * shape[1]):
        found, largest = distance(place, shape, kind)
        bands[min(2, int(3 * found / largest))].append(place)
    return bands


def shares_of(sizes, n):
    """Give out one coefficient after another to the bands in turn, leaving out those that are full."""
    counts = [0, 0, 0]
    while sum(counts) < n:
        for band in range(3):
            if counts[band] < sizes[band] and sum(counts) < n:
                counts[band] += 1
    return counts


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("delta", [0.0, 0.7, 1.0])
def test_hybrid_takes_the_strongest_of_each_band_and_random_ones(shape, kind, share, delta):
    weight, flat = weight_of(shape), matrix_shape(shape)
    n = max(1, round(share * flat[0] * flat[1]))
    found = chosen(shape, n, delta=delta, distance=kind)
    assert len(set(found)) == len(found) == n
    assert found == sorted(found)
    energy = energies(weight)
    bands = bands_of(flat, kind)
    for band, count in zip(bands, shares_of(list(map(len, bands)), n), strict=True):
        inside = [place for place in found if place in set(band)]
        assert len(inside) == count
        strongest = sorted(band, key=lambda place: -energy[place])[: round(delta * count)]
        assert set(strongest) <= set(inside)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=4),
    st.integers(1, 400),
    st.integers(0, 2**32 - 1),
    st.sampled_from(SELECTIONS),
    st.sampled_from(DISTANCES),
)
def test_places_are_distinct_and_as_many_as_asked(shape, n, seed, selection, kind):
    found = chosen(shape, n, weight_of(shape), selection=selection, seed=seed, distance=kind)
    assert len(set(found)) == len(found) == min(n, math.prod(shape))
    assert found == sorted(found)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", DISTANCES)
def test_low_equals_sorting_all_places(shape, kind):
    flat = matrix_shape(shape)
    everything = sorted(range(flat[0] * flat[1]), key=lambda place: (distance(place, flat, kind)[0], place))
    for n in (1, 2, 7, len(everything) // 2, len(everything) - 1):
        assert chosen(shape, n, selection="low", distance=kind) == sorted(everything[:n])


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_takes_the_largest_of_the_gradients_spectrum(shape):
    gradient = weight_of(shape, seed=3)
    strongest = np.argsort(-energies(gradient))[:11]
    assert chosen(shape, 11, gradient, selection="gradient") == sorted(strongest.tolist())


def test_places_are_frozen():
    """The same seed and name give these places for ever, on every machine: files and papers rely on it."""
    weight = torch.arange(10_000, dtype=torch.float64).reshape(100, 100).sin()
    name = "encoder.query.weight"
    assert crc32(name.encode()) == 3510855644
    random = chosen((100, 100), 8, weight=weight, name=name, selection="random", seed=5)
    assert random == FROZEN_RANDOM
    assert chosen((100, 100), 12, weight=weight, name=name, seed=5) == FROZEN_HYBRID
    half = torch.arange(30, dtype=torch.float64).reshape(5, 6).cos()
    assert chosen((5, 6), 20, weight=half, name=name, selection="random", seed=5) == FROZEN_DENSE


FROZEN_RANDOM = [1262, 2464, 3895, 5309, 5478, 5638, 5647, 6372]
FROZEN_HYBRID = [1632, 1731, 1745, 1747, 1749, 1793, 1795, 1832, 3605, 4669, 7667, 9032]
FROZEN_DENSE = [1, 2, 3, 5, 7, 8, 10, 11, 12, 13, 16, 17, 18, 19, 20, 22, 25, 26, 27, 28]


def test_places_depend_on_seed_and_name():
    def places(**options):
        return chosen((50, 50), 100, selection="random", **options)

    assert places() == places()
    assert places(seed=1) != places(seed=2)
    assert places(name="a") != places(name="b")


def test_random_places_are_spread_evenly():
    flat = np.array(chosen((1000, 2000), 20_000, weight=torch.zeros(1000, 2000), selection="random"))
    assert abs((flat // 2000).mean() - 499.5) < 10  # five standard deviations
    assert abs((flat % 2000).mean() - 999.5) < 20


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("selection", ["hybrid", "gradient"])
def test_equal_numbers_take_the_first_places(value, selection):
    constant = torch.full((9, 8), value, dtype=torch.float64)
    found = chosen((9, 8), 6, constant, constant, selection=selection, delta=1.0)
    assert len(found) == 6
    if selection == "gradient":
        assert found == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_does_not_decide_between_equal_magnitudes(dtype):
    spectrum = torch.zeros(12, 9, dtype=torch.float64)
    spectrum.view(-1)[::3] = 0.5  # 36 equal ones
    weight = torch.from_numpy(scipy.fft.idctn(spectrum.numpy(), norm="ortho"))
    noise = 1e-13 * torch.randn(12, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = list(range(0, 30, 3))
    assert chosen((12, 9), 10, weight, selection="gradient") == wanted
    assert chosen((12, 9), 10, weight + noise, selection="gradient") == wanted


@pytest.mark.parametrize("selection", SELECTIONS)
def test_more_coefficients_than_elements_take_all_places(selection):
    assert chosen((3, 5), 1000, selection=selection) == list(range(15))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_named(value):
    weight = weight_of((5, 4))
    weight[2, 3] = value
    with pytest.raises(UsageError, match=r"encoder\.weight holds infinite or undefined numbers"):
        choose_places("encoder.weight", weight, 3, SpectralConfig())
    assert len(chosen((5, 4), 3, weight=weight, selection="random")) == 3  # which does not look at them


def test_gradient_selection_says_what_it_needs():
    with pytest.raises(UsageError, match=r"needs the gradient of encoder\.weight: run loss\.backward\(\)"):
        choose_places("encoder.weight", weight_of((5, 4)), 3, SpectralConfig(selection="gradient"))


def test_half_precision_and_transposed_weights():
    weight = weight_of((16, 12)).to(torch.bfloat16)
    assert chosen((16, 12), 20, weight=weight) == chosen((16, 12), 20, weight=weight.double())
    transposed = weight_of((12, 16)).T
    assert chosen((16, 12), 20, weight=transposed) == chosen((16, 12), 20, weight=transposed.contiguous())


def test_meta_weights_have_a_number_of_places_and_no_values():
    rows, columns = choose_places("w", torch.empty(4096, 4096, device="meta"), 700, SpectralConfig())
    assert (rows.shape, rows.is_meta, columns.is_meta) == ((700,), True, True)


def test_the_papers_setting_of_llama_3_1_8b():
    shapes = {}
    for layer in range(32):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (4096, 4096)
        shapes[f"model.layers.{layer}.self_attn.k_proj.weight"] = (1024, 4096)
        shapes[f"model.layers.{layer}.self_attn.v_proj.weight"] = (1024, 4096)
    counts = coefficient_counts(shapes, SpectralConfig(n=700, layers="*.q_proj|*.v_proj"))
    assert sum(counts.values()) == 44_800
    assert not any("k_proj" in name for name in counts)


SIZES = st.dictionaries(st.text("abc", min_size=1), st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1)


@settings(deadline=None)
@given(SIZES, st.integers(1, 20_000))
def test_a_budget_is_shared_exactly_and_in_proportion(shapes, budget):
    config = SpectralConfig(budget=budget)
    if budget < len(shapes):
        with pytest.raises(UsageError, match="less than one for each"):
            coefficient_counts(shapes, config)
        return
    counts = coefficient_counts(shapes, config)
    sizes = {name: height * width for name, (height, width) in shapes.items()}
    assert sum(counts.values()) == min(budget, sum(sizes.values()))
    assert all(1 <= counts[name] <= sizes[name] for name in shapes)
    shares = {name: counts[name] / sum(shape) for name, shape in shapes.items()}
    for name, other in ((name, other) for name in shapes for other in shapes):
        # who has room gets his share: no other gets more for each row and column, up to the first and the last one
        if counts[name] < sizes[name]:
            assert counts[other] <= 2 + (shares[name] + 2 / sum(shapes[name])) * sum(shapes[other]) + len(shapes)


def test_a_budget_as_lora_shares_its_own():
    shapes = {"q": (768, 768), "v": (768, 768), "up": (3072, 768)}
    counts = coefficient_counts(shapes, SpectralConfig(budget=2 * (1536 + 1536 + 3840)))
    assert all(abs(counts[name] - 2 * sum(shape)) <= 1 for name, shape in shapes.items())


def test_small_weights_pass_their_share_on():
    counts = coefficient_counts({"small": (2, 2), "large": (100, 100)}, SpectralConfig(budget=1000))
    assert counts == {"small": 4, "large": 996}


def test_patterns_count_in_their_order():
    shapes = {"a.query.weight": (30, 30), "a.value.weight": (30, 30), "b.value.weight": (2, 3), "head.weight": (9, 9)}
    config = SpectralConfig(n=50, layers="b.*|*.query:20|*.value", also_train="head")
    assert coefficient_counts(shapes, config) == {"a.query.weight": 20, "a.value.weight": 50, "b.value.weight": 6}


def test_what_is_trained_whole_is_not_adapted():
    shapes = {"body.weight": (30, 30), "head.weight": (9, 9)}
    assert coefficient_counts(shapes, SpectralConfig(n=5, also_train="head")) == {"body.weight": 5}
