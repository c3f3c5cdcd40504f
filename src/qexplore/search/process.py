"""A Gaussian process over candidates: how a number depends on a total of damages, and on what makes that total up."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from qexplore.model import Candidates
from qexplore.search.sensitivity import SensitivityTable
from qexplore.search.space import SearchSpace

Array = NDArray[np.float64]

_LEAST_SENSITIVITY, _MOST_SENSITIVITY = 1e-9, 1e300
"""Between which a total is neither nothing, of which no shares can be had, nor infinite."""
_LEAST_SHARE = 1e-3
"""Of the greatest sensitivity, what is told from nothing where all are very small."""

# Variances are shares of that of the numbers; the length of a link is in nats of the total, the other in choices.
_LINK_LENGTH, _CHOICE_LENGTH = 3.0, 1.5
_LINK, _JITTER = 1.0, 1e-9

_BLOCK = 128
"""Candidates that are believed at once: what is computed for them stays in a core's cache."""


class Features(NamedTuple):
    """What a candidate's covariance with others is made of.

    Attributes:
        log_total: logarithms of totals, shape ``[N]``.
        single: shape ``[N, L x W]``; products are how alike two candidates are, summed over points.
        squared: the same for squares of each point's part, which are no pairs.
        key: numbers that tell candidates apart, shape ``[N]``.
    """

    log_total: Array
    single: Array
    squared: Array
    key: NDArray[np.int64]

    def rows(self, rows: slice | NDArray[np.int64]) -> Features:
        """Those of some candidates."""
        return Features(self.log_total[rows], self.single[rows], self.squared[rows], self.key[rows])

    def and_of(self, others: Features) -> Features:
        """These, and those of others behind them."""
        pairs = zip(self, others, strict=True)
        return Features(*(np.concatenate(pair) for pair in pairs))


class Totals:
    """What the sensitivities of a candidate's choices add up to, and how much of it each point makes up.

    Args:
        table: sensitivities.
        space: says which row of the table a choice is.
    """

    def __init__(self, table: SensitivityTable, space: SearchSpace) -> None:
        largest = max((value for row in table.values for value in row if 0 < value < np.inf), default=1.0)
        most = min(10.0 * largest, _MOST_SENSITIVITY)  # what is not finite is worse than all that is
        least = min(_LEAST_SENSITIVITY, _LEAST_SHARE * most)
        self._space = space
        self._values = np.full((len(table.values), max(map(len, table.values))), most)
        for row, values in zip(self._values, table.values, strict=True):
            row[: len(values)] = np.clip(np.nan_to_num(values, nan=most, posinf=most), least, most)
        apart = np.abs(np.subtract.outer(*[np.arange(self._values.shape[1])] * 2)) / _CHOICE_LENGTH
        self._roots = np.linalg.cholesky(np.exp(-apart)), np.linalg.cholesky(np.exp(-2 * apart))

    def features(self, candidates: Candidates) -> Features:
        """Of ``candidates``, shape ``[N, L]``; their total is the sum."""
        places = self._space.places(candidates)
        values: Array = self._values[np.arange(len(self._values)), places]
        total = values.sum(axis=1)
        shares = values / total[:, None]
        parts = (np.sqrt(shares), self._roots[0]), (shares, self._roots[1])
        single, squared = (
            (weights[:, :, None] * root[places]).reshape(len(candidates), self._values.size) for weights, root in parts
        )
        keys = np.array([hash(row.tobytes()) for row in np.asarray(candidates, dtype=np.int64)], dtype=np.int64)
        return Features(np.log(total), single, squared, keys)

    def described(self, candidates: Candidates) -> tuple[Features, Array]:
        """Features of ``candidates``, and that nothing is uncertain about them, shape ``[N]``."""
        return self.features(candidates), np.zeros(len(candidates))


class Scales(NamedTuple):
    """Variances, as shares of that of the numbers; they are chosen by likelihood.

    Attributes:
        points: of what single points add.
        pairs: of what pairs of them add.
        own: of what nothing but the candidate itself can tell.
    """

    points: float
    pairs: float
    own: float

    def kernel(self, parts: tuple[Array, Array, Array, NDArray[np.bool_]]) -> Array:
        """The covariance that goes with them; what `_parts` gives is left as it is."""
        link, points, pairs, same = parts
        kernel = self.points * points
        kernel += link
        kernel += self.pairs * pairs
        kernel += self.own * same
        return kernel

    def variance(self, features: Features) -> Array:
        """Of each candidate before anything is known, shape ``[N]``."""
        points, squares = (np.square(part).sum(axis=1) for part in (features.single, features.squared))
        return np.asarray(1.0 + _LINK + self.points * points + self.pairs * (points**2 - squares) + self.own)


