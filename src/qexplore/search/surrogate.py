"""A model of the score, fitted on everything measured so far. It ranks candidates; it never reports."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.stats import norm

from qexplore.model import Candidates
from qexplore.search.sensitivity import SensitivityTable
from qexplore.search.space import SearchSpace

Array = NDArray[np.float64]

_LEAST_SENSITIVITY, _MOST_SENSITIVITY = 1e-9, 1e300
"""Between which a total is neither nothing, of which no shares can be had, nor infinite."""
_LEAST_SHARE = 1e-3
"""Of the greatest sensitivity, what is told from nothing where all are very small."""

# Variances are shares of that of the scores; lengths are in nats of total damage, and in Hellinger distance.
_LINK_LENGTH = 3.0
_LOCAL_LENGTH = 0.7
_LINK, _BY_WIDTH = 1.0, 1.0
_SHARES, _LOCALS, _NOISES = (0.02, 0.1), (0.05,), (1e-4, 1e-3, 1e-2)

_BLOCK = 128
"""Candidates that are believed at once: what is computed for them stays in a core's cache."""
_MOST_BOUNDS = 150
_TELLING = -1.5
"""A bound further than so many standard deviations on the far side of what is expected tells nothing."""


@dataclass(frozen=True)
class Prediction:
    """Normal beliefs about ``N`` candidates' roots of damage, and the way back to scores.

    Attributes:
        mean: shape ``[N]``.
        std: shape ``[N]``.
        best: the gain of no damage.
    """

    mean: Array
    std: Array
    best: float

    def of(self, places: NDArray[np.int64]) -> Prediction:
        """Those of some candidates."""
        return Prediction(self.mean[places], self.std[places], self.best)

    def gain(self, quantile: Array | float = 0.0) -> Array:
        """Gains (scores, the higher the better) so many standard deviations better than the mean; shapes broadcast."""
        root = np.maximum(self.mean - quantile * self.std, 0.0)
        return np.asarray(self.best - root**2)


