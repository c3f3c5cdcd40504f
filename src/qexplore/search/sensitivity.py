"""How much the network's output suffers from one point alone: a table of every point at every choice."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qexplore._arguments import is_whole
from qexplore._choices import MAX_NUM_BITS, choice_name, stored_bits
from qexplore._clock import now
from qexplore._progress import Progress
from qexplore._table import Framed, Rows, csv_table, text_table
from qexplore.cost import one_by_one
from qexplore.errors import EvaluationError, MetricError, ProblemError, first_line
from qexplore.evaluation import Evaluator, Told, usual_divergences
from qexplore.front import by_stored_bits, write_text
from qexplore.metrics import (
    Metric,
    as_metric,
    judging,
    kl_divergence,
    loss,
    mean_squared_divergence,
    noise_to_signal,
)
from qexplore.model import Candidates
from qexplore.search.choices import parsed_choice
from qexplore.search.looks import looked_at
from qexplore.search.pace import Pace
from qexplore.search.problem import LayerwiseQuantizationProblem

_DIVERGENCES = {"kl": (kl_divergence, "nats"), "mse": (mean_squared_divergence, ""), "sqnr": (noise_to_signal, "")}
_DEFAULT_SAMPLES = 256
_QUICK_PASSES, _FEWEST_SAMPLES, _MOST_SAMPLES = 20, 8, 64
"""A search needs few samples of it: on ResNet-20, a table of 64 ranks candidates as one of 1,024 does."""
_SMALLER_TABLES = (None, 4), (3, 4), (2, 4), (1, 1)
"""How many choices of a point, None for all, and at least how many samples, where the whole table is too dear."""
_LOG_LIMITS = -690.0, 690.0

Choices = tuple[tuple[int, ...], ...]


class Lacking(NamedTuple):
    """What a quick table left out, and the passes over the search set that the whole one takes, None for no number."""

    text: str
    num_passes: float | None


@dataclass(frozen=True)
class SensitivityTable(Framed):
    """What each point alone does to the output, all others in float; ``print`` shows it.

    Attributes:
        point_names: L names, in the order of the points.
        num_bits: the choices that each point may have, as codes, the cheapest first.
        values: the sensitivity at each of these choices; larger is worse, infinite where the output is not finite.
        metric_name: what was measured.
        unit: of the values; empty where they have none.
        num_samples: samples that were measured on.
        lacking: what was not measured though it should have been, as in a search of a small budget; None for nothing.
    """

    point_names: tuple[str, ...]
    num_bits: tuple[tuple[int, ...], ...]
    values: tuple[tuple[float, ...], ...]
    metric_name: str
    unit: str
    num_samples: int
    lacking: Lacking | None = None

    def rank(self, num_bits: Any = None) -> tuple[str, ...]:
        """Names of the points from the one that suffers most, and so needs bits most, to the one that suffers least.

        Args:
            num_bits: the choice at which they are compared, a width, "off" or a float format in any form; where a point
                may not have it, the one of the nearest stored bits. None takes each point's narrowest.

        Raises:
            ProblemError: ``num_bits`` is a choice for no quantizer.
        """
        wanted = None if num_bits is None else parsed_choice(num_bits, "rank")
        rows = zip(self.num_bits, self.values, strict=True)
        worst = [values[_nearest(codes, wanted)] for codes, values in rows]
        order = sorted(range(len(worst)), key=lambda point: (-worst[point], point))
        return tuple(self.point_names[point] for point in order)

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """One line a point, one column a choice; also written to ``path``."""
        written = csv_table(self._header, self._rows(repr, ""))
        if path is not None:
            write_text(path, written)
        return written

    def __str__(self) -> str:
        header = (
            "point",
            *(f"{code} bit" if 0 < code <= MAX_NUM_BITS else choice_name(code) for code in self._choices),
        )
        table = text_table(header, self._rows("{:.3g}".format, ""), numeric=tuple(range(1, len(header))))
        unit = f" in {self.unit}" if self.unit else ""
        lacking = f" ({self.lacking.text})" if self.lacking else ""
        samples = f"{self.num_samples} samples{lacking}"
        return f"Sensitivity ({self.metric_name}{unit}) of one point at a time, {samples}\n{table}"

    def _frame_rows(self) -> Rows:
        return self._header, self._rows(float, math.nan)

    @property
    def _header(self) -> tuple[str, ...]:
        return ("point", *map(choice_name, self._choices))

    @property
    def _choices(self) -> list[int]:
        return by_stored_bits(code for row in self.num_bits for code in row)

    def _rows(self, written: Callable[[float], Any], unknown: Any) -> list[tuple[Any, ...]]:
        rows = []
        for name, widths, values in zip(self.point_names, self.num_bits, self.values, strict=True):
            known = dict(zip(widths, values, strict=True))
            rows.append((name, *(written(known[code]) if code in known else unknown for code in self._choices)))
        return rows


def _nearest(codes: tuple[int, ...], wanted: int | None) -> int:
    """The place of ``wanted`` in ``codes``, or of the first of those nearest to it; of None the place of the least."""
    if wanted in codes:
        return codes.index(wanted)
    bits = 0.0 if wanted is None else stored_bits(np.array([wanted]))[0]
    return int(np.abs(stored_bits(np.array(codes)) - bits).argmin())


def sensitivity(
    problem: LayerwiseQuantizationProblem,
    metric: str | Callable[[Any, Any], Any] = "auto",
    *,
    num_samples: int | None = None,
    progress: bool | None = None,
    output: Any = None,
) -> SensitivityTable:
    """Measure every point at every choice that it may have, all other points in float.

    Args:
        problem: says which points and choices, and holds the data.
        metric: ``"kl"``, divergence of the softmax from the float network's, or, where outputs are probabilities
            already, of these themselves, as ``metric_name`` says; ``"mse"``, mean squared difference of the outputs;
            ``"sqnr"``, noise power over signal power of the outputs on all samples, the reciprocal of the SQNR, of
            several outputs the mean over them; ``"auto"``, ``"kl"`` where targets are class indices and outputs logits,
            else ``"sqnr"``; ``"accuracy"``, how much worse the problem's own metric is than the float network's; or a
            function ``(output, float_output) -> [B]`` whose scores are larger where the outputs differ more.
        num_samples: samples drawn at random; None takes 256, or all of them for ``"accuracy"``, which
            small sets say little about.
        progress: show a bar on stderr; None shows it on a terminal, and elsewhere a line every half minute.
        output: which of several outputs is judged, see `Metric`; None takes the choice of the problem's metric.

    Raises:
        ProblemError: ``problem`` is none, an unknown metric, or ``num_samples`` that is no positive int.
        MetricError: the metric cannot be had from the network's outputs: ``"kl"`` of several, none of them chosen or
            called ``logits``.
        EvaluationError: the problem's metric is one of a whole set, which allows ``"accuracy"`` only.
    """
    if not isinstance(problem, LayerwiseQuantizationProblem):
        raise ProblemError(
            f"`problem` must be a LayerwiseQuantizationProblem, got {type(problem).__name__}: make one of a calibrated "
            "model and a search set, LayerwiseQuantizationProblem(model, loader)"
        )
    if num_samples is not None and (not is_whole(num_samples) or num_samples < 1):
        raise ProblemError(f"`num_samples` must be a positive int or None, got {num_samples!r}")
    return _table(_judging(problem, output), metric, problem.space.choices, num_samples, progress)


def _judging(problem: LayerwiseQuantizationProblem, output: Any) -> LayerwiseQuantizationProblem:
    judged = copy.deepcopy(problem)  # shares network and data
    judged.metric = judging(problem.metric, output, anew=True)
    return judged


def _table(
    problem: LayerwiseQuantizationProblem,
    metric: Any,
    choices: Choices,
    num_samples: int | None,
    progress: bool | None,
    *,
    directly: bool = False,
) -> SensitivityTable:
    """As `sensitivity`, of some choices of each point; ``directly`` asks the direct evaluator for outputs."""
    if isinstance(metric, str) and metric == "auto":
        return _automatic(problem, choices, num_samples, progress, directly)
    candidates, _ = one_by_one(choices, [0] * len(choices))
    divergence, unit = (None, "") if isinstance(metric, str) and metric == "accuracy" else _divergence(metric)
    with Progress(len(candidates), description="sensitivities", unit="choice", shown=progress) as bar:
        if divergence is None:
            name = f"loss of {problem.metric.name}"
            values, count = _losses(problem, candidates, num_samples, bar.advance)
        else:
            divergence = problem.direct.floats.fitting(divergence, getattr(problem.metric, "output", None))
            size = num_samples or _DEFAULT_SAMPLES
            options: dict[str, Any] = {"directly": directly, "against_float": True, "told": bar.advance}
            scores = looked_at(lambda rows: problem.scores_on_subset(rows, divergence, size, **options), candidates)
            name, values, count = divergence.name, scores.mean(axis=1, dtype=np.float64), scores.shape[1]
    values = np.where(np.isnan(values), np.inf, values)
    rows = np.split(values, np.cumsum([len(row) for row in choices])[:-1])
    names = tuple(problem.model.fake_quantizers)
    return SensitivityTable(names, choices, tuple(tuple(row.tolist()) for row in rows), name, unit, count)


def _automatic(
    problem: LayerwiseQuantizationProblem,
    choices: Choices,
    num_samples: int | None,
    progress: bool | None,
    directly: bool,
) -> SensitivityTable:
    data = problem.direct.data
    *first, last = usual_divergences(None if data is None else next(iter(data))[1])
    for metric in first:
        try:
            return _table(problem, metric, choices, num_samples, progress, directly=directly)
        except MetricError:
            pass  # class indices, but no logits
    return _table(problem, last, choices, num_samples, progress, directly=directly)


def _losses(
    problem: LayerwiseQuantizationProblem, candidates: Candidates, num_samples: int | None, told: Told
) -> tuple[NDArray[np.float64], int]:
    """How much worse than the float network the problem's metric is, and on how many samples."""
    metric = problem.metric
    everything = np.concatenate([np.zeros((1, problem.space.num_points), dtype=np.int64), candidates])
    if isinstance(metric, Metric):
        size = num_samples or problem.num_samples
        scores = looked_at(lambda rows: problem.scores_on_subset(rows, metric, size, told=told), everything)
        summed, count = np.array([metric.summarize(row) for row in scores]), scores.shape[1]
    else:
        summed, count = np.full(len(everything), np.nan), problem.num_samples
        for place, evaluation in enumerate(problem.direct.evaluate(everything)):
            summed[place] = evaluation.score
            told(1)
    return metric.gain(summed[0] - summed[1:]), count


