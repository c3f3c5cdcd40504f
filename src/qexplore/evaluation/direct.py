"""The plain loop through the hooked model: slow, and obviously right."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qexplore._arguments import checked_name, checked_number
from qexplore._trees import cloned, versions_of
from qexplore.errors import DataError, EvaluationError, ModelError, QExploreError
from qexplore.evaluation.advice import warn_of_not_passed, way_out
from qexplore.evaluation.base import Evaluation, Order, Told, checked_candidates, untold
from qexplore.evaluation.batches import SHARE_OF_WEIGHTS, EvaluationSet, checked_memory, memory_to_use
from qexplore.evaluation.clipping import Clipping, ClippingWatch
from qexplore.evaluation.divergence import SHARE_OF_MEMORY, Against, FloatOutputs, as_distances
from qexplore.evaluation.out_of_memory import is_out_of_memory, pieces
from qexplore.evaluation.scoring import batch_scores, complete, failed, summary, warn_of_unshifted
from qexplore.evaluation.subset import part_of, places_of_part
from qexplore.evaluation.time_limit import OutOfTime, TimeLimit
from qexplore.evaluation.whole import require_rereadable, whole_score
from qexplore.metrics import Metric, Scores, WholeSetMetric, as_metric, known_labels
from qexplore.model import (
    PRECISIONS,
    Candidates,
    Loader,
    Placement,
    QuantizedModel,
    Unpack,
    arithmetic_text,
    call,
    in_eval_mode,
    kept_weights,
    measuring,
    noting,
    require_wrapped,
    settings,
    unpacking,
    weight_store,
)


class DirectEvaluator:
    """Sets a candidate's widths and runs the model over the whole evaluation set.

    Measures the float network once when it is built, so that data and metric are known to work.

    Args:
        model: the wrapped network; its own state is left as it is.
        loader: the evaluation set.
        metric: per sample, or of a whole set; a function ``(output, target) -> scores [B]`` is one per sample.
        unpack: ``unpack(batch) -> (inputs, target)``.
        hold_bytes: how much of the set may be held in memory; None takes a quarter of what is free. Half as much again
            may be taken by quantized weights, which are kept for other candidates that choose alike.
        precision: ``"full"`` measures in full float32 and with deterministic algorithms, whatever torch is set to;
            ``"as set"`` leaves torch's settings as they are. See `qexplore.model.arithmetic`.
        divergence: what evaluations tell beside the score, ``metric(output, float_output) -> [B]``, from the same
            outputs; ``"auto"`` as for `qexplore.sensitivity`. None tells nothing.
        max_seconds_each: what a candidate may take; one that takes longer is ended, and failed. The float network is
            not limited. None limits nothing.

    Raises:
        EvaluationError: no such ``precision``; ``max_seconds_each`` is no positive number, or ``hold_bytes`` none.
        DataError: see `EvaluationSet`.
        ModelError: ``model`` is no `QuantizedModel`, or is detached.
        MetricError: the metric does not give one finite score per sample for the float network.
        EvaluationError: the float network or the metric raised.
    """

    def __init__(
        self,
        model: QuantizedModel,
        loader: Loader,
        metric: Metric | WholeSetMetric | Callable[[Any, Any], Any],
        *,
        unpack: Unpack | None = None,
        hold_bytes: int | None = None,
        precision: str = "full",
        divergence: Metric | str | None = None,
        max_seconds_each: float | None = None,
    ) -> None:
        require_wrapped("an evaluator", model)
        checked_name("`precision`", precision, PRECISIONS, EvaluationError)
        if max_seconds_each is not None:
            checked_number("`max_seconds_each`", max_seconds_each, EvaluationError, above=0)
        self.model = model
        self.max_seconds_each = max_seconds_each
        self._clock = TimeLimit(max_seconds_each)
        self._halves, self._num_halved = False, 0
        self.precision = precision
        self.unforced: tuple[str, ...] = ()
        """Operations of the last float evaluation that have no deterministic form where it ran, as torch calls them."""
        metric = as_metric(metric)
        self.metric: Metric | WholeSetMetric = metric
        self.floats = FloatOutputs(divergence, metric)
        """What the float network gave in its last evaluation, where a divergence is told."""
        self._hold_bytes = hold_bytes = checked_memory("`hold_bytes`", hold_bytes)
        self._weights = weight_store(model.model, memory_to_use(self._device, hold_bytes) // SHARE_OF_WEIGHTS)
        self._version_of_weights: Hashable = None
        self.loader = loader
        self.batch_sizes: list[int] = []
        """How many scores each batch gives."""
        # Whether the network writes into them, as a float pass alone tells: a quantized input is a copy already.
        self._changes_inputs = True
        self.float_evaluation: Evaluation
        self.counted: NDArray[np.bool_] | None = None
        """Which samples count, shape ``[num_samples]``; None for a whole-set metric."""
        self.not_passed: tuple[str, ...] = ()
        """Points that the last float evaluation did not pass: their widths change nothing in a score."""
        self.clipping: tuple[Clipping, ...] = ()
        """What ranges cut off of the tensors of the last float evaluation, at points where they cut something off."""
        self._data: EvaluationSet | None = None
        if isinstance(metric, Metric):
            unpack = unpacking(model, unpack)
            self._data = EvaluationSet(loader, Placement.of(model.model), unpack=unpack, hold_bytes=hold_bytes)
            self.metric = metric.fitted(target for _, target in self._data)
        else:
            require_rereadable(loader)
        self.evaluate_float()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({} if self._data is None else {"loader": None})

    @property
    def data(self) -> EvaluationSet | None:
        """The samples, for the network as it lies now; None for a whole-set metric, which reads the loader itself."""
        if self._data is not None:
            self._data.follow(Placement.of(self.model.model))
        return self._data

    @property
    def description(self) -> str:
        """How candidates are evaluated."""
        return f"direct: the hooked network runs for every candidate{self.moves}"

    @property
    def moves(self) -> str:
        """What is to be said of batches that are moved to the network's device each time, or were too large once."""
        halved = f", {self._num_halved} candidates in half batches for want of memory" if self._num_halved else ""
        return f"{'' if self.data is None else self.data.moves}{halved}"

    @property
    def divergence(self) -> Metric | None:
        """What evaluations tell beside the score, fitted to the whole set; None where that cannot be had."""
        return self.floats.metric

    @property
    def divergence_gap(self) -> str:
        """Why evaluations tell no divergence; empty where they do."""
        return self.floats.gap

    @property
    def series(self) -> tuple[tuple[int, ...], ...]:
        """None: it knows of no operations."""
        return ()

    @property
    def early_stop(self) -> str:
        """Why candidates are run to their end."""
        return "off: the direct evaluator runs every candidate to its end"

    @property
    def _device(self) -> torch.device:
        return Placement.of(self.model.model).device

    def settings(self) -> tuple[tuple[str, Hashable], ...]:
        """What decides the arithmetic: scores may be compared where it is equal."""
        return settings(self.precision, self._device)

    @property
    def arithmetic(self) -> str:
        """The same in words, and what of it may differ from run to run."""
        text = arithmetic_text(self.precision, self.model.model, self._device)
        return f"{text}, but without a deterministic form: {', '.join(self.unforced)}" if self.unforced else text

    def evaluate(
        self, candidates: Candidates, *, must_beat: Sequence[float] | None = None, order: Order | None = None
    ) -> Iterator[Evaluation]:
        """Measure ``candidates``, shape ``[N, L]``, one after the other; the rest is not made use of."""
        for row in checked_candidates(candidates, len(self.model.points)).tolist():
            self.bring_up_to_date()  # whoever got the last answer may have changed a weight
            yield self._evaluate_one(tuple(row))

    def scores_on_subset(
        self,
        candidates: Candidates,
        metric: Metric,
        num_samples: int,
        *,
        against_float: bool = False,
        told: Told = untold,
    ) -> Scores:
        """As `Evaluator.scores_on_subset`; whole batches where they cannot be cut.

        Raises:
            EvaluationError: the evaluator's metric is one of a whole set, so that it holds no samples; or the network
                raises.
            MetricError: see `qexplore.evaluation.scoring.batch_scores`.
        """
        data = self._require_samples()
        self.bring_up_to_date()
        try:
            batches = part_of(data, num_samples, self.batch_sizes, self._counted, self.floats.batches)
            kept = self._counted[np.concatenate([batch.samples for batch in batches])]
            chosen = [(batch.inputs, batch.target) for batch in batches]
            off = [0] * len(self.model.points)
            if against_float and metric is self.divergence and all(batch.reference is not None for batch in batches):
                metric = self.floats.between
                chosen = [(batch.inputs, Against(batch.target, batch.reference)) for batch in batches]
            elif against_float:
                chosen = [(inputs, self._output(off, inputs)) for inputs, _ in chosen]
            metric = metric.fitted([target for _, target in chosen])
            rows = []
            for row in checked_candidates(candidates, len(self.model.points)).tolist():
                parts = []
                with self._settled(row), self._clock.around(self.max_seconds_each):
                    for x, target in self._clock.watching(chosen):
                        if isinstance(target, Against) and not any(row):
                            parts.append(target.nothing())
                        else:
                            parts.append(batch_scores(metric, call(self.model, cloned(x)), x, target))
                        told(1 / len(chosen))
                rows.append(torch.cat(parts))
        except QExploreError:
            raise
        except OutOfTime:
            raise self._clock.error from None
        except Exception as error:
            raise EvaluationError(f"the network could not be run on a part of the set: {error}") from error
        return np.compress(kept, torch.stack(rows).cpu().numpy(), axis=1) if rows else np.zeros((0, 0), np.float32)

    def subset_size(self, num_samples: int) -> int:
        """As `Evaluator.subset_size`.

        Raises:
            EvaluationError: the evaluator's metric is one of a whole set.
        """
        if self._cuts:
            return min(num_samples, int(self._counted.sum()))
        places = places_of_part(self._require_samples(), num_samples, self.batch_sizes, self._counted)
        return sum(self.batch_sizes[place] for place in places)

    def _require_samples(self) -> EvaluationSet:
        data = self.data
        if data is None:
            raise EvaluationError(f"the metric '{self.metric.name}' reads the set itself, so no part of it can be run")
        return data

    @functools.cached_property
    def _cuts(self) -> bool:
        """Whether a part of the set is cut out of its batches."""
        data = self._require_samples()
        return data.is_held and data.samples(self.batch_sizes).can_be_cut

    @property
    def _counted(self) -> NDArray[np.bool_]:
        assert self.counted is not None, "what `_require_samples` refuses"
        return self.counted

    def _output(self, candidate: Sequence[int], inputs: Any) -> Any:
        with self._settled(candidate):
            return call(self.model, cloned(inputs))

    @contextmanager
    def _settled(self, candidate: Sequence[int]) -> Iterator[None]:
        """The model with these choices, ready to be measured; a weight is quantized once for all that choose alike."""
        with ExitStack() as stack:
            for context in (
                self.model.using(candidate),
                in_eval_mode(self.model),
                torch.no_grad(),
                kept_weights(self.model, self._weights),
            ):
                stack.enter_context(context)
            for device in Placement.of(self.model.model).devices or (torch.device("cpu"),):
                stack.enter_context(measuring(device, precision=self.precision))
            yield

    def evaluate_float(self) -> Evaluation:
        """Measure the network with every quantizer off; `float_evaluation` is what was measured last.

        Raises:
            QExploreError: it cannot be measured; the original error is the cause.
        """
        off = tuple(0 for _ in self.model.points)
        watch = ClippingWatch(self.model.activation_fake_quantizers)
        try:
            with self.model.lock, self.model.passes_noted(watch) as passed, noting() as unforced:
                self.floats.begin(memory_to_use(self._device, self._hold_bytes) // SHARE_OF_MEMORY)
                self.float_evaluation = self._measure(off, is_float=True)
        except QExploreError:
            raise
        except Exception as error:
            advice = way_out(Placement.of(self.model.model))
            raise EvaluationError(
                f"the float network could not be evaluated: {type(error).__name__}: {error}. {advice}"
            ) from error
        if self.floats.is_wanted:
            self.floats.finish(self.model.version())
        if self.divergence is not None:
            self.float_evaluation = replace(self.float_evaluation, divergence=0.0)
        self.clipping = watch.found()
        self.unforced = tuple(unforced)
        # A metric that passes none runs the model elsewhere, a copy of it for one.
        missed = tuple(name for name in self.model.fake_quantizers if passed and name not in passed)
        if missed and missed != self.not_passed:
            warn_of_not_passed(self.metric.name, missed)
        self.not_passed = missed
        return self.float_evaluation

    def bring_up_to_date(self) -> None:
        """Where the network has changed, forget quantized weights, and measure it anew if its outputs are wanted."""
        if not self.floats.is_wanted and not self.model.weight_points:
            return
        with self.model.lock:
            version = self.model.version()
            if version != self._version_of_weights:
                self._weights.clear()
                self._version_of_weights = version
            if self.floats.is_wanted and version != self.floats.version:
                self.evaluate_float()

    def _evaluate_one(self, candidate: tuple[int, ...]) -> Evaluation:
        evaluation, is_full = self._tried(candidate)
        if not is_full or self.data is None:
            return evaluation
        with self.model.lock:  # only out here is the error gone, with all that its frames hold
            self._halves = True
            try:
                evaluation, _ = self._tried(candidate)
            finally:
                self._halves = False
        self._num_halved += evaluation.is_complete
        return evaluation

    def _tried(self, candidate: tuple[int, ...]) -> tuple[Evaluation, bool]:
        """A measurement, and whether it failed because memory ran out."""
        start = time.perf_counter()
        try:
            return self._measure(candidate, self.max_seconds_each), False
        except OutOfTime:
            return failed(candidate, self._clock.error, time.perf_counter() - start), False
        except (DataError, ModelError):
            raise  # a loader that changes or a wrapper without its network spoils every candidate, not this one
        except Exception as error:
            return failed(candidate, error, time.perf_counter() - start), is_out_of_memory(error)

    def _measure(
        self, candidate: tuple[int, ...], seconds: float | None = None, *, is_float: bool = False
    ) -> Evaluation:
        """Measure a candidate within ``seconds``; None gives it all it takes. The float pass learns for the others."""
        with self._settled(candidate), self._clock.around(seconds):
            start = time.perf_counter()  # settled: other threads were waited for
            if isinstance(self.metric, WholeSetMetric):
                score, scores, divergences = whole_score(self.metric, self.model, self.loader), None, None
            else:
                scores, divergences = self._scores(self.metric, is_float)
                score = summary(scores, self.metric)
                self.counted = self.metric.counts(scores)
        return complete(candidate, score, scores, self.metric, time.perf_counter() - start, divergences)

    def _scores(self, metric: Metric, is_float: bool) -> tuple[Scores, Scores | None]:
        """Scores of all samples, and their divergences where these are told."""
        data = self._require_samples()
        # Batches that are held are those of the float pass, which has looked at their labels.
        with known_labels() if data.is_held and not is_float else nullcontext():
            return self._passed(metric, data, is_float)

    def _passed(self, metric: Metric, data: EvaluationSet, is_float: bool) -> tuple[Scores, Scores | None]:
        parts: list[Tensor] = []
        apart: list[Tensor | None] = []
        changed = False
        references = [] if is_float else self.floats.batches
        in_halves = self.batch_sizes if self._halves else ()
        for inputs, target, reference in pieces(self._clock.watching(data), references, in_halves):
            if is_float and not parts:
                warn_of_unshifted(metric, inputs, target)
            given = cloned(inputs) if is_float or self._changes_inputs else inputs
            before = versions_of(given)
            output = call(self.model, given)
            changed = changed or before != versions_of(given)
            parts.append(batch_scores(metric, output, inputs, target))
            if is_float:
                self.floats.add(output, target, len(parts[-1]))
            elif self.divergence is not None:
                apart.append(self.floats.scores(output, target, reference))
        if is_float:
            self._changes_inputs = changed
            self.batch_sizes = [len(part) for part in parts]
        told = [one for one in apart if one is not None]
        divergences = as_distances(torch.cat(told).cpu().numpy()) if len(told) == len(parts) else None
        return torch.cat(parts).cpu().numpy(), divergences
