"""Layer-wise choices as a pymoo problem: objectives, the accuracy constraint, and a memory of what was measured."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from qexplore._arguments import checked_name, nearest_keyword
from qexplore._choices import has_range
from qexplore._fingerprint import Fingerprint
from qexplore._pickling import require_a_name
from qexplore.errors import ProblemError
from qexplore.evaluation import Clipping, Evaluation, Evaluator, checked_candidates
from qexplore.front import Front
from qexplore.metrics import Metric, Scores, top1_accuracy
from qexplore.model import PRECISIONS, Candidates, Loader, QuantizedModel, Unpack, require_wrapped, reusable
from qexplore.search.control import checked_plan
from qexplore.search.costs import checked_costs, require_known
from qexplore.search.description import Description
from qexplore.search.evaluators import ENGINES, checked_limit, evaluators_of
from qexplore.search.fronts import front_fields
from qexplore.search.further import Around, FurtherMetrics, split_metrics
from qexplore.search.limits import TOTAL_BITS, checked_limits
from qexplore.search.memory import Memory
from qexplore.search.minimized import MinimizedProblem
from qexplore.search.reachability import require_reachable
from qexplore.search.requirements import checked_requirements
from qexplore.search.space import SearchSpace


class LayerwiseQuantizationProblem(MinimizedProblem):
    """A choice per point; minimises ``[-accuracy, *costs]`` under ``min_accuracy - accuracy <= 0``.

    There are constraints only where something is required: for ``min_accuracy`` or ``max_drop``, each further metric,
    and each limit, in this order.

    An ordinary pymoo ``Problem`` that evaluates a whole population at once: ``pymoo.optimize.minimize`` works on it.
    Genes may be floats, as pymoo's default operators hand them over; they are rounded. With whole ranges of widths
    genes are the widths; with other choices they are places in ``problem.space.choices``, and tied points share one.
    Where lower is better, the score itself is minimised and ``min_accuracy`` is the largest acceptable one.

    A candidate that was measured once is answered from memory until a weight, a range or a hand-made switch of the
    model changes. A candidate whose evaluation fails gets the worst objectives, and violates every constraint.

    Args:
        model: wrapped and calibrated.
        loader: the search set.
        metric: a `Metric`, a function ``(output, target) -> scores [B]`` of which more is better, or a `whole_set`
            metric; of an error, a `Metric` with ``higher_is_better=False``. A sequence of them for several tasks: the
            first is searched, the others only have to reach their ``min_accuracy`` or ``max_drop``, which are sequences
            then. Each further one costs a pass for a candidate that meets the first.
        num_bits_lower_limit: narrowest width, for all points or one per point; None is 2. Where neither limit is given,
            nor ``choices`` or ``tied``, a model that was wrapped by a scheme has those of the scheme.
        num_bits_upper_limit: widest width, likewise; None is 8.
        choices: what points may have instead, for points that a rule matches: a sequence of choices for all, or a
            mapping from selectors to such sequences; see `qexplore.plan_choices`, as for the next four. Or a plan that
            it gave, which stands in the place of limits and of the next four.
        pinned: a mapping from selectors to one choice.
        tied: groups of points that share one choice.
        first_last: the choice of first and last points.
        target: what a device can run: the path of a YAML file, or a dict.
        min_accuracy: worst acceptable score; None accepts all.
        max_drop: the same, counted from the float network's score, in the metric's unit: 0.01 is one point of accuracy.
        costs: what is kept small beside accuracy: names (``"total_bits"``, ``"weighted_bits"``, ``"mean_bits"``,
            ``"model_bytes"``, ``"model_bits"``, ``"activation_bytes"``, ``"peak_activation_bytes"``, ``"bops"``),
            `CostTable`, other `Cost` objects, or functions of candidates ``[N, L]``. A front has an axis for each.
        limits: the most of costs, by name or by the cost itself; they need not be among ``costs``.
        max_total_bits: short for ``limits={"total_bits": ...}``.
        unpack: ``unpack(batch) -> (inputs, target)`` where batches are not ``(x, y, ...)`` or dicts.
        engine: ``"auto"`` shares work between candidates where the network can be taken apart into steps, and says in
            `describe` why it cannot be; ``"prefix"`` insists on it; ``"direct"`` runs the hooked network for each.
        hold_bytes, budget_bytes: how much memory the search set and the engine's activations may take; None takes a
            quarter of what is free.
        precision: ``"full"`` measures in full float32 and deterministically; ``"as set"`` as torch is set.
        max_seconds_each: most seconds of one candidate by one metric; what takes longer is ended, and the candidate
            fails. What hangs in Python is ended in the main thread of a POSIX system; elsewhere the clock is looked at
            between batches and steps. None limits nothing.
        output: which output is judged, by metrics without one of their own and by divergences: see `Metric`.

    Raises:
        CalibrationError: a point has no range.
        ProblemError: limits that contradict each other, the quantizers or ``choices``; a plan for other points, or
            beside what makes one; a ``min_accuracy`` outside the metric's range, or above what the widest candidate
            reaches; fewer bits than the narrowest candidate needs.
        DataError: the loader is empty or gives other samples in each pass.
        MetricError: not one finite score per sample; one beyond the best that the metric says there is; no ``output``
            though there are several, or one that is not there.
        EvaluationError: the network or the metric raises.
    """

    @nearest_keyword
    def __init__(
        self,
        model: QuantizedModel,
        loader: Loader,
        metric: Any = top1_accuracy,
        *,
        num_bits_lower_limit: int | Sequence[int] | None = None,
        num_bits_upper_limit: int | Sequence[int] | None = None,
        choices: Any = None,
        pinned: Any = None,
        tied: Any = None,
        first_last: Any = None,
        target: Any = None,
        min_accuracy: float | Sequence[float | None] | None = None,
        max_drop: float | Sequence[float | None] | None = None,
        costs: Any = (TOTAL_BITS,),
        limits: Any = None,
        max_total_bits: float | None = None,
        unpack: Unpack | None = None,
        engine: str = "auto",
        hold_bytes: int | None = None,
        budget_bytes: int | None = None,
        precision: str = "full",
        max_seconds_each: float | None = None,
        output: Any = None,
    ) -> None:
        checked_name("`engine`", engine, ENGINES, ProblemError)
        checked_name("`precision`", precision, PRECISIONS, ProblemError)
        require_wrapped("a problem", model, ProblemError)
        self.model = model
        self.unpack = unpack
        asked = split_metrics(metric, min_accuracy, max_drop, output)
        if len(asked) > 1:
            loader = reusable(loader)
        self.metric, min_accuracy, max_drop = asked[0]
        if max_drop is None:  # said before the network runs
            checked_requirements(self.metric, 0.0, min_accuracy, None)
        rules = {"pinned": pinned, "tied": tied, "first_last": first_last, "target": target}
        self.plan = checked_plan(model, choices, (num_bits_lower_limit, num_bits_upper_limit), rules)
        self.space = SearchSpace(self.plan.choices, self.plan.groups)
        self.costs = checked_costs(costs, model, self.space)
        self.limits = checked_limits(limits, max_total_bits, self.costs, model, self.plan.limits)
        require_known(self.limits.costs, self.space)
        self.limits.require_reachable(self.space)

        options: dict[str, Any] = {"unpack": unpack, "hold_bytes": hold_bytes, "precision": precision}
        options["max_seconds_each"] = checked_limit(max_seconds_each)
        evaluators = partial(evaluators_of, model, loader, engine, budget_bytes, options)
        self.direct, self.evaluator = evaluators(self.metric, divergence="auto")
        floats = self.direct.float_evaluation
        self.requirements = checked_requirements(
            self.metric, floats.score, min_accuracy, max_drop, scores=floats.scores
        )
        self.further = FurtherMetrics(asked[1:], evaluators)
        self._searching: Evaluator = self.evaluator
        self._judging: Evaluator = self.direct
        self._memory = self._new_memory()
        super().__init__(
            n_var=self.space.num_genes,
            n_obj=1 + len(self.costs),
            n_ieq_constr=(self.min_accuracy is not None) + len(self.further) + len(self.limits),
            xl=self.space.lower,
            xu=self.space.upper,
            vtype=int,
        )
        require_reachable(self)

    def __getstate__(self) -> dict[str, Any]:
        require_a_name("a problem with `unpack`", self.unpack, ProblemError)
        state: dict[str, Any] = super().__getstate__()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._memory.recall()

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerwiseQuantizationProblem:
        """A problem of its own that shares network, data, evaluators and memory.

        pymoo copies algorithms together with their problem, and its meta problems change what they copied.
        """
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(self.__dict__)
        return copied

    def _new_memory(self, known: Sequence[Evaluation] = ()) -> Memory:
        counted = partial(getattr, self.direct, "counted")
        settings = self.direct.settings
        return Memory(self.model, self._searching, self.metric, self._finished, settings, counted, known)

    def recorded_by(self, around: Around) -> LayerwiseQuantizationProblem:
        """A problem of its own with the same network, data and evaluators, the latter asked through ``around``.

        Of what was measured it knows only the widest candidate, if that was.
        """
        recorded = copy.deepcopy(self)
        recorded._searching, recorded._judging = around(self.evaluator, "search"), around(self.direct, "direct")
        recorded.further = self.further.recorded_by(around)
        widest = tuple(self.effective(self.space.widest)[0].tolist())
        recorded._memory = recorded._new_memory([one for one in self.evaluations if one.candidate == widest])
        return recorded

    def remember(self, recorded: LayerwiseQuantizationProblem) -> None:
        """Take over what one that `recorded_by` gave has measured since."""
        self._memory.take_over(recorded._memory)

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the model as it was when anything was asked last; see `qexplore.model.fingerprint_of`."""
        return self._memory.fingerprint

    @property
    def float_accuracy(self) -> float:
        """Score of the float network on the search set."""
        self._forget_if_changed()
        return self.direct.float_evaluation.score

    @property
    def clipping(self) -> tuple[Clipping, ...]:
        """What ranges cut off of the float network's tensors on the search set, at points that ever use them."""
        self._forget_if_changed()
        names = tuple(self.model.fake_quantizers)
        ranged = {name for name, codes in zip(names, self.space.choices, strict=True) if any(map(has_range, codes))}
        return tuple(one for one in self.direct.clipping if one.name in ranged)

    @property
    def divergence(self) -> Metric | None:
        """What evaluations tell as ``divergence``; None where that cannot be had: ``evaluator.divergence_gap``."""
        self._forget_if_changed()
        return self.direct.divergence

    @property
    def series(self) -> tuple[tuple[int, ...], ...]:
        """Points in series, by index: nothing mixes between them; see `Evaluator.series`."""
        return self.evaluator.series

    @property
    def num_samples(self) -> int:
        """Samples of the search set; 0 under a whole-set metric, which counts them itself."""
        return self.direct.float_evaluation.num_samples

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Everything in memory, in the order it was measured."""
        self._forget_if_changed()
        return self._memory.evaluations

    def __str__(self) -> str:
        """What `describe` says."""
        return str(self.describe())

    def describe(self) -> Description:
        """What will be searched and how candidates are evaluated; ``print`` shows it."""
        return Description.of(self)

    def measure(self, candidates: Any, *, must_beat: Any = None, screened: bool = False) -> Iterator[Evaluation]:
        """Evaluations of ``candidates``, shape ``[N, L]``, one by one; from memory where there is one.

        Args:
            candidates: choices of every point, as codes.
            must_beat: one score per candidate, shape ``[N]``. One that is proved not to beat it may be answered
                ``"stopped"``, with a bound instead of a score. None has all of them run to the end.
            screened: look at a random part of a large search set first, and answer ``"stopped"`` where that makes it
                all but certain; see `qexplore.evaluation.Screen`. The part counts in ``num_samples``.

        Further metrics are measured where the first one is met, and only there.

        Raises:
            ProblemError: of another shape, or no whole numbers.
        """
        self._forget_if_changed()
        rows = checked_candidates(candidates, self.space.num_points, ProblemError)
        if must_beat is not None and np.shape(must_beat) != (len(rows),):
            raise ProblemError(f"must_beat must hold a score for each of {len(rows)} candidates, got {must_beat!r}")
        return self._memory.measure(rows, self.num_samples, must_beat=must_beat, screened=screened)

    def scores_on_subset(
        self, candidates: Candidates, metric: Metric, num_samples: int, *, directly: bool = False, **options: Any
    ) -> Scores:
        """As `qexplore.evaluation.Evaluator.scores_on_subset`; ``options`` too; nothing of it is remembered.

        Choices are taken as they are, also those that a point may not have. ``directly`` asks the direct evaluator.

        Raises:
            EvaluationError: the problem's metric is one of a whole set, or the network raises.
            MetricError: the metric cannot be had from the network's outputs.
        """
        self.model.require_attached()  # evaluators see changes themselves, and to see them takes checksums of all
        rows = self.effective(checked_candidates(candidates, self.space.num_points, ProblemError))
        return (self._judging if directly else self._searching).scores_on_subset(rows, metric, num_samples, **options)

    def measure_directly(self, candidates: Candidates) -> Iterator[Evaluation]:
        """Evaluations of ``candidates``, shape ``[N, L]``, by the direct evaluators, further metrics included.

        The last word on a candidate: nothing is taken from memory, and nothing is remembered.
        """
        self._forget_if_changed()
        for evaluation in self._judging.evaluate(candidates):
            yield self.further.added_to(evaluation, directly=True) if evaluation.is_complete else evaluation

    def num_passes(self, evaluation: Evaluation) -> float:
        """What ``evaluation`` cost, in passes over the search set, also where it comes from memory."""
        if evaluation.state == "failed" or not evaluation.num_samples:
            return 1.0 + len(evaluation.further)
        return evaluation.num_samples / self.num_samples + len(evaluation.further)

    def front(self) -> Front:
        """The front of everything that was measured so far, for searches that qexplore does not run itself."""
        return self.front_of(self.evaluations)

    def front_of(self, evaluations: Sequence[Evaluation]) -> Front:
        """The front of the complete ones among ``evaluations``."""
        complete = [evaluation for evaluation in evaluations if evaluation.is_complete]
        kept = np.flatnonzero((self.constraints(complete) <= 0).all(axis=1))
        feasible = [complete[place] for place in kept]
        return Front.from_candidates(**front_fields(self, feasible), min_accuracy=self.min_accuracy)

    def points_of(self, evaluations: Sequence[Evaluation]) -> Front:
        """All complete ``evaluations`` in the given order, dominated and infeasible ones too."""
        fields = front_fields(self, evaluations)
        return Front(**fields, broken_limits=self.limits.broken(fields["num_bits"]))

    def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        evaluations = list(self.measure(self.space.decode(x)))
        out["F"], out["G"] = self.objectives(evaluations), self.constraints(evaluations)

    def _finished(self, evaluation: Evaluation) -> Evaluation:
        """With its further scores, where the first metric is met."""
        is_met = evaluation.is_complete and self.requirements.violation(evaluation.score) <= 0
        return self.further.added_to(evaluation) if is_met else evaluation

    def effective(self, candidates: Candidates) -> Candidates:
        """``candidates`` as they take effect: quantizers that were disabled by hand stay off."""
        return self._memory.effective(candidates)

    def _forget_if_changed(self) -> None:
        with self.model.lock:
            if self._memory.forget_if_changed():
                self.direct.evaluate_float()
                self.further.evaluate_float()