def _divergence(metric: Any) -> tuple[Metric, str]:
    if isinstance(metric, str) and metric in _DIVERGENCES:
        return _DIVERGENCES[metric]
    if isinstance(metric, Metric):
        return next((known for known in _DIVERGENCES.values() if known[0] is metric), (metric, ""))
    if callable(metric):
        return loss(metric, as_metric(metric).name), ""
    names = ", ".join(map(repr, (*_DIVERGENCES, "accuracy")))
    raise ProblemError(f"the metric of a sensitivity must be one of {names} or a function, got {metric!r}")


def quick_table(
    problem: LayerwiseQuantizationProblem,
    most_passes: float = math.inf,
    progress: bool | None = False,
    most_seconds: float = math.inf,
) -> tuple[SensitivityTable, float]:
    """A table of few samples, and the passes over the search set that it cost, ``most_passes`` at most.

    Of 8 samples or more where these can be afforded; else of fewer samples, then of fewer choices, the others by
    interpolation: its ``lacking`` says so. Where none can be had, all points suffer alike: a quarter of the noise power
    at each further bit. Samples are counted as they are run: an engine that keeps the loader's batches runs whole ones,
    and where these are too dear the direct evaluator cuts them, if they can be cut. Under ``most_seconds`` a few
    choices are timed first, whose passes count besides.
    """
    choices, size = problem.space.choices, problem.num_samples
    reason = "" if size else f"the metric '{problem.metric.name}' reads the set itself"
    clock, tried = _Clock(problem, most_seconds), 0.0
    for affordable in _plans(problem, most_passes) if size else ():
        plan = clock.kept_to(affordable)
        tried = clock.num_samples / size
        if plan is None:
            continue
        try:
            table = _table(problem, "auto", plan.choices, plan.num_samples, progress, directly=plan.directly)
        except (EvaluationError, MetricError) as error:
            reason = first_line(error)
            if plan.directly and isinstance(error, EvaluationError):
                continue  # it cannot be run on a part of a batch; fewer choices may have a whole one
            break
        values = tuple(map(_filled, plan.choices, table.values, choices))
        lacking = _lacking(problem, table.num_samples, plan.most)
        cost = table.num_samples * sum(map(len, plan.choices)) / size
        return replace(table, num_bits=choices, values=values, lacking=lacking), cost + tried
    if reason:
        lacking = Lacking(f"a sensitivity table, so that all points are taken to suffer alike: {reason}", None)
    else:
        lacking = _lacking(problem, 0, None)
    alike = tuple(tuple((4.0 ** -stored_bits(np.array(row))).tolist()) for row in choices)
    return SensitivityTable(tuple(problem.model.fake_quantizers), choices, alike, "none", "", 0, lacking), tried


