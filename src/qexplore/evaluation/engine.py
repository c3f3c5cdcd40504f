"""Runs many candidates through a network in steps, every step once for all that agree on what it depends on."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from qexplore._trees import cloned
from qexplore.evaluation.base import Order, Told, untold
from qexplore.evaluation.batches import memory_to_use
from qexplore.evaluation.cutting import (
    Demand,
    size_for_accelerator,
    size_for_cores,
    turns_for_accelerator,
    turns_for_cores,
)
from qexplore.evaluation.divergence import FloatOutputs
from qexplore.evaluation.graph import Function, Steps
from qexplore.evaluation.network import Network
from qexplore.evaluation.outputs import Outputs, Scored, can_be_stacked, write
from qexplore.evaluation.racing import Race
from qexplore.evaluation.replays import replays_for
from qexplore.evaluation.samples import Batch, Samples
from qexplore.evaluation.schedule import Operation, Schedule, in_order, make_schedule
from qexplore.evaluation.variants import Variants
from qexplore.evaluation.workers import Workers
from qexplore.metrics import Metric, Scores, known_labels
from qexplore.model import Candidates

_MOST_WORKERS = 8
_SHARE_KEPT = 3 / 8
"""Of the budget, for values that are kept between calls; an eighth more is for parts of the set."""


@dataclass
class Measured:
    """What is known of the candidates of one call, ``N`` of them.

    Attributes:
        scores: shape ``[N, num_samples]``, in the order of the evaluation set; NaN where a sample was not run.
        num_samples: how many were run, shape ``[N]``.
        divergences: from the float network's outputs, likewise; NaN where none is told.
        bounds: what the score cannot beat, shape ``[N]``.
        seconds: shape ``[N]``.
    """

    scores: Scores
    num_samples: NDArray[np.int64]
    divergences: Scores
    bounds: NDArray[np.float64]
    seconds: NDArray[np.float64]


class Replays(Protocol):
    """Another way to run whole candidates through a batch than step by step: work that was recorded, for one."""

    def outputs(self, place: int, arguments: Sequence[Any], candidates: Candidates) -> Iterator[Any] | None:
        """The network's output for each of ``candidates``, in their order; None where steps are to be taken.

        Args:
            place: the batch's. Another call may give other samples, or another number of them, under the same place.
            arguments: values of the first steps for this batch.
            candidates: shape ``[N, L]``, codes; neighbours agree on the points that are passed first.

        Returns:
            Tensors that need to hold only until the next one is asked for; they are scored before that.
        """

    @property
    def description(self) -> str:
        """How candidates are run so, or why not."""

    def close(self) -> None:
        """Give all memory back. `outputs` may be asked again, for batches of another size."""


class Engine:
    """A network in steps, data cut to suit it, and what is kept between calls.

    Args:
        network: in steps.
        samples: the evaluation set.
        metric: per sample.
        budget_bytes: most memory for values, kept ones included; None takes a quarter of what is free.
        stops: cut the set finely enough for candidates to be stopped early.
        has_known_labels: the metric has seen the targets before, and does not look for wrong ones again.
        floats: tells how far outputs are from the float network's, where ``samples`` hold these.
        like: an engine of the same network, which does not work at the same time: its workers and steps are used.
        share_kept: part of the budget for values that are kept between calls.
        seconds: that a candidate may take while it is found out how candidates are best run; None is patient.
    """

    def __init__(
        self,
        network: Network,
        samples: Samples,
        metric: Metric,
        budget_bytes: int | None = None,
        *,
        stops: bool = True,
        has_known_labels: bool = False,
        floats: FloatOutputs | None = None,
        like: Engine | None = None,
        share_kept: float = _SHARE_KEPT,
        seconds: float | None = None,
    ) -> None:
        self.network = network
        self._floats = floats if samples.has_references else None
        self._samples = samples
        self._metric = metric
        self.told: Told = untold
        """Called with parts of a candidate as they are done, by any worker."""
        self._labels = known_labels if has_known_labels else nullcontext
        self._device = network.device
        self.budget_bytes = memory_to_use(self._device, budget_bytes)
        self._variants = Variants(network.steps, int(self.budget_bytes * share_kept))
        self._on_cores = self._device.type == "cpu"
        self.workers: Workers = self._own_workers() if like is None else like.workers
        self.batch_size = self.suitable_size = self._suitable_batch_size(stops)
        self._stacks_outputs = can_be_stacked(metric, network, samples, self._floats, seconds)
        self.replays: Replays | None = replays_for(
            network, self.budget_bytes if like is None else int(2 * self.budget_bytes * share_kept)
        )
        """Asked first, where there is one; it runs one batch at a time, in the calling thread."""
        self._cut()
        self._functions: list[Callable[..., Function]] = self._own_functions() if like is None else like._functions

    def _own_workers(self) -> Workers:
        shares = self._on_cores and not self.network.is_stack and not torch.is_autocast_enabled("cpu")
        return Workers(_MOST_WORKERS if shares else 1)

    def _own_functions(self) -> list[Callable[..., Function]]:
        """Of each worker: what a step does at some widths."""
        copies = self.workers.count - 1 if self.network.has_state else 0
        steps = [self.network.steps, *(self.network.another() for _ in range(copies))]
        return [functools.cache(functools.partial(_function, self.network, each)) for each in steps]

    def _suitable_batch_size(self, stops: bool) -> int:
        steps, example = self.network.steps, self.network.example_size
        one = make_schedule(steps, np.zeros((1, self.network.num_points), dtype=np.int64))
        largest = max((step.nbytes for step in steps.steps), default=0)
        demand = Demand(len(self._samples), largest / example, one.peak / example, self.budget_bytes, stops)
        return size_for_cores(demand, self.workers.count) if self._on_cores else size_for_accelerator(demand)

    def _cut(self) -> None:
        self._batches: list[Batch] = self._samples.cut(self.batch_size)
        batches = self._batches if self._samples.are_here else []
        self._arguments = [self.network.arguments(batch.inputs) for batch in batches]
        self._variants.clear()

    def halve_batches(self) -> bool:
        """Go on with half the batch size; False when batches cannot become smaller."""
        if self.batch_size == 1 or not self._samples.can_be_cut:
            return False
        self.resize(self.batch_size // 2)
        return True

    def resize(self, batch_size: int) -> None:
        """Go on with batches of another size."""
        self.batch_size = batch_size
        if self.replays is not None:
            self.replays.close()
        self._cut()

    @property
    def tells_divergence(self) -> bool:
        """Whether batches come with the float network's outputs."""
        return self._floats is not None

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Which samples count, shape ``[num_samples]``."""
        return self._samples.counted

    @property
    def can_cut(self) -> bool:
        """Whether batches are the engine's own, and not the loader's."""
        return self._samples.can_be_cut

    @property
    def num_batches(self) -> int:
        """How many batches the set is cut into."""
        return len(self._batches)

    def close(self) -> None:
        """End the workers and forget what is kept."""
        self.workers.close()
        self.forget()

    def forget(self) -> None:
        """Forget what is kept between calls."""
        self._variants.clear()
        if self.replays is not None:
            self.replays.close()

    def reorder(self, order: Order | None) -> None:
        """Take samples in this order from now on, where they can be cut: None is that of the loader."""
        if self._samples.can_be_cut and self._samples.reorder(order):
            self._cut()

    def measure(self, candidates: Candidates, must_beat: NDArray[np.float64] | None = None) -> Measured:
        """Scores of ``candidates``, shape ``[N, L]``.

        Args:
            candidates: codes; 0 switches a quantizer off.
            must_beat: shape ``[N]``; a candidate proved not to beat it is not run further. None runs all to the end.
        """
        count, num_samples = len(candidates), len(self._samples)
        result = Measured(
            np.full((count, num_samples), np.nan, dtype=np.float32),
            np.zeros(count, dtype=np.int64),
            np.full((count, num_samples), np.nan, dtype=np.float32),
            np.full(count, np.nan),
            np.zeros(count),
        )
        scale = num_samples / self.network.example_size
        self._variants.expect(candidates, scale)
        race = None if must_beat is None else Race(self._metric, num_samples, must_beat)
        alive = np.arange(count)
        for turn in self._turns(race is not None):
            begin = time.perf_counter()
            write(self._run(candidates, alive, turn), result.scores, result.divergences)  # waits for what was started
            result.seconds[alive] += (time.perf_counter() - begin) / max(1, len(alive))
            ran = np.concatenate([self._batches[place].samples for place in turn])
            result.num_samples[alive] += len(ran)
            if race is None:
                continue
            race.add(alive, result.scores[np.ix_(alive, ran)])
            result.bounds = race.bounds()
            alive = alive[~race.is_decided()[alive]]
            if len(alive) == 0:
                break
        return result

    def _turns(self, stops: bool) -> list[range]:
        """Places of batches, those between two moments at which candidates can be stopped together."""
        count = len(self._batches)
        if not stops:
            return [range(count)]
        return turns_for_cores(count, self.workers.count) if self._on_cores else turns_for_accelerator(count)

    def _run(self, candidates: Candidates, alive: NDArray[np.int64], turn: Sequence[int]) -> list[Scored]:
        """Run the batches of a turn for the candidates that are still alive."""
        ordered = alive[in_order(self.network.steps, candidates[alive])]
        replayed = {place: self._replay(place, candidates, ordered) for place in turn}
        found = [scored for parts in replayed.values() for scored in parts or ()]
        left = [place for place, parts in replayed.items() if parts is None]
        return found + (self._run_in_steps(candidates, ordered, left) if left else [])

    def _run_in_steps(self, candidates: Candidates, rows: NDArray[np.int64], turn: Sequence[int]) -> list[Scored]:
        largest = max(len(self._batches[place]) for place in turn)
        limit = self.budget_bytes / 2 / self.workers.count * self.network.example_size / largest
        variants = self._variants

        def is_kept(key: tuple[int, ...]) -> bool:
            return all(variants.has(place, key) for place in turn)

        # With a single batch the workers take a share of the candidates each, equal beginnings together.
        waiting = np.array_split(rows, self.workers.count if len(turn) == 1 else 1)
        items: list[tuple[int, Schedule, NDArray[np.int64]]] = []
        while waiting:
            rows = waiting.pop()
            schedule = make_schedule(
                self.network.steps, candidates[rows], kept_steps=variants.kept_steps, is_kept=is_kept
            )
            if schedule.peak > limit and len(rows) > 1:
                waiting += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
            else:
                items += [(place, schedule, rows) for place in turn]
        return [scored for parts in self.workers.map(self._run_batch, items) for scored in parts]

    def _replay(self, place: int, candidates: Candidates, rows: NDArray[np.int64]) -> list[Scored] | None:
        """Run the candidates ``rows`` through a batch by `replays`; None where that cannot be had."""
        if self.replays is None or not self._samples.are_here:
            return None
        with torch.inference_mode(), self._labels():
            replayed = self.replays.outputs(place, self._arguments[place], candidates[rows])
            if replayed is None:
                return None
            self._variants.clear()  # steps keep values; graphs have memory of their own
            outputs = self._outputs(self._batches[place], rows)
            for index, output in enumerate(replayed):
                outputs.add(cloned(output), [index])
                self.told(len(self._batches[place]) / len(self._samples))
            return outputs.scored()

    def _outputs(self, batch: Batch, rows: NDArray[np.int64]) -> Outputs:
        return Outputs(self._metric, batch, rows, stacks=self._stacks_outputs, floats=self._floats)

    def _at_hand(self, place: int) -> tuple[Batch, list[Any]]:
        """A batch on the network's device, and values of the first steps for it."""
        if self._arguments:
            return self._batches[place], self._arguments[place]
        batch = self._samples.fetched(self._batches[place])
        return batch, self.network.arguments(batch.inputs)

    def _run_batch(self, worker: int, item: tuple[int, Schedule, NDArray[np.int64]]) -> list[Scored]:
        place, schedule, rows = item
        batch, arguments = self._at_hand(place)
        function = self._functions[min(worker, len(self._functions) - 1)]
        slots: list[Any] = [*arguments, *[None] * schedule.num_slots]
        outputs = self._outputs(batch, rows)
        with torch.inference_mode(), self._labels():
            for operation in schedule.operations:
                self.workers.check()
                self._run_operation(operation, slots, place, function)
                if operation.rows:
                    outputs.add(slots[operation.output], operation.rows, are_stacked=operation.is_stacked)
                    self.told(len(operation.rows) * len(batch) / len(self._samples))
                for slot in operation.last_reads:
                    slots[slot] = None
            return outputs.scored()

    def _run_operation(
        self, operation: Operation, slots: list[Any], place: int, function: Callable[..., Function]
    ) -> None:
        if operation.is_loaded:
            assert operation.key is not None
            slots[operation.output] = self._variants.get(place, operation.key)
            return
        if operation.step < self.network.steps.num_inputs:
            return
        run = function(operation.step, operation.widths, operation.is_stacked, operation.in_place)
        value = run([slots[source] for source in operation.inputs])
        slots[operation.output] = value
        if operation.key is not None:
            self._variants.put(place, operation.key, value)


def _function(
    network: Network, steps: Steps, index: int, widths: tuple[int, ...], is_stacked: bool, in_place: bool
) -> Function:
    """What a step does at these widths."""
    step = steps.steps[index]
    if not step.points:
        return step.function
    points = step.points * len(widths) if is_stacked else step.points
    settled = step.settle([network.quantizer(point, width) for point, width in zip(points, widths, strict=True)])
    if not is_stacked:
        return functools.partial(step.run, settled=settled, in_place=in_place)
    behind = [steps.steps[other].function for other in steps.tail[1:]]

    def run(values: Sequence[Any]) -> Any:
        value = step.run_stacked(values, settled)
        for function in behind:
            value = function([value])
        return value

    return run
