"""Layer-wise widths as a pymoo problem: objectives, the accuracy constraint, and a memory of what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.problem import Problem

from qexplore.cost import TotalBits
from qexplore.errors import EvaluationError, ProblemError
from qexplore.evaluation import DirectEvaluator, Evaluation, PrefixEvaluator, Screen
from qexplore.front import Front
from qexplore.metrics import Metric, Scores, WholeSetMetric, top1_accuracy
from qexplore.model import Candidates, Loader, QuantizedActivationsModel, Unpack
from qexplore.search.description import Description
from qexplore.search.further import FurtherMetrics, split_metrics
from qexplore.search.requirements import checked_requirements
from qexplore.search.space import SearchSpace

Objectives = NDArray[np.float64]
Candidate = tuple[int, ...]

ENGINES = ("auto", "prefix", "direct")

_UNREACHABLE = 1e6
"""How far beyond the float network's score a failed candidate is put where the metric has no worst value."""


class LayerwiseQuantizationProblem(Problem):  # type: ignore[misc]
    """Integer widths per point; minimises ``[-accuracy, total_bits]`` under ``min_accuracy - accuracy <= 0``.

    An ordinary pymoo ``Problem`` that evaluates a whole population at once: ``pymoo.optimize.minimize`` works on it.
    Genes may be floats, as pymoo's default operators hand them over; they are rounded. Where lower is better, the score
    itself is minimised and ``min_accuracy`` is the largest acceptable one.

    A candidate that was measured once is answered from memory until a weight, a range or a hand-made switch of the
    model changes. A candidate whose evaluation fails gets the worst objectives and violates the constraint.

    Args:
        model: wrapped and calibrated.
        loader: the search set.
        metric: a `Metric`, a function ``(output, target) -> scores [B]``, or a `whole_set` metric. A sequence of them
            for several tasks: the first is searched, the others only have to reach their ``min_accuracy`` or
            ``max_drop``, which are sequences then. Each further one costs a pass for a candidate that meets the first.
        num_bits_lower_limit: narrowest width, for all points or one per point.
        num_bits_upper_limit: widest width, likewise.
        min_accuracy: worst acceptable score; None accepts all.
        max_drop: the same, counted from the float network's score, in the metric's unit: 0.01 is one point of accuracy.
        max_total_bits: most total bits; None accepts all.
        unpack: ``unpack(batch) -> (inputs, target)`` where batches are not ``(x, y, ...)`` or dicts.
        engine: ``"auto"`` shares work between candidates where the network can be taken apart into steps, and says in
            `describe` why it cannot be; ``"prefix"`` insists on it; ``"direct"`` runs the hooked network for each.
        hold_bytes: how much of the search set may be held in memory; None takes a quarter of what is free.
        budget_bytes: most memory for the engine's activations; None takes a quarter of what is free.

    Raises:
        CalibrationError: a point has no range.
        ProblemError: limits that contradict each other or the quantizers; a ``min_accuracy`` outside the metric's
            range, or above what the widest candidate reaches; fewer bits than the narrowest candidate needs.
        DataError: the loader is empty or gives other samples in each pass.
        MetricError: the metric does not give one finite score per sample.
        EvaluationError: the network or the metric raises.
    """

    def __init__(
        self,
        model: QuantizedActivationsModel,
        loader: Loader,
        metric: Any = top1_accuracy,
        *,
        num_bits_lower_limit: int | Sequence[int] = 2,
        num_bits_upper_limit: int | Sequence[int] = 8,
        min_accuracy: float | Sequence[float | None] | None = None,
        max_drop: float | Sequence[float | None] | None = None,
        max_total_bits: float | None = None,
        unpack: Unpack | None = None,
        engine: str = "auto",
        hold_bytes: int | None = None,
        budget_bytes: int | None = None,
    ) -> None:
        if engine not in ENGINES:
            raise ProblemError(f"`engine` must be one of {', '.join(map(repr, ENGINES))}, got {engine!r}")
        if not isinstance(model, QuantizedActivationsModel):
            raise ProblemError(f"the model must be a QuantizedActivationsModel, got {type(model).__name__}: wrap it")
        model.require_calibrated()
        self.model = model
        self.unpack = unpack
        asked = split_metrics(metric, min_accuracy, max_drop)
        self.metric, min_accuracy, max_drop = asked[0]
        if max_drop is None:  # said before the network runs
            checked_requirements(self.metric, 0.0, min_accuracy, None, max_total_bits)
        self.space = SearchSpace.of(model, num_bits_lower_limit, num_bits_upper_limit)
        self.cost = TotalBits()

        def evaluator(metric: Metric | WholeSetMetric) -> DirectEvaluator | PrefixEvaluator:
            options: dict[str, Any] = {"unpack": unpack, "hold_bytes": hold_bytes}
            if engine == "direct":
                return DirectEvaluator(model, loader, metric, **options)
            required = engine == "prefix"
            return PrefixEvaluator(model, loader, metric, budget_bytes=budget_bytes, required=required, **options)

        self.evaluator = evaluator(self.metric)
        self.direct = self.evaluator.direct if isinstance(self.evaluator, PrefixEvaluator) else self.evaluator
        self._float_evaluation = self.direct.float_evaluation
        self.requirements = checked_requirements(
            self.metric, self._float_evaluation.score, min_accuracy, max_drop, max_total_bits
        )
        self.further = FurtherMetrics(asked[1:], evaluator)
        self._memory: dict[Candidate, Evaluation] = {}
        self._version = model.version()
        super().__init__(
            n_var=self.space.num_points,
            n_obj=2,
            n_ieq_constr=1 + len(self.further) + (max_total_bits is not None),
            xl=self.space.lower,
            xu=self.space.upper,
            vtype=int,
        )
        self._require_reachable()

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerwiseQuantizationProblem:
        return self  # pymoo copies algorithms together with their problem; a copy would drag network and data along

    @property
    def min_accuracy(self) -> float | None:
        """The worst acceptable score; None where all are."""
        return self.requirements.min_accuracy

    @property
    def float_accuracy(self) -> float:
        """Score of the float network on the search set."""
        self._forget_if_changed()
        return self._float_evaluation.score

    @property
    def num_samples(self) -> int:
        """Samples of the search set; 0 under a whole-set metric, which counts them itself."""
        return self._float_evaluation.num_samples

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Everything in memory, in the order it was measured."""
        self._forget_if_changed()
        return tuple(self._memory.values())

    def describe(self) -> Description:
        """What will be searched and how candidates are evaluated; ``print`` shows it."""
        return Description(
            self.model.describe(),
            tuple(self.space.lower.tolist()),
            tuple(self.space.upper.tolist()),
            self.evaluator.description,
            self.evaluator.early_stop,
        )

    def measure(self, candidates: Any, *, must_beat: Any = None, screened: bool = False) -> Iterator[Evaluation]:
        """Evaluations of ``candidates``, shape ``[N, L]``, one by one; from memory where there is one.

        Args:
            candidates: genes or widths.
            must_beat: one score per candidate, shape ``[N]``. One that is proved not to beat it may be answered
                ``"stopped"``, with a bound instead of a score. None has all of them run to the end.
            screened: look at a random part of a large search set first, and answer ``"stopped"`` where that makes it
                all but certain; see `qexplore.evaluation.Screen`. The part counts in ``num_samples``.
        """
        self._forget_if_changed()
        wanted = self.effective(self.space.decode(candidates))
        rows = [tuple(row) for row in wanted.tolist()]
        keys = [tuple(row) for row in self.model.canonical(wanted).tolist()]
        limits = None if must_beat is None else self._easiest(keys, must_beat)
        # What is known now stays known to this call: a callback between two answers may make the problem forget.
        known = {key: self._memory[key] for key in keys if self._knows(key, limits)}
        order = [keys.index(key) for key in dict.fromkeys(keys) if key not in known]
        screen = Screen.of(self.metric, self.num_samples) if screened and limits is not None else None
        if screen is not None and limits is not None and order:
            rejected = self._rejected(screen, wanted[order], [limits[keys[place]] for place in order])
            known.update((keys[order[place]], evaluation) for place, evaluation in rejected.items())
            self._memory.update((keys[order[place]], evaluation) for place, evaluation in rejected.items())
            order = [place for place in order if keys[place] not in known]
        # One call for the whole population: an evaluator may share work between candidates.
        answers = self.evaluator.evaluate(
            wanted[order], must_beat=None if limits is None else [limits[keys[place]] for place in order]
        )
        places = iter(order)
        for row, key in zip(rows, keys, strict=True):
            while key not in known:
                answered = keys[next(places)]
                evaluation = next(answers)
                if screen is not None:
                    evaluation = replace(evaluation, num_samples=evaluation.num_samples + screen.num_samples)
                known[answered] = self._memory[answered] = evaluation
            evaluation = known[key]
            yield evaluation if evaluation.candidate == row else replace(evaluation, candidate=row)

    def _rejected(self, screen: Screen, candidates: Candidates, limits: list[float]) -> dict[int, Evaluation]:
        """Those of ``candidates`` that a part of the set tells off, by their places."""
        assert isinstance(self.metric, Metric)
        scores = self.scores_on_subset(candidates, self.metric, screen.num_samples)
        bounds = screen.bounds(scores, self.metric, self.num_samples)
        told_off = bounds <= limits if self.metric.higher_is_better else bounds >= limits
        return {
            int(place): Evaluation(
                tuple(candidates[place].tolist()),
                "stopped",
                bound=float(bounds[place]),
                num_samples=scores.shape[1],
                reason=f"does not beat {limits[place]:.6g} but for a chance of {screen.error:g}, told by "
                f"{scores.shape[1]} of {self.num_samples} samples",
            )
            for place in np.flatnonzero(told_off)
        }

    def scores_on_subset(
        self, candidates: Candidates, metric: Metric, num_samples: int, *, against_float: bool = False
    ) -> Scores:
        """Scores of ``candidates``, shape ``[N, L]``, on about ``num_samples`` samples: shape ``[N, samples]``.

        Widths are taken as they are, 0 for off, also outside the limits; nothing of it is remembered.

        Args:
            candidates: widths.
            metric: per sample; need not be the problem's own.
            num_samples: how many samples, drawn at random.
            against_float: give the metric the float network's output in place of the target.

        Raises:
            EvaluationError: the problem's metric is one of a whole set, or the network raises.
            MetricError: the metric cannot be had from the network's outputs.
        """
        self._forget_if_changed()
        return self.evaluator.scores_on_subset(
            self.effective(candidates), metric, num_samples, against_float=against_float
        )

    def _easiest(self, keys: list[Candidate], must_beat: Any) -> dict[Candidate, float]:
        """For each candidate the score that is beaten first, of those that its equals in the same call must beat."""
        limits: dict[Candidate, float] = {}
        easier = min if self.metric.higher_is_better else max
        for key, limit in zip(keys, must_beat, strict=True):
            limits[key] = easier(limits.get(key, float(limit)), float(limit))
        return limits

    def remembered(self, candidates: Any) -> list[Evaluation]:
        """What is known of ``candidates``, stopped ones included; what was forgotten meanwhile is measured again."""
        self._forget_if_changed()
        wanted = self.effective(self.space.decode(candidates))
        keys = [tuple(row) for row in self.model.canonical(wanted).tolist()]
        forgotten = [place for place, key in enumerate(keys) if key not in self._memory]
        if forgotten:
            list(self.measure(wanted[forgotten]))
        return [self._memory[key] for key in keys]

    def _knows(self, key: Candidate, limits: dict[Candidate, float] | None) -> bool:
        """Whether all that is asked of a candidate is in memory: a bound will do where it proves the same again."""
        evaluation = self._memory.get(key)
        if evaluation is None or evaluation.bound is None:
            return evaluation is not None
        if limits is None:
            return False
        beats = evaluation.bound > limits[key] if self.metric.higher_is_better else evaluation.bound < limits[key]
        return not beats

    def front(self) -> Front:
        """The front of everything that was measured so far, for searches that qexplore does not run itself."""
        return self.front_of(self.evaluations)

    def front_of(self, evaluations: Sequence[Evaluation]) -> Front:
        """The front of the complete ones among ``evaluations``."""
        feasible = [evaluation for evaluation in evaluations if self.is_feasible(evaluation)]
        return Front.from_candidates(**self._front_fields(feasible), min_accuracy=self.min_accuracy)

    def points_of(self, evaluations: Sequence[Evaluation]) -> Front:
        """All complete ``evaluations`` in the given order, dominated and infeasible ones too."""
        return Front(**self._front_fields(evaluations))

    def _front_fields(self, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
        complete = [evaluation for evaluation in evaluations if evaluation.is_complete]
        candidates = self.candidates_of(complete)
        return {
            "num_bits": candidates,
            "accuracy": np.array([evaluation.score for evaluation in complete]),
            "costs": self.cost.cost(candidates)[:, None],
            "interval": intervals_of(complete),
            "point_names": tuple(self.model.activation_fake_quantizers),
            "cost_names": (self.cost.name,),
            "metric_name": self.metric.name,
            "higher_is_better": self.metric.higher_is_better,
            "float_accuracy": self.float_accuracy,
        }

    def candidates_of(self, evaluations: Sequence[Evaluation]) -> Candidates:
        """Their candidates, shape ``[N, L]``."""
        rows = np.array([evaluation.candidate for evaluation in evaluations], dtype=np.int64)
        return rows.reshape(-1, self.space.num_points)

    def is_feasible(self, evaluation: Evaluation) -> bool:
        """Whether score and cost are acceptable."""
        return evaluation.is_complete and bool((self.constraints([evaluation]) <= 0).all())

    def objectives(self, evaluations: Sequence[Evaluation]) -> Objectives:
        """What is minimised, shape ``[N, 2]``; finite also for failed candidates. A stopped one has its bound."""
        scores = np.array([self._known_score(evaluation) for evaluation in evaluations])
        costs = self.cost.cost(self.candidates_of(evaluations))
        failed = np.array([evaluation.state == "failed" for evaluation in evaluations], dtype=bool)
        costs[failed] = np.maximum(costs[failed], self.cost.cost(self.space.widest)[0])
        return self.minimized(scores, costs[:, None])

    def minimized(self, accuracy: NDArray[np.float64], costs: NDArray[np.float64]) -> Objectives:
        """From the user's direction, ``accuracy [N]`` and ``costs [N, C]``, to what is minimised."""
        return np.column_stack([-accuracy if self.metric.higher_is_better else accuracy, costs])

    def constraints(self, evaluations: Sequence[Evaluation]) -> Objectives:
        """Violations, shape ``[N, G]``, at most 0 where a candidate is acceptable.

        Of ``min_accuracy``; of the minima of further metrics, 0 where the first is missed; of ``max_total_bits``.
        """
        # A failed candidate violates the constraint also where every score is acceptable.
        violation = self.requirements.violation
        failed = 1.0 + max(0.0, violation(self._worst_score()))
        rows = [failed if e.state == "failed" else violation(self._known_score(e)) for e in evaluations]
        columns = [np.array(rows, dtype=np.float64)]
        if len(self.further):
            met = [e.is_complete and row <= 0 for e, row in zip(evaluations, rows, strict=True)]
            further = [
                self.further.violations(e.candidate) if is_met else [0.0] * len(self.further)
                for e, is_met in zip(evaluations, met, strict=True)
            ]
            columns += list(np.array(further, dtype=np.float64).reshape(-1, len(self.further)).T)
        if self.requirements.max_total_bits is not None:
            columns.append(self.cost.cost(self.candidates_of(evaluations)) - self.requirements.max_total_bits)
        return np.stack(columns, axis=1)

    def _known_score(self, evaluation: Evaluation) -> float:
        if evaluation.is_complete:
            return evaluation.score
        return self._worst_score() if evaluation.bound is None else evaluation.bound

    def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        evaluations = list(self.measure(x))
        out["F"], out["G"] = self.objectives(evaluations), self.constraints(evaluations)

    def _worst_score(self) -> float:
        worst = self.metric.range[0 if self.metric.higher_is_better else 1]
        beyond = -_UNREACHABLE if self.metric.higher_is_better else _UNREACHABLE
        return worst if math.isfinite(worst) else self._float_evaluation.score + beyond

    def effective(self, candidates: Candidates) -> Candidates:
        """``candidates`` as they take effect: quantizers that were disabled by hand stay off."""
        is_on = np.array([not q.disabled for q in self.model.activation_fake_quantizers.values()])
        return np.where(is_on, candidates, 0)

    def _forget_if_changed(self) -> None:
        self.model.require_attached()
        version = self.model.version()
        if version != self._version:
            self._memory.clear()
            self.further.forget()
            self._version = version
            self._float_evaluation = self.direct.evaluate_float()

    def _require_reachable(self) -> None:
        least = float(self.cost.cost(self.space.lower[None])[0])
        if self.requirements.excess(least) > 0:
            raise ProblemError(
                f"max_total_bits ({self.requirements.max_total_bits:g}) is below what can be reached: the narrowest "
                f"candidate has {least:g} bits. Raise max_total_bits or lower num_bits_lower_limit"
            )
        widest = next(self.measure(self.space.widest))
        if not widest.is_complete:
            raise EvaluationError(f"the widest candidate {widest.candidate} could not be evaluated: {widest.reason}")
        misses = self.requirements.violation
        # With few samples a narrower candidate may be the luckier one.
        if misses(widest.score) > 0 and all(
            misses(e.score) > 0 for e in self.measure(self.space.uniform()) if e.is_complete
        ):
            side = "above" if self.metric.higher_is_better else "below"
            raise ProblemError(
                f"min_accuracy ({self.min_accuracy:g}) is {side} what can be reached: the widest candidate "
                f"({int(self.space.upper.max())} bits) has {self.metric.name} {widest.score:.4f}, the float network "
                f"{self._float_evaluation.score:.4f}. Relax min_accuracy or raise num_bits_upper_limit"
            )
        self.further.require_met(widest.candidate)


def intervals_of(evaluations: Sequence[Evaluation]) -> NDArray[np.float64] | None:
    """Shape ``[N, 2]``, NaN where one is unknown; None where all are, as for metrics of a whole set."""
    if not any(evaluation.interval for evaluation in evaluations):
        return None
    return np.array([evaluation.interval or (math.nan, math.nan) for evaluation in evaluations])