class _Plan(NamedTuple):
    """A table that can be afforded: which choices, of how many samples; ``most`` choices of a point, None for all."""

    choices: Choices
    most: int | None
    num_samples: int
    directly: bool


class _Clock:
    """Holds plans to ``most_seconds`` from now on; without a limit nothing is timed, and each is kept."""

    def __init__(self, problem: LayerwiseQuantizationProblem, most_seconds: float) -> None:
        self._problem = problem
        self._end = now() + most_seconds
        self._paces: dict[bool, Pace] = {}

    @property
    def num_samples(self) -> int:
        """Samples that were run to learn the pace."""
        return sum(pace.num_samples for pace in self._paces.values())

    def kept_to(self, plan: _Plan) -> _Plan | None:
        """``plan``, on no more samples than its pace is known for; None where it would take too long."""
        if math.isinf(self._end):
            return plan
        candidates, _ = one_by_one(plan.choices, [0] * len(plan.choices))
        if plan.directly not in self._paces:
            self._paces[plan.directly] = Pace(self._problem, candidates, plan.num_samples, directly=plan.directly)
        pace = self._paces[plan.directly]
        is_in_time = now() + pace.seconds(len(candidates)) <= self._end
        return plan._replace(num_samples=min(plan.num_samples, pace.count)) if is_in_time else None


