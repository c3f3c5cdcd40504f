"""A histogram counts what numpy counts, whatever the order in which values come."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qexplore.errors import CalibrationError
from qexplore.quant import Histogram


def histogram(*tensors: torch.Tensor, num_bins: int = 64) -> Histogram:
    built = Histogram(num_bins)
    for tensor in tensors:
        built.collect(tensor)
    return built


def drawn(count: int = 5000, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_counts_are_those_of_numpy_over_the_next_power_of_two() -> None:
    x = drawn().clamp(-3.9, 3.8)
    counted = histogram(x)
    expected, edges = np.histogram(x.double().numpy(), bins=64, range=(-4, 4))
    assert counted.limit == 4.0
    assert np.array_equal(counted.edges, edges)
    assert np.array_equal(counted.counts, expected)
    assert (counted.lowest, counted.highest) == (float(x.min()), float(x.max()))
    assert counted.amax == float(x.abs().max())


def test_zeros_of_either_sign_are_counted_apart() -> None:
    counted = histogram(torch.tensor([0.0, -0.0, 0.0, 1e-30, 0.7]))
    assert (counted.num_zeros, int(counted.counts.sum()), counted.count) == (3, 2, 5)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(data=st.data())
def test_neither_order_nor_cuts_matter(data: st.DataObject) -> None:
    scales = data.draw(st.lists(st.sampled_from([1e-6, 0.01, 1.0, 3.0, 1000.0]), min_size=1, max_size=4))
    parts = [drawn(50, seed) * scale for seed, scale in enumerate(scales)]
    shuffled = data.draw(st.permutations(parts))
    together, apart = histogram(torch.cat(parts)), histogram(*shuffled)
    assert together.limit == apart.limit
    assert np.array_equal(together.counts, apart.counts)
    assert (together.lowest, together.highest) == (apart.lowest, apart.highest)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name_and_counts_nothing(wrong: float) -> None:
    counted = Histogram(name="point 'fc'")
    with pytest.raises(CalibrationError, match="values of point 'fc' must be finite"):
        counted.collect(torch.tensor([1.0, wrong]))
    assert counted.count == 0


def test_empty_tensors_and_other_dtypes() -> None:
    counted = histogram(torch.empty(0), drawn(100).half(), drawn(100).double(), torch.zeros(3, 4))
    assert counted.count == 212
    assert math.isnan(Histogram().amax)


@pytest.mark.parametrize("value", [3e38, 1e-44, -1.0, 2.0])
def test_extremes_of_float32_fit(value: float) -> None:
    counted = histogram(torch.tensor([value]))
    assert int(counted.counts.sum()) == 1
    place = int(np.flatnonzero(counted.counts)[0])
    exact = float(torch.tensor(value))
    assert counted.edges[place] <= exact < counted.edges[place + 1]


@pytest.mark.parametrize("wrong", [0, 2, 100, -4])
def test_bins_that_cannot_be_halved_are_refused(wrong: int) -> None:
    with pytest.raises(CalibrationError, match="must be a power of two"):
        Histogram(wrong)


SHAPES = {
    "gaussian": drawn(3000),
    "relu": drawn(3000).relu(),
    "uniform": torch.linspace(0, 1, 3000),
    "constant": torch.full((50,), 0.7),
    "negative": -drawn(3000).abs(),
    "few": torch.tensor([1.0, -0.5, 0.25, 0.0]),
}
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)


def sorted_percentile(x: torch.Tensor, percentile: float) -> tuple[float, float]:
    """The two neighbours among the sorted values between which ``percentile`` % of them end."""
    rising = x.double().sort().values
    rank = percentile / 100 * len(rising)
    last = len(rising) - 1
    below, above = max(math.ceil(rank - 1e-9) - 1, 0), min(math.floor(rank + 1e-9), last)
    return float(rising[below]), float(rising[max(below, above)])


@settings(deadline=None, derandomize=True, max_examples=150)
@given(data=st.data())
def test_percentiles_are_those_of_the_sorted_values_whatever_the_order_outliers_and_scale(data: st.DataObject) -> None:
    scale = data.draw(st.sampled_from([1e-44, 1e-40, 1e-30, 1e-4, 1.0, 1e4, 1e30]))
    outlier = data.draw(st.sampled_from([None, 1e1, 1e3, 1e5, 1e10, 1e30, -1e30]))
    parts = [SHAPES[data.draw(st.sampled_from(list(SHAPES)))] * scale, torch.zeros(data.draw(st.integers(0, 2000)))]
    parts += [torch.tensor([outlier])] if outlier is not None and abs(outlier) > 10 * scale else []
    x = torch.cat(parts)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 9))))]
    counted = histogram(*shuffled.tensor_split(data.draw(st.integers(1, 5))), num_bins=4096)
    for percentile in PERCENTILES:
        low, high = sorted_percentile(x.abs(), percentile)
        assert low * (1 - 2**-10) <= counted.magnitude_of(percentile) <= high * (1 + 2**-10)
        low, high = sorted_percentile(x, percentile)
        slack = 2**-10 * max(abs(low), abs(high))
        assert low - slack <= counted.quantile(percentile / 100) <= high + slack


@pytest.mark.parametrize("first", [torch.zeros(100), torch.full((100,), 1e-30), torch.full((2,), 1e-44)])
def test_a_first_tensor_of_nothing_much_does_not_fix_the_bins(first: torch.Tensor) -> None:
    x = drawn() * 1e-4
    for order in ((first, x), (x, first)):
        counted = histogram(*order, num_bins=4096)
        assert counted.limit / 2 <= float(x.abs().max()) < counted.limit
        expected, _ = np.histogram(torch.cat(order).double().numpy(), bins=4096, range=(-counted.limit, counted.limit))
        expected[2048] -= counted.num_zeros
        assert np.array_equal(counted.counts, expected)


def test_memory_is_the_same_for_any_number_of_values_and_counts_go_beyond_float64() -> None:
    counted = histogram(drawn())
    table = counted._table
    counted.collect(drawn(200_000, 1) * 1e20)
    assert counted._table is table
    counted._table.mul_(2**40)
    counted.collect(torch.tensor([1e30]))
    assert counted.count == 205_000 * 2**40 + 1 > 2**53
    assert (counted.within(2.0**100)[-1], counted.within(2.0**99)[-1]) == (0, 1)
    assert counted.magnitude_of(100.0) == pytest.approx(1e30)


def test_an_outlier_leaves_equal_bins_to_the_others() -> None:
    x = torch.cat([torch.linspace(0, 1, 10_000), torch.tensor([1e5])])
    counted = histogram(x, num_bins=4096)
    assert (counted.limit, counted.reach(0.01)) == (2.0**17, 4.0)
    edges, counts = counted.bins(4.0)
    assert (int(counts.sum()) + counted.num_zeros, float(edges[0])) == (len(x), 0.0)
    assert edges[-2] <= 1e5 < edges[-1] < 1e5 * (1 + 2**-10) and counts[-1] == 1
    assert np.array_equal(counts[:513], np.histogram(x[1:-1].numpy(), 2048, (0, 4.0))[0][:513])
