"""The fast evaluator: candidates share every step they can share, and stop once they are proved not to matter."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qexplore.errors import EvaluationError, NumBitsError, QExploreError
from qexplore.evaluation.base import Evaluation, Order, Told, checked_candidates, untold
from qexplore.evaluation.batches import SHARE_OF_WEIGHTS, checked_memory, memory_to_use
from qexplore.evaluation.direct import DirectEvaluator
from qexplore.evaluation.engine import Engine, Measured
from qexplore.evaluation.out_of_memory import is_out_of_memory
from qexplore.evaluation.parts import Parts
from qexplore.evaluation.racing import why_not
from qexplore.evaluation.scoring import complete, failed, summary
from qexplore.evaluation.stack import taken_apart
from qexplore.evaluation.time_limit import OutOfTime, TimeLimit
from qexplore.evaluation.trace import CaptureError
from qexplore.metrics import Metric, Scores
from qexplore.model import (
    Candidate,
    Candidates,
    OneThread,
    Placement,
    QuantizedModel,
    measuring,
    weight_store,
)

_CHUNK_SECONDS = 5.0
_LARGEST_CHUNK = 1024
_SMALLEST_CHUNK = 8
_SECONDS_TO_BUILD = 60.0
"""That taking a network apart may take beside what a candidate may, where that is limited: narrow widths are tried."""

Limits = NDArray[np.float64] | None


class PrefixEvaluator:
    """Runs candidates through a copy of the network that is taken apart into steps.

    A step runs once for all candidates of a call that agree on the choices upstream of it; values of the first layers
    are kept from call to call. The copy is used only if it equals the hooked network. Where it does not, or cannot be
    made, and for candidates that fail, the `DirectEvaluator` answers.

    Args:
        direct: says which network is measured, on what and by which metric; whole-set metrics are left to it.
        budget_bytes: most memory for activations, those kept between calls included; None takes a quarter of what is
            free.
        required: raise where the network cannot be used in steps, instead of falling back.

    Raises:
        EvaluationError: ``required``, and it cannot be; ``budget_bytes`` are no number of bytes.
    """

    def __init__(self, direct: DirectEvaluator, *, budget_bytes: int | None = None, required: bool = False) -> None:
        self.direct = direct
        self._model = direct.model
        self._metric = direct.metric
        self._budget_bytes = checked_memory("`budget_bytes`", budget_bytes)
        self._required = required
        self._clock = TimeLimit(direct.max_seconds_each)
        self._seconds = self.direct.float_evaluation.seconds
        self._engine: Engine | None = None
        self._parts: Parts | None = None
        self._why_not = ""
        self._version: Any = None
        # Held while the engine works. Whoever has it must not ask for the model's: others have that and ask for this.
        self._lock = OneThread()
        self._bring_up_to_date()

    def __getstate__(self) -> dict[str, Any]:
        # Threads and compiled steps stay behind; the engine is built anew when it is asked.
        return self.__dict__ | {"_engine": None, "_parts": None, "_version": None}

    @property
    def description(self) -> str:
        """How candidates are evaluated, or why one after the other."""
        self._bring_up_to_date()
        engine = self._engine
        if engine is None:
            return f"direct: {self._why_not}{self.direct.moves}"
        network = engine.network
        steps = len(network.steps.steps) - network.steps.num_inputs
        parts = [] if network.is_stack else [f"{steps} steps"]
        parts += [f"batches of {engine.batch_size}"]
        if not engine.can_cut:
            parts[-1] = "the loader's batches"
        elif engine.batch_size < engine.suitable_size:
            parts[-1] += f" for want of memory, instead of {engine.suitable_size}"
        elif engine.num_batches == 1:
            parts[-1] = "all samples in one batch, so that none is left when a candidate could be stopped"
        if network.num_folded:
            parts.append(f"{network.num_folded} BatchNorm folded")
        parts += [f"{engine.workers.count} workers"] if engine.workers.count > 1 else []
        parts += [engine.replays.description] if engine.replays is not None and engine.replays.description else []
        parts += network.notes
        parts += _as_one_step(network.opaque)
        return f"prefix: {', '.join(parts)}{self.direct.moves}"

    @property
    def batch_size(self) -> int | None:
        """Samples that run together; None where batches are the loader's own."""
        self._bring_up_to_date()
        return self._engine.batch_size if self._engine is not None and self._engine.can_cut else None

    @property
    def num_workers(self) -> int:
        """Threads that run batches side by side; 0 where the direct evaluator answers."""
        self._bring_up_to_date()
        return 0 if self._engine is None else self._engine.workers.count

    @property
    def divergence_gap(self) -> str:
        """As `Evaluator.divergence_gap`."""
        self._bring_up_to_date()
        gap = self.direct.divergence_gap
        if gap or self._engine is None or self._engine.tells_divergence:
            return gap
        return "the float network's outputs do not count samples on their first axis"

    @property
    def series(self) -> tuple[tuple[int, ...], ...]:
        """Chains of points whose values reach the next one unmixed; see `qexplore.evaluation.series.series_of`."""
        self._bring_up_to_date()
        return () if self._engine is None else self._engine.network.series

    @property
    def early_stop(self) -> str:
        """``"on"``, or why candidates are run to their end."""
        self._bring_up_to_date()
        if self._engine is None:
            return self.direct.early_stop
        reason = why_not(self._metric)
        return f"off: {reason}" if reason else "on"

    def evaluate(
        self, candidates: Candidates, *, must_beat: Sequence[float] | None = None, order: Order | None = None
    ) -> Iterator[Evaluation]:
        """Measure ``candidates``, shape ``[N, L]``, a chunk of some seconds at a time.

        Args:
            candidates: codes; 0 switches a quantizer off.
            must_beat: one score per candidate. One that is proved not to beat it is answered ``"stopped"``, where the
                metric allows proofs.
            order: of the samples; hard ones first stop candidates sooner.
        """
        codes = checked_candidates(candidates, len(self._model.points))
        rows: list[Candidate] = [tuple(row) for row in codes.tolist()]
        limits = None if must_beat is None or why_not(self._metric) else np.asarray(must_beat, dtype=np.float64)
        engine, _ = self._ready(())
        if engine is None:
            yield from self.direct.evaluate(codes)
            return
        done = 0
        while done < len(rows):
            size = int(np.clip(_CHUNK_SECONDS / max(self._seconds, 1e-9), _SMALLEST_CHUNK, _LARGEST_CHUNK))
            chunk = slice(done, done + size)
            yield from self._chunk(rows[chunk], None if limits is None else limits[chunk], order)
            done += size

    def scores_on_subset(
        self,
        candidates: Candidates,
        metric: Metric,
        num_samples: int,
        *,
        against_float: bool = False,
        told: Told = untold,
    ) -> Scores:
        """As `DirectEvaluator.scores_on_subset`, every step once for all candidates that share it."""
        rows = checked_candidates(candidates, len(self._model.points))
        engine, fit = self._ready(rows.tolist())
        if engine is not None and len(fit) == len(rows):
            try:
                with self._lock, measuring(engine.network.device, precision=self.direct.precision):
                    assert self._parts is not None
                    return self._parts.scores(rows, metric, num_samples, against_float=against_float, told=told)
            except QExploreError:
                raise
            except OutOfTime:
                raise self._clock.error from None
            except Exception:
                pass  # whatever it is, the direct evaluator says it better, or can do without it
        return self.direct.scores_on_subset(candidates, metric, num_samples, against_float=against_float, told=told)

    def subset_size(self, num_samples: int) -> int:
        """As `Evaluator.subset_size`: whole batches of the loader where the engine keeps them."""
        engine, _ = self._ready(())
        return (self._parts if engine is not None and self._parts else self.direct).subset_size(num_samples)

    def _chunk(self, rows: list[Candidate], limits: Limits, order: Order | None) -> list[Evaluation]:
        """Answers to ``rows``, in their order."""
        # Whoever got the last chunk may have changed the network.
        engine, fit = self._ready(rows)
        measured: list[Evaluation] = []
        if engine is not None and fit:
            chosen = [rows[index] for index in fit]
            measured = self._measured(engine, chosen, None if limits is None else limits[fit], order)
        answers = dict(zip(fit, measured, strict=True))
        return [answers[index] if index in answers else self._directly(row) for index, row in enumerate(rows)]

    def _ready(self, rows: Sequence[Candidate]) -> tuple[Engine | None, list[int]]:
        """The engine for the network as it is, and which of ``rows`` it can take."""
        with self._model.lock:
            self._bring_up_to_date()
            engine = self._engine
            return engine, [] if engine is None else [index for index, row in enumerate(rows) if _fits(engine, row)]

    def _measured(self, engine: Engine, rows: list[Candidate], limits: Limits, order: Order | None) -> list[Evaluation]:
        """Answers to ``rows`` by the engine; by the direct evaluator for one that raises."""
        answers, is_full = self._tried(engine, rows, limits, order)
        if answers:
            return answers
        if len(rows) > 1:
            return self._apart(engine, rows, limits, order)
        size = engine.batch_size
        while is_full and self._halve(engine):
            answers, is_full = self._tried(engine, rows, limits, order)
            if answers:
                return answers
        if engine.batch_size != size:
            with self._lock:
                engine.resize(size)  # smaller ones were no cure
        return [self._directly(rows[0])]

    def _tried(
        self, engine: Engine, rows: list[Candidate], limits: Limits, order: Order | None
    ) -> tuple[list[Evaluation], bool]:
        """Answers to ``rows`` by the engine, none where it raises, and whether memory ran out."""
        start = time.perf_counter()
        try:
            with (
                self._lock,
                measuring(engine.network.device, precision=self.direct.precision),
                self._clock.around(self._seconds_for(len(rows))),
            ):
                start = time.perf_counter()  # other threads were waited for
                engine.reorder(order)
                result = engine.measure(np.array(rows, dtype=np.int64), limits)
        except OutOfTime:
            late = failed(rows[0], self._clock.error, time.perf_counter() - start)
            return [late] * (len(rows) == 1), False
        except Exception as error:
            return [], is_out_of_memory(error)  # whoever asks goes on once the error is gone, with all its frames hold
        self._seconds = (time.perf_counter() - start) / len(rows)
        return [self._evaluation(row, result, index, limits) for index, row in enumerate(rows)], False

    def _halve(self, engine: Engine) -> bool:
        with self._lock:
            return engine.halve_batches()

    def _seconds_for(self, count: int) -> float | None:
        """What ``count`` candidates may take together."""
        return self._clock.of_many(count, self._seconds)

    def _apart(self, engine: Engine, rows: list[Candidate], limits: Limits, order: Order | None) -> list[Evaluation]:
        """Go on in two halves, until the candidate that raises is alone."""
        half = len(rows) // 2
        first, second = (None, None) if limits is None else (limits[:half], limits[half:])
        return self._measured(engine, rows[:half], first, order) + self._measured(engine, rows[half:], second, order)

    def _directly(self, row: Candidate) -> Evaluation:
        return next(self.direct.evaluate(np.array([row], dtype=np.int64)))

    def _evaluation(self, row: Candidate, result: Measured, index: int, limits: Limits) -> Evaluation:
        seconds, count = float(result.seconds[index]), int(result.num_samples[index])
        divergences, scores = (
            result.divergences[index],
            result.scores[index].copy(),
        )  # or every record would hold on to those of the whole call
        if count < len(scores):
            assert limits is not None
            bound = float(result.bounds[index])
            reason = f"proved not to beat {limits[index]:.6g} after {count} of {len(scores)} samples"
            return Evaluation(row, "stopped", bound=bound, num_samples=count, reason=reason, seconds=seconds)
        assert isinstance(self._metric, Metric)
        try:
            return complete(row, summary(scores, self._metric), scores, self._metric, seconds, divergences)
        except QExploreError as error:
            return failed(row, error, seconds)

    # ------------------------------------------------------------------------------------------------- the engine

    def _bring_up_to_date(self) -> None:
        """Take the network apart anew when it has changed.

        Raises:
            EvaluationError: steps are ``required``, and cannot be had.
        """
        with self._model.lock:
            version = self._model.version(), _hooks(self._model), torch.get_num_threads(), self.direct.settings()
            if version != self._version:
                self._version = None  # until all is done: what is interrupted is begun anew
                self._take_apart()
                self._version = version
            if self._required and self._engine is None:
                raise EvaluationError(
                    f'engine="prefix" cannot be used: {self._why_not}. engine="auto" falls back to the direct evaluator'
                )

    def _take_apart(self) -> None:
        self.direct.bring_up_to_date()
        with self._lock:
            if self._engine is not None:
                self._engine.close()
            self._engine, self._parts, self._why_not = None, None, ""
        try:
            # Other threads are waited for out here: building is timed.
            with measuring(Placement.of(self._model.model).device, precision=self.direct.precision):
                self._engine = self._build()
        except CaptureError as error:
            self._why_not = str(error)
        except OutOfTime:
            self._why_not = "taking the network apart takes too long beside max_seconds_each"
        except Exception as error:  # whatever a network does when it is taken apart, the direct evaluator still can
            self._why_not = f"{type(error).__name__}: {error}"

    def _build(self) -> Engine:
        if not isinstance(self._metric, Metric):
            raise CaptureError("a whole-set metric runs the model itself")
        placement = Placement.of(self._model.model)
        if placement.is_spread:
            raise CaptureError(f"the network lies on several devices ({', '.join(map(str, placement.devices))})")
        data = self.direct.data
        assert data is not None
        if not data.is_held:
            raise CaptureError("the evaluation set is too large to be held in memory")
        floats = self.direct.floats
        samples = data.samples(self.direct.batch_sizes, floats.batches, self.direct.counted)
        budget = memory_to_use(placement.device, self._budget_bytes) // SHARE_OF_WEIGHTS
        weights = weight_store(self._model.model, budget)
        seconds = self._clock.seconds
        with TimeLimit().around(None if seconds is None else seconds + _SECONDS_TO_BUILD):
            network = taken_apart(self._model, samples, weights)
        # The direct evaluator's float pass has looked at every label.
        options: dict[str, Any] = {"has_known_labels": True, "floats": floats, "seconds": seconds}
        engine = Engine(network, samples, self._metric, self._budget_bytes, **options)
        engine.workers.clock = None if seconds is None else self._clock
        self._parts = Parts(engine, samples, self._metric, floats, self._seconds_for)
        return engine


def _as_one_step(opaque: dict[str, str]) -> list[str]:
    """Modules that are run as a whole, those with one reason together."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in opaque.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"'{names[0]}' {f'and {len(names) - 1} more, each ' if len(names) > 1 else ''}as one step ({reason})"
        for reason, names in by_reason.items()
    ]


def _fits(engine: Engine, row: Candidate) -> bool:
    try:
        engine.network.quantizers(row)
    except NumBitsError:
        return False
    return True


def _hooks(model: QuantizedModel) -> tuple[Any, ...]:
    """Changes when a forward hook is added or removed anywhere, or a module takes another's place."""
    return tuple(
        (id(module), tuple(module._forward_hooks), tuple(module._forward_pre_hooks)) for module in model.modules()
    )
