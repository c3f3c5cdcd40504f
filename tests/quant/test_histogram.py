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
