"""How far a candidate's outputs are from the float network's, told beside its score."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qexplore._trees import cloned, num_bytes, tensors_of
from qexplore.errors import EvaluationError, MetricError, first_line
from qexplore.evaluation.out_of_memory import is_out_of_memory
from qexplore.evaluation.scoring import batch_scores
from qexplore.metrics import (
    FEWEST_ROWS,
    Distribution,
    Metric,
    OfProbabilities,
    Output,
    Scores,
    WholeSetMetric,
    between_outputs,
    gives_probabilities,
    kl_divergence,
    kl_of_probabilities,
    loss,
    mean_squared_divergence,
    noise_to_signal,
)

SHARE_OF_MEMORY = 4
"""One part in so many of what the set may take is for the float network's outputs: those of classifiers are far smaller
than their inputs, and what is as large as an image for each image must not push the set itself out of memory."""


def usual_divergences(target: Any) -> tuple[Metric, ...]:
    """What tells outputs apart, the first that they allow: of logits, where targets are class indices, in nats."""
    has_classes = isinstance(target, Tensor) and not target.is_floating_point()
    return (kl_divergence, noise_to_signal) if has_classes else (noise_to_signal,)


class Against(NamedTuple):
    """A batch's target, and what the float network gives for it."""

    target: Any
    reference: Any

    def nothing(self) -> Tensor:
        """Divergences of the float network's own outputs, shape ``[B]``."""
        first = tensors_of(self.reference)[0]
        return torch.zeros(len(first), device=first.device)


def as_distances(divergences: Scores) -> Scores:
    """``divergences`` in which what is no number is as far away as can be: outputs that hold NaN."""
    return np.where(np.isnan(divergences), np.float32(np.inf), divergences)


