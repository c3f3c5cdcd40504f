"""Measuring candidates once: what is known is answered from memory until the model changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexplore.evaluation import Evaluation, Evaluator, Order, SampleOrder, Screen, why_not
from qexplore.metrics import Metric, WholeSetMetric
from qexplore.model import Candidate, Candidates, QuantizedModel, fingerprint_of
from qexplore.search.looks import any_looked_at

Limits = dict[Candidate, float]


class Memory:
    """Evaluations by candidate, and the evaluator that makes those that are missing.

    Equal candidates of a call are measured once here, so that an evaluator need not look for them.

    Args:
        model: wrapped and calibrated.
        evaluator: measures.
        metric: of the scores.
        finish: adds to an evaluation what the evaluator does not measure, before anyone sees it.
        settings: of the arithmetic; what was measured under others is forgotten.
        counted: which samples count, shape ``[num_samples]``, or None; asked where candidates may be stopped.
        known: evaluations to begin with.
    """

    def __init__(
        self,
        model: QuantizedModel,
        evaluator: Evaluator,
        metric: Metric | WholeSetMetric,
        finish: Callable[[Evaluation], Evaluation],
        settings: Callable[[], Hashable] = tuple,
        counted: Callable[[], NDArray[np.bool_] | None] = lambda: None,
        known: Iterable[Evaluation] = (),
    ) -> None:
        self._model = model
        self._evaluator = evaluator
        self._metric = metric
        self._finish = finish
        self._settings = settings
        self._counted = counted
        self._hardest: SampleOrder | None = None
        self._order: Order | None = None
        self._known: dict[Candidate, Evaluation] = {evaluation.candidate: evaluation for evaluation in known}
        self._version: Any = self._now()
        self.fingerprint = fingerprint_of(model)
        """Of the model as it was when what is in memory was measured."""

    def __getstate__(self) -> dict[str, Any]:
        # A version tells where tensors lie, so it holds here alone: what is still true is told instead.
        return self.__dict__ | {"_version": self._now() == self._version}

    def recall(self) -> None:
        """Take the model as it is for the one that was pickled along, unless that had changed already."""
        if self._version is True:
            self._version = self._now()

    def _now(self) -> Any:
        return self._model.version(), self._settings()

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Everything in memory, in the order it was measured."""
        return tuple(self._known.copy().values())  # in one go, whatever other threads add

    def forget_if_changed(self) -> bool:
        """Forget everything when a weight, a range, a hand-made switch or the arithmetic has changed; says so."""
        self._model.require_attached()
        version = self._now()
        if version == self._version:
            return False
        self._known.clear()
        self._hardest = self._order = None
        self._version, self.fingerprint = version, fingerprint_of(self._model)
        return True

    def take_over(self, other: Memory) -> None:
        """Remember what ``other`` does, unless the model has changed since; that is noticed when it is asked next."""
        if self._now() == self._version and other._now() == other._version:
            self._known |= other._known

    def effective(self, candidates: Candidates) -> Candidates:
        """``candidates`` as they take effect: quantizers that were disabled by hand stay off."""
        is_on = np.array([not quantizer.disabled for quantizer in self._model.fake_quantizers.values()])
        return np.where(is_on, candidates, 0)

    def measure(
        self, candidates: Candidates, num_samples: int, *, must_beat: Any, screened: bool
    ) -> Iterator[Evaluation]:
        """As `LayerwiseQuantizationProblem.measure`, on a set of ``num_samples``."""
        wanted, version = self.effective(candidates), self._version
        rows = [tuple(row) for row in wanted.tolist()]
        keys = self._keys(wanted)
        limits = None if must_beat is None else self._easiest(keys, must_beat)
        # What is known now stays known to this call: a callback between two answers may make the problem forget.
        known = {key: self._known[key] for key in keys if self._knows(key, limits)}
        order = [keys.index(key) for key in dict.fromkeys(keys) if key not in known]
        screen = Screen.of(self._metric, num_samples, self._evaluator) if screened and limits is not None else None
        if screen is not None and limits is not None and order:
            least = [limits[keys[place]] for place in order]
            places = self._rejected(screen, wanted[order], least, num_samples).items()
            rejected = {keys[order[place]]: evaluation for place, evaluation in places}
            known |= rejected
            self._remember(rejected, version)
            order = [place for place in order if keys[place] not in known]
        # One call for the whole population: an evaluator may share work between candidates.
        must_beat = None if limits is None else [limits[keys[place]] for place in order]
        samples_order = self._samples_order(must_beat is not None)
        answers = self._evaluator.evaluate(wanted[order], must_beat=must_beat, order=samples_order)
        left = iter(order)
        for row, key in zip(rows, keys, strict=True):
            while key not in known:
                answered = keys[next(left)]
                evaluation = next(answers)
                self._learn(evaluation)
                if screen is not None:
                    evaluation = replace(evaluation, num_samples=evaluation.num_samples + screen.num_run)
                known[answered] = self._finish(evaluation)
                self._remember({answered: known[answered]}, version)
            evaluation = known[key]
            yield evaluation if evaluation.candidate == row else replace(evaluation, candidate=row)

    def _samples_order(self, may_stop: bool) -> Order | None:
        """The order of samples, hardest first: settled for a whole call, and only by what was measured before it.

        So that a candidate is stopped after as many samples whoever measures it, and in whatever parts.
        """
        counted = self._counted() if may_stop and not why_not(self._metric) else None
        if counted is None:
            return self._order
        if self._hardest is None:
            assert isinstance(self._metric, Metric)
            self._hardest = SampleOrder(self._metric, counted)
            for evaluation in self.evaluations:
                self._learn(evaluation)
        changed = self._hardest.changed()
        self._order = self._order if changed is None else changed
        return self._order

    def _learn(self, evaluation: Evaluation) -> None:
        if self._hardest is not None and evaluation.scores is not None:
            self._hardest.note(evaluation.scores)

    def _remember(self, found: dict[Candidate, Evaluation], version: Any) -> None:
        """Keep what was ``found``, unless another call has learnt meanwhile that the model is no longer that one."""
        if version is self._version:
            self._known |= found

    def _keys(self, wanted: Candidates) -> list[Candidate]:
        return [tuple(row) for row in self._model.canonical(wanted).tolist()]

    def _rejected(
        self, screen: Screen, candidates: Candidates, limits: Sequence[float], num_samples: int
    ) -> dict[int, Evaluation]:
        """Those of ``candidates`` that a part of the set tells off, by their places."""
        assert isinstance(self._metric, Metric)
        measure = partial(self._evaluator.scores_on_subset, metric=self._metric, num_samples=screen.num_samples)
        scores = any_looked_at(measure, candidates)
        bounds = screen.bounds(scores, self._metric, num_samples)
        told_off = self._metric.gain(bounds) <= self._metric.gain(np.asarray(limits))
        return {
            int(place): Evaluation(
                tuple(candidates[place].tolist()),
                "stopped",
                bound=float(bounds[place]),
                num_samples=scores.shape[1],
                reason=f"does not beat {limits[int(place)]:.6g} but for a chance of {screen.error:g}, told by "
                f"{scores.shape[1]} of {num_samples} samples",
            )
            for place in np.flatnonzero(told_off)
        }

    def _easiest(self, keys: Sequence[Candidate], must_beat: Any) -> Limits:
        """For each candidate the score that is beaten first, of those that its equals in the same call must beat."""
        limits: Limits = {}
        for key, limit in zip(keys, map(float, must_beat), strict=True):
            if key not in limits or self._metric.is_better(limits[key], limit):
                limits[key] = limit
        return limits

    def _knows(self, key: Candidate, limits: Limits | None) -> bool:
        """Whether all that is asked of a candidate is in memory: a bound will do where it proves the same again."""
        evaluation = self._known.get(key)
        if evaluation is None or evaluation.bound is None:
            return evaluation is not None
        return limits is not None and not self._metric.is_better(evaluation.bound, limits[key])
