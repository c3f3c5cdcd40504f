"""Looks at a part of the set, hundreds of times: what they need is made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from qexplore._trees import num_bytes
from qexplore.evaluation.base import Told
from qexplore.evaluation.divergence import Against, FloatOutputs
from qexplore.evaluation.engine import Engine
from qexplore.evaluation.samples import Samples
from qexplore.evaluation.time_limit import TimeLimit
from qexplore.metrics import Metric, Scores
from qexplore.model import Candidates

_MOST_KEPT = 2
"""A search looks by turns at divergences and, on large sets, at its own metric's scores."""
_SHARE = 16
"""Of the budget, for the samples of a part that is kept, and again for its values of the first layers."""


class _Asked(NamedTuple):
    """What makes two looks the same; ``metric`` is compared by identity, for a function of a user's may not compare."""

    metric: int
    num_samples: int
    against_float: bool


class Parts:
    """Engines for parts of a set, those asked last kept with their values of the first layers.

    Args:
        whole: runs the whole set; a part shares its steps and workers.
        samples: the whole set.
        metric: of the whole set.
        floats: the float network's outputs there.
        seconds: that so many candidates may take together; None for no limit.
    """

    def __init__(
        self,
        whole: Engine,
        samples: Samples,
        metric: Metric,
        floats: FloatOutputs,
        seconds: Callable[[int], float | None] = lambda _: None,
    ) -> None:
        self._whole = whole
        self._samples = samples
        self._metric = metric
        self._floats = floats
        self._seconds = seconds
        self._clock = whole.workers.clock or TimeLimit()
        self._kept: dict[_Asked, tuple[Metric, Engine]] = {}

    def scores(
        self, candidates: Candidates, metric: Metric, num_samples: int, *, against_float: bool, told: Told
    ) -> Scores:
        """Scores of ``candidates``, shape ``[N, L]``, on about ``num_samples`` samples: shape ``[N, samples]``.

        Args:
            candidates: codes.
            metric: per sample.
            num_samples: how many; fewer where the float network's outputs would take more than their share of memory.
            against_float: give the metric the float network's output in place of the target.
            told: as for the engine.
        """
        asked = _Asked(id(metric), num_samples, against_float)
        try:
            engine = self._engine(asked, metric)
            engine.told = told
            with self._clock.around(self._seconds(len(candidates))):
                return np.compress(engine.counted, engine.measure(candidates).scores, axis=1)
        except BaseException:
            self.close()  # what is kept may be what memory lacks
            raise

    def subset_size(self, num_samples: int) -> int:
        """How many samples `scores` runs, at most, when asked for ``num_samples``."""
        return self._samples.part_size(num_samples)

    def close(self) -> None:
        """Forget what is kept."""
        for _, engine in self._kept.values():
            engine.forget()
        self._kept.clear()

    def _engine(self, asked: _Asked, metric: Metric) -> Engine:
        if asked in self._kept:
            self._kept[asked] = self._kept.pop(asked)  # the last one asked stands last
            return self._kept[asked][1]
        part, size = self._part(asked, metric)
        engine = Engine(
            self._whole.network,
            part,
            self._as_asked(asked, metric, part),
            self._whole.budget_bytes,
            stops=False,
            has_known_labels=metric is self._metric and not asked.against_float,
            like=self._whole,
            share_kept=1 / _SHARE,
            seconds=self._clock.seconds,
        )
        if size <= self._whole.budget_bytes // _SHARE:
            while len(self._kept) >= _MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))[1].forget()
            self._kept[asked] = metric, engine
        return engine

    def _as_asked(self, asked: _Asked, metric: Metric, part: Samples) -> Metric:
        return self._floats.between if self._is_told(asked, metric) else metric.fitted(part.targets)

    def _is_told(self, asked: _Asked, metric: Metric) -> bool:
        """Whether the divergence is asked for that evaluations tell."""
        return asked.against_float and metric is self._floats.metric

    def _part(self, asked: _Asked, metric: Metric) -> tuple[Samples, int]:
        """The samples, and the bytes that they take."""
        chosen = [self._samples.fetched(batch) for batch in self._samples.part_at_random(asked.num_samples)]
        counted = self._samples.counted[np.concatenate([batch.samples for batch in chosen])]
        part = Samples([(batch.inputs, batch.target) for batch in chosen], [*map(len, chosen)], counted=counted)
        if asked.against_float:
            part = self._beside_float(part, is_told=self._is_told(asked, metric))
        return part, num_bytes([(batch.inputs, batch.target) for batch in part.cut(len(part))])

    def _beside_float(self, part: Samples, *, is_told: bool) -> Samples:
        """``part`` with the float network's outputs as targets, as many as fit into a quarter of the budget.

        They are those of the network in steps: what folding does to outputs is not taken for noise of a quantizer.
        """
        off, pairs, sizes, size = [0] * self._whole.network.num_points, [], [], 0
        with torch.inference_mode():
            for batch in part.cut(self._whole.batch_size):
                output = self._whole.network.run(batch.inputs, off)
                pairs.append((batch.inputs, Against(batch.target, self._floats.read(output)) if is_told else output))
                sizes.append(len(batch))
                size += num_bytes(output)
                if size > self._whole.budget_bytes // 4:
                    break
        return Samples(pairs, sizes, counted=part.counted[: sum(sizes)])
