"""What a metric is: a function of a batch with a direction and a range."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qexplore._arguments import nearest_keyword
from qexplore._direction import Directed
from qexplore._pickling import require_a_name
from qexplore.errors import MetricError, QExploreError
from qexplore.metrics.output import Output

Scores = NDArray[np.float32]
_UNBOUNDED = (-math.inf, math.inf)

NOT_COUNTED = -math.inf
"""Score of a sample that does not count, for metrics with ``ignored``; no mean holds it."""


def _identity(mean: float) -> float:
    return mean


@dataclass(frozen=True)
class _Ranged(Directed):
    """What every metric has."""

    function: Callable[[Any, Any], Any]
    name: str = ""
    higher_is_better: bool = True
    range: tuple[float, float] = _UNBOUNDED

    def __post_init__(self) -> None:
        self._require_callable("function", self.function)
        if not self.name:  # an accuracy is no word for an error
            object.__setattr__(self, "name", "accuracy" if self.higher_is_better else _loss_name(self.function))
        self._check_range("range", self.range)

    def _require_callable(self, field: str, value: Any) -> None:
        if not callable(value):
            raise MetricError(f"`{field}` of the metric '{self.name}' must be a function, got {value!r}")

    def _check_range(self, field: str, value: Any) -> None:
        # A comparison with NaN is False.
        if not (isinstance(value, Sequence) and len(value) == 2 and value[0] < value[1]):
            raise MetricError(f"`{field}` of the metric '{self.name}' must be (low, high) with low < high, got {value}")

    def __getstate__(self) -> dict[str, Any]:
        for value in vars(self).values():
            require_a_name(f"the metric '{self.name}'", value, MetricError)
        return self.__dict__.copy()

    @property
    def worst(self) -> float | None:
        """The worst score there is; None where scores have no limit on that side."""
        return _finite(min(self.range, key=self.gain))

    @property
    def best(self) -> float | None:
        """The best score there is; None where scores have no limit on that side."""
        return _finite(max(self.range, key=self.gain))


def _finite(limit: float) -> float | None:
    return float(limit) if math.isfinite(limit) else None


@dataclass(frozen=True)
class Metric(_Ranged):
    """A score per sample.

    Args:
        function: ``function(output, target) -> scores``; the network's output for a batch and the batch's target give
            one score per sample, shape ``[B]``. It leaves both as they are: other candidates are scored by them too.
        name: how tables and pictures call it; "accuracy" unless given, and the function's own name where lower is
            better.
        higher_is_better: the direction.
        range: least and greatest possible value of the metric.
        of_mean: increasing function from the mean of all scores to the metric; the mean itself unless given. What is no
            function of a mean over samples is a `whole_set` metric.
        sample_range: least and greatest possible score of a sample, by which candidates are stopped early: ``range``
            itself unless given where the metric is the plain mean of its scores, and not known where it is another
            function of it, or has a ``fit``.
        ignored: label of targets that do not count. A sample all of whose labels are ignored scores `NOT_COUNTED` and
            is left out of the mean. Which samples count must depend on their targets alone.
        fit: ``fit(targets) -> function``, for scores that need to have seen all targets of a set: what a sample
            contributes to a ratio of sums over the set, say. Evaluators call `fitted` before they measure.
        output: which of several outputs of the network is judged: its place, its name, or a function of all that the
            network gives, whose result ``function`` gets then. None gives ``function`` all; the metrics of qexplore
            refuse several floating outputs, unless one is called ``logits``.
    """

    function: Callable[[Any, Any], Tensor]
    of_mean: Callable[[float], float] = field(default=_identity, repr=False)
    ignored: int | None = field(default=None, repr=False)
    fit: Callable[[Iterable[Any]], Callable[[Any, Any], Tensor]] | None = field(default=None, repr=False)
    sample_range: tuple[float, float] | None = field(default=None, repr=False)
    output: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_callable("of_mean", self.of_mean)
        if self.fit is not None:
            self._require_callable("fit", self.fit)
        object.__setattr__(self, "output", Output.of(self.output))
        if self.sample_range is not None:
            self._check_range("sample_range", self.sample_range)

    def __call__(self, output: Any, target: Any) -> Tensor:
        """Scores of one batch, shape ``[B]``."""
        return self.function(output if self.output is None else self.output(output), target)

    @property
    def is_mean(self) -> bool:
        """Whether the metric is the mean of the scores itself."""
        return self.of_mean is _identity

    @property
    def best_sample(self) -> float | None:
        """The best score that a sample can have; None where that has no limit, or is not known."""
        known = self.limits_of_sample
        return None if known is None else _finite(max(known, key=self.gain))

    @property
    def limits_of_sample(self) -> tuple[float, float] | None:
        """`sample_range`; unless given, `range` where the metric is the plain mean of its scores, else None."""
        return self.range if self.sample_range is None and self.is_mean and self.fit is None else self.sample_range

    def at_mean(self, mean: float) -> float:
        """The metric where the scores have this mean; NaN where `of_mean` has no value."""
        try:
            with np.errstate(all="ignore"):  # numpy's functions warn and give NaN where others raise
                return float(self.of_mean(mean))
        except (ArithmeticError, ValueError):
            return math.nan

    def fitted(self, targets: Iterable[Any]) -> Metric:
        """The metric for the set that has these targets, batch by batch; itself where it needs no fit.

        Raises:
            MetricError: `fit` raised.
        """
        if self.fit is None:
            return self
        try:
            return replace(self, function=self.fit(targets))
        except QExploreError:
            raise
        except Exception as error:
            raise MetricError(
                f"the metric '{self.name}' could not be fitted to the set's targets: {type(error).__name__}: {error}"
            ) from error

    def counts(self, scores: Scores) -> NDArray[np.bool_]:
        """Which of ``scores``, of any shape, are of samples that count."""
        return np.ones(scores.shape, dtype=bool) if self.ignored is None else scores != NOT_COUNTED

    def summarize(self, scores: Scores) -> float:
        """The metric from the scores of all samples, shape ``[num_samples]``.

        Raises:
            MetricError: no sample counts; or `of_mean` has no value for their mean.
        """
        counted = scores[self.counts(scores)]
        if not len(counted) and len(scores):
            raise MetricError(
                f"the metric '{self.name}' needs samples that count, got {len(scores)} whose labels are all "
                f"{self.ignored}, which it ignores: look at the targets"
            )
        # In float64 the mean of zeros and ones is the exact count over the exact number, whatever the batches were.
        mean = float(np.mean(counted, dtype=np.float64))
        try:
            return float(self.of_mean(mean))
        except OverflowError:
            raise MetricError(f"the metric '{self.name}' is too large for a float: a mean score of {mean:g}") from None
        except (ArithmeticError, ValueError) as error:
            raise MetricError(f"the metric '{self.name}' has no value at a mean score of {mean:g}: {error}") from error


# A dataclass writes its constructor itself.
Metric.__init__ = nearest_keyword(Metric.__init__)  # type: ignore[method-assign]

loss = functools.partial(Metric, higher_is_better=False, range=(0.0, math.inf))
"""A metric of which less is better, and 0 the best."""


@dataclass(frozen=True)
class WholeSetMetric(_Ranged):
    """A number for a whole set: ``function(model, loader) -> float``. Made by `whole_set`."""

    function: Callable[[Any, Any], float]
    name: str = "score"

    def __call__(self, model: Any, loader: Any) -> float:
        """The metric of ``model`` on ``loader``."""
        return self.function(model, loader)


def whole_set(
    function: Callable[[Any, Any], float],
    *,
    name: str | None = None,
    higher_is_better: bool = True,
    range: tuple[float, float] = _UNBOUNDED,
) -> WholeSetMetric:
    """Mark ``function(model, loader) -> float`` as a metric of the whole set, for scores that are no mean over samples.

    The function gets the quantized model in eval mode and the loader that the problem was given.

    Raises:
        MetricError: ``function`` cannot be called.
    """
    if not callable(function):
        raise MetricError(f"whole_set takes a function f(model, loader) -> float, got {function!r}")
    return WholeSetMetric(function, name or _name_of(function), higher_is_better, range)


_READY_MADE = "qexplore.top1_accuracy, topk_accuracy(k), negative_log_likelihood, perplexity, squared_error and others"


def as_metric(metric: Any) -> Metric | WholeSetMetric:
    """``metric`` itself, or a plain ``function(output, target)`` as a metric where higher is better.

    Raises:
        MetricError: it is neither, or a function that does not take these two.
    """
    if isinstance(metric, (Metric, WholeSetMetric)):
        return metric
    must = "a metric must be a qexplore.Metric or a function (output, target) -> scores [B], got"
    if isinstance(metric, str):
        raise MetricError(f"{must} {metric!r}: {_READY_MADE} are ready made")
    if isinstance(metric, type) or not callable(metric):
        raise MetricError(f"{must} {metric!r}")
    try:
        parameters = inspect.signature(metric)
        parameters.bind(None, None)
    except ValueError:
        pass  # a built-in function that does not tell its parameters
    except TypeError:
        raise MetricError(
            f"{must} {_name_of(metric)}{parameters}: where it is a function that makes a metric, call it, as in "
            "qexplore.topk_accuracy(5)"
        ) from None
    return Metric(metric, _name_of(metric))


def judging(metric: Metric | WholeSetMetric, output: Any, *, anew: bool = False) -> Metric | WholeSetMetric:
    """``metric`` of the ``output`` that is chosen; None leaves it as it is. Its own choice goes first, unless ``anew``.

    Raises:
        MetricError: ``output`` is no choice, or the metric is one of a whole set.
    """
    chosen = Output.of(output)
    if chosen is None:
        return metric
    if isinstance(metric, WholeSetMetric):
        raise MetricError(
            f"`output` must be left out for the metric '{metric.name}', which runs the network itself, got {chosen}: "
            "choose inside its function"
        )
    return metric if metric.output is not None and not anew else replace(metric, output=chosen)


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _loss_name(function: Any) -> str:
    name = str(getattr(function, "__name__", ""))
    return name if name.isidentifier() else "loss"
