"""A cheap look at whole candidates: how far a few of their outputs lie from the float network's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qexplore.evaluation import Evaluation
from qexplore.metrics import Metric
from qexplore.model import Candidate, Candidates
from qexplore.search.acquisition import Staircase, choose
from qexplore.search.goals import Goal, MostAccurate, WholeFront
from qexplore.search.looks import any_looked_at
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.process import Features, Process, Scales, Totals, each_of
from qexplore.search.surrogate import Prediction
from qexplore.search.trade_off import TradeOff

Array = NDArray[np.float64]

_LOOK_SCALES = each_of(points=(0.1, 0.5), pairs=(0.3, 3.0), own=(1e-2, 1e-1))
_WHOLE_SCALES = each_of(points=(0.1, 0.5), pairs=(0.1, 1.0), own=(1e-2, 1e-1))
_LEAST_WHOLE = 5
"""Complete evaluations without which nothing is said of the divergence on the whole set."""
_MOST_FITTED = 300
"""Divergences that beliefs about others are fitted on, those nearest to the front: more cost time and tell little."""
_WORTH = 1.8
"""How much better than the mean the best of many looks has to be for looks to be worth their cost."""
_GROWTH = 1.2
"""What is known has to grow by this factor before variances are chosen anew."""
_LEAST, _MOST = 1e-9, 1e9


class LowFidelity:
    """Divergences of candidates from the float network: measured on a fixed part of the search set, believed elsewhere.

    Graded where a score is a step, told without a label, and cheap: the low fidelity of a search of two, as in M.
    Kennedy, A. O'Hagan, "Predicting the output from a complex computer code when fast approximations are available",
    Biometrika 87, 2000. The sum of a candidate's sensitivities, corrected by looks, is what a look would say; that,
    corrected by complete evaluations, is the divergence on the whole set. Where looks say less of it than sums do (few
    samples, or a network whose points do not meddle with each other), none are taken, and sums are corrected alone.

    Args:
        problem: what is searched.
        totals: sums of sensitivities.
        divergence: of outputs from the float network's.
        num_samples: of the part.
    """

    def __init__(
        self, problem: LayerwiseQuantizationProblem, totals: Totals, divergence: Metric, num_samples: int
    ) -> None:
        self._problem = problem
        self._totals = totals
        self._divergence = divergence
        self._num_samples = num_samples
        self._looked: dict[Candidate, float] = {}
        self._whole: dict[Candidate, float] = {}
        self._looks: Process | None = None
        self._shift: Process | None = None
        self._scales: Scales | None = None
        self._chosen_at = 0
        self.is_useful = True
        """Whether looks are worth their cost, as far as is known."""
        self.cost = problem.evaluator.subset_size(num_samples) / problem.num_samples
        """Of a look, in passes over the search set."""
        self.num_passes = 0.0
        """Spent on looks."""

    def look(self, candidates: Candidates) -> None:
        """Measure those of ``candidates``, shape ``[N, L]``, that were not looked at."""
        keys = dict.fromkeys(map(tuple, candidates.tolist()))
        new = [key for key in keys if key not in self._looked]
        if not new:
            return
        rows = np.array(new, dtype=np.int64)
        measure = partial(
            self._problem.scores_on_subset, metric=self._divergence, num_samples=self._num_samples, against_float=True
        )
        scores = any_looked_at(measure, rows)
        self._looked.update(zip(new, map(_log, scores.mean(axis=1, dtype=np.float64).tolist()), strict=True))
        self.num_passes += len(new) * self.cost
        self._looks = self._shift = None

    def note(self, evaluations: Iterable[Evaluation], price: float) -> None:
        """Learn the divergences on the whole set that complete evaluations tell, and how far looks are off."""
        told = {one.candidate: _log(one.divergence) for one in evaluations if one.divergence is not None}
        if not told.keys() - self._whole.keys():
            return
        self._whole |= told
        self._looks = self._shift = None
        both = [key for key in self._whole if key in self._looked][-_MOST_FITTED:]
        if len(both) >= _LEAST_WHOLE:
            features = self._totals.features(np.array(both))
            whole, looked = (np.array([known[key] for key in both]) for known in (self._whole, self._looked))
            by_sums, by_looks = (Process(features, whole - one, _WHOLE_SCALES) for one in (features.log_total, looked))
            explained = 1.0 - (by_looks.left_out_error / by_sums.left_out_error) ** 2
            # About what the best of so many looks as one evaluation buys is better than the mean, in its deviations.
            self.is_useful = explained > 0 and 2 * explained * math.log(max(1.0, price / self.cost)) > _WORTH**2

    def described(self, candidates: Candidates) -> tuple[Features, Array]:
        """Features of ``candidates``: divergences, known or believed, in place of sums, and how uncertain they are."""
        features = self._totals.features(candidates)
        logs, spread = self._whole_beliefs(candidates, features)
        return features._replace(log_total=logs), spread

    def worth_a_look(self, pool: Candidates) -> NDArray[np.bool_]:
        """Which of ``pool`` a look would tell something of, shape ``[N]``."""
        new = [self.is_useful and key not in self._looked for key in map(tuple, pool.tolist())]
        return np.array(new, dtype=bool)

    def promising(
        self, pool: Candidates, trade_off: TradeOff, goal: Goal, reference_cost: float, count: int
    ) -> Candidates:
        """Up to ``count`` of ``pool`` by which the front of divergence and cost is expected to grow most."""
        goal = goal if isinstance(goal, MostAccurate) else WholeFront()  # no divergence is known to be enough
        pool = pool[self.worth_a_look(pool)]
        logs, spread = self._look_beliefs(pool, self._totals.features(pool))
        candidates, known = self._known()
        kept = self._problem.limits.are_kept(candidates)  # uniform choices beyond a limit are known too
        costs, gains = goal.view(trade_off.cost(candidates[kept]), -known[kept])
        stairs = Staircase(costs, gains, goal.reference(-float(known.max()), reference_cost))
        beliefs = Prediction(logs, spread, np.negative)
        return pool[choose(stairs, goal, trade_off.cost(pool), beliefs, count)]

    def front(self, trade_off: TradeOff) -> Candidates:
        """Those that were measured of which none is cheaper and diverges less, shape ``[K, L]``."""
        candidates, logs = self._known()
        order = np.lexsort((logs, trade_off.cost(candidates)))
        least = np.minimum.accumulate(logs[order])
        is_first = np.concatenate([[True], least[1:] < least[:-1]])[: len(order)]
        return np.asarray(candidates[order[is_first]])

    def _known(self) -> tuple[Candidates, Array]:
        """What was looked at, shape ``[K, L]``, and logarithms, shape ``[K]``."""
        rows = np.array(list(self._looked), dtype=np.int64).reshape(-1, self._problem.space.num_points)
        return rows, np.array(list(self._looked.values()))

    def _whole_beliefs(self, candidates: Candidates, features: Features) -> tuple[Array, Array]:
        """Means and standard deviations of logarithms of divergences on the whole set, both of shape ``[N]``."""
        logs, spread = self._look_beliefs(candidates, features)
        if len(self._whole) < _LEAST_WHOLE:
            return logs, spread
        if self._shift is None:
            self._shift = self._shifted()
        moved, more = self._shift.predict(features._replace(log_total=logs))
        return _exact(candidates, self._whole, logs + moved, np.hypot(spread, more))

    def _shifted(self) -> Process:
        """How the divergence on the whole set differs from what looks say."""
        both = [key for key in self._whole if key in self._looked or not self.is_useful]
        keys = (both if len(both) >= _LEAST_WHOLE else list(self._whole))[-_MOST_FITTED:]
        candidates, whole = np.array(keys, dtype=np.int64), np.array([self._whole[key] for key in keys])
        features = self._totals.features(candidates)
        logs, _ = self._look_beliefs(candidates, features)
        return Process(features._replace(log_total=logs), whole - logs, _WHOLE_SCALES)

    def _look_beliefs(self, candidates: Candidates, features: Features) -> tuple[Array, Array]:
        """Means and standard deviations of logarithms of what looks say, both of shape ``[N]``; exact where known."""
        if not self._looked or not self.is_useful:
            return features.log_total, np.full(len(candidates), 0.0 if self._looked else 1.0)
        if self._looks is None:
            self._looks = self._fitted()
        residual, spread = self._looks.predict(features)
        return _exact(candidates, self._looked, features.log_total + residual, spread)

    def _fitted(self) -> Process:
        candidates, logs = self._known()
        order = np.lexsort((logs, self._problem.costs_of(candidates)[:, 0]))
        lacking = np.empty(len(logs))
        lacking[order] = logs[order] - np.minimum.accumulate(logs[order])
        nearest = np.argsort(lacking, kind="stable")[:_MOST_FITTED]
        if len(logs) >= _GROWTH * self._chosen_at:
            self._scales, self._chosen_at = None, len(logs)
        features = self._totals.features(candidates[nearest])
        scales = _LOOK_SCALES if self._scales is None else [self._scales]
        process = Process(features, logs[nearest] - features.log_total, scales)
        self._scales = process.scales
        return process


def _exact(candidates: Candidates, known: dict[Candidate, float], logs: Array, spread: Array) -> tuple[Array, Array]:
    for row, key in enumerate(map(tuple, candidates.tolist())):
        if key in known:
            logs[row], spread[row] = known[key], 0.0
    return logs, spread


def _log(divergence: float) -> float:
    return float(np.log(np.clip(np.nan_to_num(divergence, nan=_MOST), _LEAST, _MOST)))