class Surrogate:
    """Gaussian process over the square root of the damage that quantization does to the score.

    The sensitivities of a candidate's choices add up to a total, and the damage is a smooth function of its logarithm,
    corrected by which points and choices make up the total: shares of it are the features of a linear part ("this point
    suffers more than its sensitivity says"), and distances between shares those of a local part, in which pairs of
    points act together. The root makes damages near the best score and far from it equally uncertain. Variances
    are chosen by marginal likelihood. C. E. Rasmussen, C. Williams, "Gaussian Processes for Machine Learning", 2006,
    algorithm 2.1 and chapter 5.

    Args:
        table: sensitivities.
        space: says which row of the table a choice is.
        resolution: the least difference between two scores that means something, such as one sample.
    """

    def __init__(self, table: SensitivityTable, space: SearchSpace, resolution: float) -> None:
        largest = max((value for row in table.values for value in row if 0 < value < np.inf), default=1.0)
        most = min(10.0 * largest, _MOST_SENSITIVITY)  # what is not finite is worse than all that is
        least = min(_LEAST_SENSITIVITY, _LEAST_SHARE * most)
        self._space = space
        self._values = np.full((len(table.values), max(map(len, table.values))), most)
        for row, values in zip(self._values, table.values, strict=True):
            row[: len(values)] = np.clip(np.nan_to_num(values, nan=most, posinf=most), least, most)
        self._resolution = resolution

    def fit(self, candidates: Candidates, gains: Array, *, floor: float) -> Surrogate:
        """Learn from complete evaluations.

        Args:
            candidates: shape ``[N, L]``, N at least 1.
            gains: their scores, the higher the better, shape ``[N]``.
            floor: gains below it are all the same to the search.
        """
        self._floor, self._best = floor, float(gains.max()) + self._resolution
        root = self._root(gains)
        self._mean, self._scale = float(root.mean()), float(root.std()) or 1.0
        self._known, self._target = self._features(candidates), (root - self._mean) / self._scale
        parts = self._parts(self._known, self._known)
        fits = (_Fit(parts, self._target, scales) for scales in map(_Scales._make, product(_SHARES, _LOCALS, _NOISES)))
        self._fit = max(fits, key=lambda fit: fit.log_likelihood)
        return self

    def add_bounds(self, candidates: Candidates, bounds: Array) -> Surrogate:
        """Learn from candidates that were stopped: their gains, shape ``[N]``, are no better than ``bounds``.

        Where that contradicts the belief, the belief given the bound takes its place: the mean of the normal
        distribution cut off there (the step of J. Tobin's censored regression, Econometrica 26, 1958, that expectation
        maximization takes).
        """
        belief = self.predict(candidates)
        least = (self._root(bounds) - belief.mean) / belief.std
        told = np.argsort(-least, kind="stable")[:_MOST_BOUNDS]
        told = told[least[told] > _TELLING]
        hazard = np.exp(norm.logpdf(least[told]) - norm.logsf(least[told]))
        root = belief.mean[told] + belief.std[told] * hazard
        added = self._features(candidates[told])
        self._known = _Features(
            *(np.concatenate(pair) for pair in zip(vars(self._known).values(), vars(added).values(), strict=True))
        )
        self._target = np.concatenate([self._target, (root - self._mean) / self._scale])
        self._fit = _Fit(self._parts(self._known, self._known), self._target, self._fit.scales)
        return self

    def _root(self, gains: Array) -> Array:
        return np.asarray(np.sqrt(np.maximum(self._best - np.maximum(gains, self._floor), 0.0)))

    def predict(self, candidates: Candidates) -> Prediction:
        """Beliefs about ``candidates``, shape ``[N, L]``."""
        parts = [self._beliefs(candidates[start : start + _BLOCK]) for start in range(0, len(candidates), _BLOCK)]
        mean, std = np.concatenate(parts, axis=1) if parts else np.zeros((2, 0))
        return Prediction(self._mean + self._scale * mean, self._scale * std, self._best)

    def _beliefs(self, candidates: Candidates) -> Array:
        """Means and standard deviations of scaled roots, shape ``[2, N]``."""
        features = self._features(candidates)
        scales = self._fit.scales
        between = scales.kernel(self._parts(features, self._known))
        mean = between @ self._fit.weights
        half = solve_triangular(self._fit.root, between.T, lower=True, overwrite_b=True, check_finite=False)
        explained = np.square(half, out=half).sum(axis=0)
        squares = np.square(features.shares).sum(axis=1)
        own = 1.0 + _LINK + scales.local + scales.shares * (1.0 + _BY_WIDTH) * squares
        variance = own - explained + scales.noise
        return np.stack([mean, np.sqrt(np.maximum(variance, 0.0))])

    def _features(self, candidates: Candidates) -> _Features:
        places = self._space.places(candidates)
        values: Array = self._values[np.arange(len(self._values)), places]
        total = values.sum(axis=1)
        shares = values / total[:, None]
        num_points, num_widths = self._values.shape
        by_width = np.zeros((len(candidates), num_points, num_widths))
        np.put_along_axis(by_width, places[:, :, None], shares[:, :, None], axis=2)
        return _Features(np.log(total), shares, by_width.reshape(len(candidates), num_points * num_widths))

    def _parts(self, first: _Features, second: _Features) -> tuple[Array, Array, Array]:
        """Covariances of the link, of shares and of what is local, each with a variance of its own."""
        apart = np.subtract.outer(first.log_total, second.log_total)
        np.square(apart, out=apart)
        link = np.divide(apart, -2 * _LINK_LENGTH**2)  # in place from here on: fresh memory costs more than arithmetic
        np.exp(link, out=link)
        link *= _LINK
        link += 1.0  # the mean is not known beforehand
        shares = first.by_width @ second.by_width.T
        shares *= _BY_WIDTH
        shares += first.shares @ second.shares.T
        local = np.sqrt(first.shares) @ np.sqrt(second.shares).T
        np.clip(local, 0.0, 1.0, out=local)
        np.subtract(1.0, local, out=local)  # the square of Hellinger distance
        local /= -(_LOCAL_LENGTH**2)
        apart /= 2
        local -= apart
        return link, shares, np.exp(local, out=local)


class _Scales(NamedTuple):
    """Variances that are chosen by likelihood."""

    shares: float
    local: float
    noise: float

    def kernel(self, parts: tuple[Array, Array, Array]) -> Array:
        link, shares, local = parts
        kernel = self.shares * shares
        kernel += link
        kernel += self.local * local
        return kernel


@dataclass(frozen=True)
class _Features:
    """Logarithm of the total ``[N]``, shares of it by point ``[N, L]``, and by point and width ``[N, L x W]``."""

    log_total: Array
    shares: Array
    by_width: Array


class _Fit:
    """The process for one choice of variances."""

    def __init__(self, parts: tuple[Array, Array, Array], target: Array, scales: _Scales) -> None:
        self.scales = scales
        self.root = np.linalg.cholesky(scales.kernel(parts) + scales.noise * np.eye(len(target)))
        half = solve_triangular(self.root, target, lower=True)
        self.weights = solve_triangular(self.root, half, lower=True, trans=1)
        self.log_likelihood = float(-half @ half / 2 - np.log(np.diag(self.root)).sum())
