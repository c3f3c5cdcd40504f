"""Outputs of many candidates for one batch, scored together where that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qexplore._trees import map_tensors
from qexplore.evaluation.agreement import is_close
from qexplore.evaluation.divergence import Against, FloatOutputs, as_distances
from qexplore.evaluation.network import Network, equal
from qexplore.evaluation.samples import Batch, Samples
from qexplore.evaluation.scoring import batch_scores
from qexplore.evaluation.time_limit import OutOfTime, TimeLimit
from qexplore.metrics import Metric, Scores
from qexplore.model import measuring

_MOST_TOGETHER = 112
"""Candidates whose outputs are scored at once: to start a metric's dozen small operations costs more than they do."""
_MOST_BYTES = 2**20
_EXAMPLE_SIZE = 8


def can_be_stacked(
    metric: Metric, network: Network, samples: Samples, floats: FloatOutputs | None, seconds: float | None = None
) -> bool:
    """Whether ``metric`` gives the same to the last bit for the outputs of two candidates at once.

    A metric is a function of samples, so it should; one that looks at its batch as a whole does not. The divergence
    from the outputs of ``floats`` has to be the same but for rounding. What takes more than ``seconds`` cannot.
    """
    if not samples.can_be_cut:
        return False
    batch = samples.fetched(samples.part(0, min(_EXAMPLE_SIZE, len(samples))))
    candidates = [0] * network.num_points, [2] * network.num_points
    try:
        with torch.inference_mode(), measuring(network.device), TimeLimit().around(seconds):
            outputs = [network.run(batch.inputs, candidate) for candidate in candidates]
            apart = [batch_scores(metric, output, batch.inputs, batch.target) for output in outputs]
            together = metric(torch.cat(outputs), _repeated(batch.target, 2))
            if not equal(torch.cat(apart), together.detach().float()):
                return False
            return floats is None or _is_stacked(floats, outputs, batch)
    except (Exception, OutOfTime):
        return False  # an output or a target of another form, or a metric that wants its batch as it is


def _is_stacked(floats: FloatOutputs, outputs: Sequence[Tensor], batch: Batch) -> bool:
    apart = [floats.scores(output, batch.target, batch.reference) for output in outputs]
    together = floats.scores(torch.cat(list(outputs)), _repeated(batch.target, 2), _all_repeated(batch.reference, 2))
    return together is None or is_close(torch.cat([one for one in apart if one is not None]), together)


@dataclass(frozen=True)
class Scored:
    """Scores of some candidates for one batch, where they were computed.

    Attributes:
        rows: the candidates' places among those of the call.
        samples: the samples' places in the set.
        scores: shape ``[len(rows) * len(samples)]``, one candidate after the other.
        divergences: from the float network's outputs, likewise; None where none is told.
    """

    rows: NDArray[np.int64]
    samples: NDArray[np.int64]
    scores: Tensor
    divergences: Tensor | None = None


def write(parts: Sequence[Scored], scores: Scores, divergences: Scores) -> None:
    """Put ``parts`` into ``scores`` and ``divergences``, each of shape ``[N, num_samples]``.

    They are brought to the CPU together, waiting once. What is no number there is as far away as can be.
    """
    found = [(part, part.scores, scores) for part in parts]
    found += [(part, part.divergences, divergences) for part in parts if part.divergences is not None]
    if not found:
        return
    values = torch.cat([tensor for _, tensor, _ in found]).cpu().numpy()
    ends = np.cumsum([len(tensor) for _, tensor, _ in found])
    for (part, _, whole), chunk in zip(found, np.split(values, ends[:-1]), strict=True):
        chunk = chunk if whole is scores else as_distances(chunk)
        whole[np.ix_(part.rows, part.samples)] = chunk.reshape(len(part.rows), -1)


class Outputs:
    """Takes outputs as they come and scores them, without waiting for an accelerator.

    Args:
        metric: per sample.
        batch: what the outputs belong to.
        rows: places of a schedule's candidates among those of the call.
        stacks: score several outputs together.
        floats: tells how far they are from the float network's; None tells nothing of it.
    """

    def __init__(
        self,
        metric: Metric,
        batch: Batch,
        rows: NDArray[np.int64],
        *,
        stacks: bool,
        floats: FloatOutputs | None = None,
    ) -> None:
        self._metric = metric
        self._floats = floats
        self._batch = batch
        self._rows = rows
        self._most = _MOST_TOGETHER if stacks else 1
        self._waiting: list[Tensor] = []
        self._places: list[int] = []
        self._stacked: dict[int, tuple[Any, Any]] = {}
        self._scored: list[Scored] = []

    def add(self, output: Any, places: Sequence[int], *, are_stacked: bool = False) -> None:
        """Take the output of the candidates ``places``: one for all of them, or theirs one after the other."""
        if self._most == 1 or not isinstance(output, Tensor):
            # Its first axis need not count samples, so its length says nothing of how many there are.
            parts = output.chunk(len(places)) if are_stacked else [output] * len(places)
            for place, part in zip(places, parts, strict=True):
                self._score_apart(part, place)
            return
        if not are_stacked and len(places) > 1:
            output = torch.cat([output] * len(places))
        self._waiting.append(output)
        self._places += places
        if len(self._places) >= self._most or len(self._places) * output.nbytes > _MOST_BYTES * len(places):
            self._score_waiting()

    def scored(self) -> list[Scored]:
        """The scores of all outputs that were taken."""
        self._score_waiting()
        return self._scored

    def _score_apart(self, output: Any, place: int) -> None:
        scores = batch_scores(self._metric, output, self._batch.inputs, self._batch.target)
        self._take(scores, [place], output, self._batch.target, self._batch.reference)

    def _score_waiting(self) -> None:
        if not self._waiting:
            return
        outputs = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)
        target, reference = self._repeated(len(self._places))
        self._take(batch_scores(self._metric, outputs, None, target), self._places, outputs, target, reference)
        self._waiting, self._places = [], []

    def _take(self, scores: Tensor, places: Sequence[int], output: Any, target: Any, reference: Any) -> None:
        divergences = None if self._floats is None else self._floats.scores(output, target, reference)
        self._scored.append(Scored(self._rows[places], self._batch.samples, scores, divergences))

    def _repeated(self, count: int) -> tuple[Any, Any]:
        """Target and reference of the batch for outputs of ``count`` candidates."""
        if count not in self._stacked:
            batch = self._batch
            self._stacked[count] = _repeated(batch.target, count), _all_repeated(batch.reference, count)
        return self._stacked[count]


def _repeated(target: Any, count: int) -> Any:
    if target is not None and not isinstance(target, (Tensor, Against)):
        raise TypeError("only a tensor can be repeated")
    return _all_repeated(target, count)


def _all_repeated(tree: Any, count: int) -> Any:
    return map_tensors(lambda tensor: tensor.repeat(count, *[1] * (tensor.dim() - 1)), tree)
