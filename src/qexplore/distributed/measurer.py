"""The far side: builds evaluators of its own and answers tasks. Ray makes an actor of it."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from qexplore.distributed.census import Census, census
from qexplore.distributed.shipping import Evaluators, built, direct_of, unpacked
from qexplore.distributed.tasks import Answer, Task
from qexplore.errors import QExploreError, WorkersError
from qexplore.metrics import Metric
from qexplore.model import QuantizedModel

OWN, DIVERGENCE = "own", "divergence"
"""Metrics that an evaluator has already, and knows by what they are rather than by what they say."""


@dataclass(frozen=True)
class Setup:
    """What a worker needs before it unpacks anything.

    Attributes:
        paths: where modules were looked for, here.
        num_threads: of torch.
        factory: of the problem, where that is not sent.
    """

    paths: tuple[str, ...]
    num_threads: int
    factory: str | None = None


@dataclass(frozen=True)
class Present:
    """A worker that is ready: where it is, what it is, and how long it took to be so."""

    name: str
    facts: Census
    seconds: float


class Measurer:
    """Evaluators in a process of their own."""

    def __init__(self) -> None:
        self._name = f"{socket.gethostname()}, process {os.getpid()}"
        self._evaluators: Evaluators = {}
        self._model: QuantizedModel | None = None
        self._metrics: dict[int, Metric] = {}
        self._lacking = ""

    def begin(self, setup: Setup, *packets: bytes) -> Answer:
        """Build the evaluators and measure the float network; the answer holds a `Present`."""
        return self._answered(lambda: (self._begun(setup, packets),))

    def add(self, packet: bytes) -> Answer:
        """Take in evaluators of further roles, of the same network."""
        answer = self._answered(lambda: self._added(packet))
        self._lacking = str(answer.error or self._lacking)
        return answer

    def answer(self, task: Task, order: Any = None) -> Answer:
        """Measure the candidates of ``task``, with samples in ``order``."""
        return self._answered(lambda: self._measured(task, order))

    def _begun(self, setup: Setup, packets: tuple[bytes, ...]) -> Present:
        start = time.perf_counter()
        sys.path += [path for path in setup.paths if path not in sys.path and os.path.exists(path)]
        torch.set_num_threads(setup.num_threads)
        self._evaluators, self._model = built(setup.factory) if setup.factory else {}, None
        for packet in packets:
            self._added(packet)
        return Present(self._name, census(self._evaluators), time.perf_counter() - start)

    def _added(self, packet: bytes) -> tuple[()]:
        if self._model is None and self._evaluators:
            self._model = direct_of(self._evaluators["search"]).model
        self._evaluators |= (new := unpacked(packet, self._model))
        for direct in {id(direct_of(one)): direct_of(one) for one in new.values()}.values():
            direct.evaluate_float()  # here, and not as it was sent
        return ()

    def _measured(self, task: Task, order: Any) -> tuple[Any, ...]:
        if task.role not in self._evaluators:
            raise WorkersError(f"has no evaluator of '{task.role}': {self._lacking}")
        evaluator = self._evaluators[task.role]
        options = dict(task.options)
        if task.question == "evaluate":
            return tuple(evaluator.evaluate(task.candidates, order=order, **options))
        metric = self._metric(task.role, *options.pop("metric"))
        return tuple(evaluator.scores_on_subset(task.candidates, metric, **options))

    def _metric(self, role: str, key: str | int, metric: Metric | None) -> Metric:
        """Evaluators keep what they know of a metric under the object itself, which every task brings anew."""
        direct = direct_of(self._evaluators[role])
        if isinstance(key, int):
            assert metric is not None
            return self._metrics.setdefault(key, metric)
        found = direct.divergence if key == DIVERGENCE else direct.metric
        assert isinstance(found, Metric)
        return found

    def _answered(self, work: Any) -> Answer:
        start, values, error = time.perf_counter(), (), None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            try:
                values = work()
            except Exception as raised:
                error = self._sendable(raised)
        told = tuple((one.category, str(one.message)) for one in caught)
        return Answer(values, time.perf_counter() - start, error, told, self._name)

    def _sendable(self, error: Exception) -> QExploreError:
        """``error`` as it can be raised elsewhere: what is no sentence of ours becomes one."""
        error = error.with_traceback(None)
        error.__cause__ = error.__context__ = None
        try:
            pickle.loads(pickle.dumps(error))
            assert isinstance(error, QExploreError)
            return error
        except Exception:
            return WorkersError(f"worker {self._name} failed: {type(error).__name__}: {error}")


def key_of(direct: Any, metric: Metric, keys: dict[int, Metric]) -> tuple[str | int, Metric | None]:
    """How ``metric`` is told to a worker; ``keys`` keep those that were."""
    if metric is direct.divergence:
        return DIVERGENCE, None
    if metric is direct.metric:
        return OWN, None
    keys[id(metric)] = metric  # held, so that no other takes its number
    return id(metric), metric