class Process:
    """A number that is a smooth function of the logarithm of a total, corrected by what makes the total up.

    Points correct it by their share and choice ("this point suffers more than its sensitivity says, at this width"),
    and pairs of points by the product of both: an additive kernel of first and second order (D. Duvenaud, H. Nickisch,
    C. Rasmussen, "Additive Gaussian processes", NeurIPS 2011), each point weighted by the root of its share. Variances
    are chosen by marginal likelihood. C. E. Rasmussen, C. Williams, "Gaussian Processes for Machine Learning", 2006,
    algorithm 2.1 and chapter 5.

    Args:
        features: of what is known, N of them.
        numbers: shape ``[N]``.
        scales: variances to choose from, one set or several.
    """

    def __init__(self, features: Features, numbers: Array, scales: Iterable[Scales]) -> None:
        self._mean, self._scale = float(numbers.mean()), float(numbers.std()) or 1.0
        self.features, self._numbers = features, numbers
        target = (numbers - self._mean) / self._scale
        parts = _parts(features, features)
        self._fit = max((_Fit(parts, target, one) for one in scales), key=lambda fit: fit.log_likelihood)

    @property
    def scales(self) -> Scales:
        """The variances that were chosen."""
        return self._fit.scales

    @property
    def log_likelihood(self) -> float:
        """Of the numbers, in their own unit, but for a constant."""
        return self._fit.log_likelihood - len(self._numbers) * float(np.log(self._scale))

    def and_of(self, features: Features, numbers: Array) -> Process:
        """The same with more that is known, under the same mean, scale and variances."""
        more = object.__new__(Process)
        more._mean, more._scale = self._mean, self._scale
        more.features, more._numbers = self.features.and_of(features), np.concatenate([self._numbers, numbers])
        target = (more._numbers - more._mean) / more._scale
        more._fit = _Fit(_parts(more.features, more.features), target, self.scales)
        return more

    @property
    def left_out_error(self) -> float:
        """Root mean square of what the numbers are off from what all others say; Rasmussen and Williams, 5.4.2."""
        half = solve_triangular(self._fit.root, np.eye(len(self._numbers)), lower=True)
        return self._scale * float(np.sqrt(np.mean((self._fit.weights / np.square(half).sum(axis=0)) ** 2)))

    def predict(self, features: Features) -> tuple[Array, Array]:
        """Means and standard deviations for N others, both of shape ``[N]``."""
        count = len(features.log_total)
        parts = [self._beliefs(features.rows(slice(start, start + _BLOCK))) for start in range(0, count, _BLOCK)]
        mean, std = np.concatenate(parts, axis=1) if parts else np.zeros((2, 0))
        return self._mean + self._scale * mean, self._scale * std

    def _beliefs(self, features: Features) -> Array:
        """Means and standard deviations of scaled numbers, shape ``[2, N]``."""
        scales = self.scales
        between = scales.kernel(_parts(features, self.features))
        mean = between @ self._fit.weights
        half = solve_triangular(self._fit.root, between.T, lower=True, overwrite_b=True, check_finite=False)
        explained = np.square(half, out=half).sum(axis=0)
        variance = scales.variance(features) - explained
        return np.stack([mean, np.sqrt(np.maximum(variance, 0.0))])


def each_of(points: Iterable[float], pairs: Iterable[float], own: Iterable[float]) -> list[Scales]:
    """All combinations."""
    return [Scales(*one) for one in product(points, pairs, own)]


def _parts(first: Features, second: Features) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """Covariances of the link, of points, of pairs and of a candidate with itself, each with a variance of its own."""
    link = np.subtract.outer(first.log_total, second.log_total)
    np.square(link, out=link)
    link /= -2 * _LINK_LENGTH**2  # in place from here on: fresh memory costs more than arithmetic
    np.exp(link, out=link)
    link *= _LINK
    link += 1.0  # the mean is not known beforehand
    points = first.single @ second.single.T
    pairs = np.square(points)
    pairs -= first.squared @ second.squared.T
    return link, points, pairs, np.equal.outer(first.key, second.key)


class _Fit:
    """The process for one choice of variances."""

    def __init__(self, parts: tuple[Array, Array, Array, NDArray[np.bool_]], target: Array, scales: Scales) -> None:
        self.scales = scales
        covariance = scales.kernel(parts)
        covariance[np.diag_indices(len(target))] += _JITTER
        self.root = np.linalg.cholesky(covariance)
        half = solve_triangular(self.root, target, lower=True)
        self.weights = solve_triangular(self.root, half, lower=True, trans=1)
        self.log_likelihood = float(-half @ half / 2 - np.log(np.diag(self.root)).sum())
