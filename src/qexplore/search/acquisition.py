"""Which candidates are worth measuring: those from which the hypervolume is expected to gain most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qexplore.search.goals import Goal
from qexplore.search.surrogate import Prediction

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(8)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_TRUSTS = (0.3, 1.0)
_SHORT_LIST = 200


class Staircase:
    """The best gain known at no more than each cost: the front as a step function, up to the reference point.

    Args:
        costs: of the members, shape ``[K]``.
        gains: of the members, the higher the better, shape ``[K]``.
        reference: gain and cost of the reference point.
    """

    def __init__(self, costs: Array, gains: Array, reference: tuple[float, float]) -> None:
        within = (costs < reference[1]) & (gains > reference[0])
        order = np.lexsort((-gains[within], costs[within]))
        costs, gains = costs[within][order], gains[within][order]
        before = np.maximum.accumulate(np.concatenate([[reference[0]], gains]))[:-1]
        rises = gains > before
        # Stairs begin at `edges` and are as high as `heights`; the first one is the reference itself.
        self._edges = np.concatenate([[-np.inf], costs[rises], [reference[1]]])
        self._heights = np.concatenate([[reference[0]], gains[rises]])

    def heights(self, costs: Array) -> Array:
        """The best gain known at no more than ``costs``, shape ``[N]``."""
        return np.asarray(self._heights[np.searchsorted(self._edges[1:-1], costs, side="right")])

    def improvement(self, costs: Array, gains: Array) -> Array:
        """How much the hypervolume grows by points at ``costs [N]`` with ``gains [N, Q]``, each alone: ``[N, Q]``."""
        costs, of = np.unique(costs, return_inverse=True)  # many candidates, few totals of bits
        begins = np.maximum(self._edges[None, :-1], costs[:, None])
        lengths = np.maximum(self._edges[None, 1:] - begins, 0.0)
        # Heights rise, so a gain beats the first so many stairs; sums over them come from running totals.
        beaten = of[:, None], np.searchsorted(self._heights, gains, side="left")
        length, area = np.zeros((2, len(costs), 1 + len(self._heights)))
        np.cumsum(lengths, axis=1, out=length[:, 1:])
        np.cumsum(lengths * self._heights, axis=1, out=area[:, 1:])
        return np.asarray(gains * length[beaten] - area[beaten])

    def with_points(self, costs: Array, gains: Array) -> Staircase:
        """The stairs with more points, both of shape ``[K]``."""
        reference = float(self._heights[0]), float(self._edges[-1])
        known = np.concatenate([self._edges[1:-1], costs]), np.concatenate([self._heights[1:], gains])
        return Staircase(*known, reference)


def expected_improvement(
    stairs: Staircase, goal: Goal, costs: Array, prediction: Prediction, trust: float = 1.0
) -> Array:
    """Expected growth of the hypervolume by each candidate alone, shape ``[N]``.

    Exact but for the quadrature over the gain, for costs are known: M. Emmerich, A. Deutz, J. Klinkenberg,
    "Hypervolume-based expected improvement", CEC 2011, with one of the two objectives certain.

    Args:
        stairs: the front so far.
        goal: what counts as progress.
        costs: shape ``[N]``.
        prediction: of the gains.
        trust: share of the standard deviation that counts.
    """
    spread = Prediction(prediction.mean[:, None], prediction.std[:, None], prediction.to_gain)
    return np.asarray(stairs.improvement(*goal.view(costs, spread.gain(trust * _NODES[None]))) @ _WEIGHTS)


def choose(stairs: Staircase, goal: Goal, costs: Array, prediction: Prediction, count: int) -> list[int]:
    """Places of ``count`` candidates, or all there are, that promise most together.

    One after the other, each time as if those chosen before had already been found as good as predicted, so that gaps
    are filled before a second candidate is spent on the same place (the "kriging believer": D. Ginsbourger, R. Le
    Riche, L. Carraro, "Kriging is well-suited to parallelize optimization", 2010). Every other one counts on less
    uncertainty than the model admits: the boldest promises are seldom kept, the safest leave nothing to find out.
    """
    chosen: list[int] = []
    believed = prediction.gain()
    best = [_best(expected_improvement(stairs, goal, costs, prediction, trust)) for trust in _TRUSTS]
    left = np.unique(np.concatenate(best))
    while len(chosen) < count and len(left):
        trust = _TRUSTS[len(chosen) % len(_TRUSTS)]
        promise = expected_improvement(stairs, goal, costs[left], prediction.of(left), trust)
        place = int(left[promise.argmax()])
        chosen.append(place)
        left = left[left != place]
        stairs = stairs.with_points(*goal.view(costs[[place]], believed[[place]]))
    return chosen


def _best(promise: Array) -> NDArray[np.int64]:
    """Places of the few that are looked at again once some are chosen, which can only make the others promise less."""
    return np.argsort(-promise, kind="stable")[:_SHORT_LIST]