def _plans(problem: LayerwiseQuantizationProblem, most_passes: float) -> Iterator[_Plan]:
    """Tables of ``most_passes`` at most, the one that says most first."""
    for most, fewest in ((None, _FEWEST_SAMPLES), *_SMALLER_TABLES):
        choices = tuple(_thinned(row, most) for row in problem.space.choices)
        for evaluator in dict.fromkeys((problem.evaluator, problem.direct)):
            count = _quick_count(evaluator, sum(map(len, choices)), problem.num_samples, most_passes, fewest)
            if count:
                yield _Plan(choices, most, count, evaluator is not problem.evaluator)


def quick_samples(total: int, size: int) -> int:
    """How many samples a search takes for a table of ``total`` choices on a set of ``size``."""
    return min(int(np.clip(_QUICK_PASSES * size // total, _FEWEST_SAMPLES, _MOST_SAMPLES)), size)


def _quick_count(evaluator: Evaluator, total: int, size: int, most_passes: float, fewest: int) -> int:
    """Samples to ask for in a table of ``total`` choices on a set of ``size``; 0 where too few can be afforded."""
    affordable = most_passes * size / total
    most = quick_samples(total, size)
    counts = range(int(min(most, affordable)), min(fewest, size) - 1, -1)
    return next((count for count in counts if evaluator.subset_size(count) <= affordable), 0)


def _lacking(problem: LayerwiseQuantizationProblem, count: int, most: int | None) -> Lacking | None:
    """In words that go on after "left out:"; None where ``count`` samples of ``most`` choices of a point are enough."""
    total, size = sum(map(len, problem.space.choices)), problem.num_samples
    enough = min(_FEWEST_SAMPLES, size)
    if count >= enough and most is None:
        return None
    least = min(evaluator.subset_size(enough) for evaluator in (problem.evaluator, problem.direct))
    passes = least * total / size
    whole = f"all {total} choices on {least} samples take {passes:.3g} passes"
    if not count:
        return Lacking(f"a sensitivity table, so that all points are taken to suffer alike ({whole})", passes)
    of = "every choice" if most is None else f"{most} of each point's choices, the others estimated"
    return Lacking(
        f"a part of the sensitivity table, which has {count} sample{'s' if count > 1 else ''} of {of} ({whole})", passes
    )


def _thinned(row: tuple[int, ...], most: int | None) -> tuple[int, ...]:
    """Up to ``most`` choices of a point: the narrowest, the widest but for off, and some between."""
    quantized = [code for code in row if code] or list(row)
    if most is None or len(quantized) <= most:
        return row
    return tuple(quantized[place] for place in np.linspace(0, len(quantized) - 1, most).round().astype(int))


def _filled(measured: tuple[int, ...], values: tuple[float, ...], row: tuple[int, ...]) -> tuple[float, ...]:
    """Sensitivities at all choices of a point from those ``measured``, the narrowest among them.

    Between two the logarithm goes in a line with the bits; beyond the last the noise power falls to a quarter a bit.
    """
    if measured == row:
        return values
    bits, wanted = stored_bits(np.array(measured)), stored_bits(np.array(row))
    logs = np.log(np.clip(values, *np.exp(_LOG_LIMITS)))
    beyond = max(0.0, wanted.max() - bits.max())
    ends = np.append(bits, bits[-1] + beyond + 1), np.append(logs, logs[-1] - (beyond + 1) * math.log(4))
    filled = np.interp(wanted, *ends)
    known = dict(zip(measured, values, strict=True))
    return tuple(
        known.get(code, 0.0 if code == 0 or log <= _LOG_LIMITS[0] else math.exp(log))
        for code, log in zip(row, filled.tolist(), strict=True)
    )
