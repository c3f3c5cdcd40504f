"""A model of the score, fitted on everything measured so far. It ranks candidates; it never reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from qexplore.model import Candidates
from qexplore.search.process import Features, Process, each_of

Array = NDArray[np.float64]

_SCALES = each_of(points=(0.02, 0.1), pairs=(0.02, 0.2), own=(1e-4, 1e-3, 1e-2))
_MOST_BOUNDS = 150
_TELLING = -1.5
"""A bound further than so many standard deviations on the far side of what is expected tells nothing."""
_STEEPNESS = 0.5
"""How the root of damage grows with the logarithm of divergence, as a share of itself: damage is about proportional."""

Described = Callable[[Candidates], tuple[Features, Array]]
"""Features of candidates ``[N, L]``, and how uncertain the logarithms of their totals are, ``[N]``."""


@dataclass(frozen=True)
class Prediction:
    """Normal beliefs about what quantization does to ``N`` candidates, and the way from there to gains.

    Attributes:
        mean: shape ``[N]``; the larger, the worse.
        std: shape ``[N]``.
        to_gain: the gains of such numbers.
    """

    mean: Array
    std: Array
    to_gain: Callable[[Array], Array]

    def of(self, places: NDArray[np.int64]) -> Prediction:
        """Those of some candidates."""
        return Prediction(self.mean[places], self.std[places], self.to_gain)

    def gain(self, quantile: Array | float = 0.0) -> Array:
        """Gains (scores, the higher the better) so many standard deviations better than the mean; shapes broadcast."""
        return self.to_gain(self.mean - quantile * self.std)


class Surrogate:
    """Gaussian process over the square root of the damage that quantization does to the score.

    The damage is a smooth function of the logarithm of a candidate's divergence, corrected by what makes it up; see
    `Process`. The root makes damages near the best score and far from it equally uncertain.

    Args:
        described: features of candidates.
        resolution: the least difference between two scores that means something, such as one sample.
    """

    def __init__(self, described: Described, resolution: float) -> None:
        self._described = described
        self._resolution = resolution

    def fit(self, candidates: Candidates, gains: Array, *, floor: float) -> Surrogate:
        """Learn from complete evaluations.

        Args:
            candidates: shape ``[N, L]``, N at least 1.
            gains: their scores, the higher the better, shape ``[N]``.
            floor: gains below it are all the same to the search.
        """
        self._floor, self._best = floor, float(gains.max()) + self._resolution
        self._process = Process(self._described(candidates)[0], self._root(gains), _SCALES)
        return self

    @property
    def log_likelihood(self) -> float:
        """Of what it was fitted on; to be compared with that of other features for the same."""
        return self._process.log_likelihood

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
        self._process = self._process.and_of(self._described(candidates[told])[0], root)
        return self

    def _root(self, gains: Array) -> Array:
        return np.asarray(np.sqrt(np.maximum(self._best - np.maximum(gains, self._floor), 0.0)))

    def predict(self, candidates: Candidates) -> Prediction:
        """Beliefs about ``candidates``, shape ``[N, L]``."""
        features, spread = self._described(candidates)
        mean, std = self._process.predict(features)
        std = np.hypot(std, _STEEPNESS * np.maximum(mean, 0.0) * spread)
        return Prediction(mean, std, self._gain)

    def _gain(self, root: Array) -> Array:
        return np.asarray(self._best - np.maximum(root, 0.0) ** 2)