class FloatOutputs:
    """The float network's outputs on the evaluation set, by its batches, and the divergence of others from them.

    They come from the pass that measures the float network, and are kept where that lies. Pickling leaves them behind.

    Args:
        asked: the divergence, ``metric(output, float_output) -> [B]``; ``"auto"`` takes the first of
            `usual_divergences` that the outputs allow; None wants none.
        scored: what candidates are scored by. Samples that do not count there do not count here, nor do tokens or
            pixels with its ignored label in what is measured in nats.

    Raises:
        EvaluationError: ``asked`` is none of these.
    """

    def __init__(self, asked: Metric | str | None, scored: Metric | WholeSetMetric) -> None:
        if not (asked is None or isinstance(asked, Metric) or asked == "auto"):
            raise EvaluationError(
                '`divergence` must be a qexplore.Metric (output, float_output) -> [B], "auto" or None, got '
                f"{asked!r}: qexplore.Metric(f, higher_is_better=False) makes one of a function"
            )
        own = asked.output if isinstance(asked, Metric) else None
        self._output: Output | None = own or getattr(scored, "output", None)
        self._asked = replace(asked, output=None) if isinstance(asked, Metric) and own else asked
        self._scored = scored
        self._plain: Metric | None = None  # takes what was chosen already
        self._num_samples = 0
        self.are_probabilities = False
        """Whether the float network's outputs are probabilities, by their values; False where none is read."""
        self.version: Hashable = None
        """Of the network that the outputs are of; None before there are any."""
        self.metric: Metric | None = None
        """Fitted to the whole set, and to be fitted to no part of it; None where no divergence is told."""
        self.gap = ""
        """Why none is told; empty where one is."""
        self.batches: list[Any] = []
        self._limit = 0
        self._has_ignored = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"batches": [], "version": None}

    @property
    def is_wanted(self) -> bool:
        """Whether a divergence was asked for and outputs are seen."""
        return self._asked is not None and isinstance(self._scored, Metric)

    def begin(self, limit: int) -> None:
        """Forget what is known; ``limit`` bytes may be kept of the pass that comes."""
        self.version, self.metric, self._plain, self.batches = None, None, None, []
        self._limit, self._num_samples, self._has_ignored, self.are_probabilities = limit, 0, False, True
        self.gap = "none was asked for" if self._asked is None else ""
        if not self.gap and not self.is_wanted:
            self.gap = f"the metric '{self._scored.name}' reads the set itself"

    def add(self, output: Any, target: Any, count: int) -> None:
        """Take the float network's output for the next batch, of ``count`` samples."""
        if self.gap:
            return
        output, self._num_samples = self._chosen(output), self._num_samples + count
        if self.are_probabilities and not gives_probabilities(output):
            self._take_for_logits()
        if self._plain is None:
            self._choose(output, target, count)
        if self._plain is not None:
            self.batches.append(self._read(output))
            self._limit -= num_bytes(self.batches[-1])
            self._has_ignored = self._has_ignored or self._ignores(target)
        if self._limit < 0:
            self._give_up("the float network's outputs take more than their share of memory, see hold_bytes")

    def finish(self, version: Hashable) -> None:
        """All batches are seen: fit to them."""
        self.version = version
        if self.gap or self._num_samples < FEWEST_ROWS:
            self._take_for_logits()
        if self._plain is None:
            return
        if self._plain.fit is not None:
            # Fitted once for all: parts of the set are then told in the same unit.
            try:
                fitted = self._plain.fitted(self.batches)
            except MetricError as error:
                return self._give_up(first_line(error))
            self._plain = Metric(fitted.function, fitted.name, fitted.higher_is_better, fitted.range)
        self.metric = self.fitting(self._plain, self._output)

    def scores(self, output: Any, target: Any, reference: Any) -> Tensor | None:
        """Divergences of a batch, shape ``[B]``, from what the float network gave for it; None where none is told."""
        if self._plain is None:
            return None
        try:
            output = self._chosen(output)
            if isinstance(reference, Distribution):
                return self._in_nats(reference.divergences(output), target)
            return batch_scores(self._plain, output, None, reference)
        except Exception as error:
            if is_out_of_memory(error):
                raise  # with smaller batches there may be room
            self._give_up(first_line(error))
            return None

    def read(self, output: Any) -> Any:
        """A copy of what is read of the float network's ``output``."""
        return self._read(self._chosen(output))

    def _read(self, output: Any) -> Any:
        """A copy of what the divergence reads of an output: not what a language model remembers, for one."""
        assert self._plain is not None
        if self._plain is kl_divergence:
            return (OfProbabilities if self.are_probabilities else Distribution).of(output)
        if self._plain is noise_to_signal or self._plain is mean_squared_divergence:
            return [leaf.clone() for leaf in tensors_of(output) if leaf.is_floating_point() and leaf.dim()]
        return cloned(output)

    def _chosen(self, output: Any) -> Any:
        return output if self._output is None else self._output(output)

    def fitting(self, divergence: Metric, output: Output | None) -> Metric:
        """``divergence`` of the ``output`` that is chosen; of what is known as probabilities, without a softmax."""
        if divergence is kl_divergence and self.are_probabilities and output == self._output:
            divergence = kl_of_probabilities
        return between_outputs(divergence, output)

    def _take_for_logits(self) -> None:
        """Outputs are probabilities where those of all batches are; what was read as such before is mended."""
        if self.are_probabilities and self._plain is kl_divergence:
            self.batches = [Distribution.of(batch.probabilities) for batch in self.batches]
        self.are_probabilities = False

    @property
    def between(self) -> Metric:
        """`scores` as a metric whose targets are `Against`."""
        assert self.metric is not None
        return loss(self._between, self.metric.name)

    def _between(self, output: Any, against: Against) -> Tensor:
        found = self.scores(output, *against)
        if found is None:
            raise MetricError(self.gap)
        return found.masked_fill(found.isnan(), math.inf)

    def _in_nats(self, divergences: Tensor, target: Any) -> Tensor:
        """Means over the positions of each sample that count, from divergences ``[B, ...]``."""
        if divergences.dim() > 1 and self._has_ignored:
            counted = (target.to(divergences.device) != self._ignored).flatten(1)
            summed = torch.where(counted, divergences.flatten(1), 0.0).sum(dim=1)
            means: Tensor = summed / counted.sum(dim=1).clamp(min=1)
            return means.clamp(min=0)
        return divergences.reshape(len(divergences), -1).mean(dim=1).clamp(min=0)  # rounding leaves about -1e-7

    def _choose(self, output: Any, target: Any, count: int) -> None:
        asked = (self._asked,) if isinstance(self._asked, Metric) else usual_divergences(target)
        for metric in asked:
            try:
                found = len(batch_scores(metric, output, None, output))
                if found == count:
                    self._plain, self.gap = metric, ""
                    return
                self.gap = f"'{metric.name}' gives {found} numbers for {count} samples"
            except Exception as error:
                self.gap = first_line(error)

    @property
    def _ignored(self) -> int | None:
        return self._scored.ignored if isinstance(self._scored, Metric) else None

    def _ignores(self, target: Any) -> bool:
        """Whether parts of samples do not count."""
        is_fine = isinstance(target, Tensor) and target.dim() > 1 and not target.is_floating_point()
        return self._plain is kl_divergence and is_fine and bool((target == self._ignored).any())

    def _give_up(self, why: str) -> None:
        self.metric, self._plain, self.batches, self.gap = None, None, [], why
