"""A network's steps as recorded work: a device's graphs over memory that stays, with widths and ranges as data.

A graph repeats what was started once, at the same addresses, without Python and without starting each operation anew.
The steps are cut into runs, a graph each. What later runs read stays where it is, so a candidate that agrees with the
one before it on the first points is replayed from the first run on that depends on another.
"""

from __future__ import annotations

import copy
import functools
import gc
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qexplore._trees import map_tensors, num_bytes, tensors_of
from qexplore.evaluation.graph import Function, Step, Steps
from qexplore.evaluation.network import Network
from qexplore.model import Candidates
from qexplore.quant import QuantizerByData, row_of

Rows = NDArray[np.float32]
"""Quantizers as numbers, shape ``[N, S, 5]``: of ``N`` candidates, at the ``S`` steps that quantize."""

_MOST_RUNS = 16
"""Each run is a launch; more of them share more, and hold more memory."""


@dataclass(frozen=True)
class GraphMaker:
    """What torch has for recorded work on a device.

    Attributes:
        device: the device.
        module: torch's module for devices of its kind.
        kind: the class of graphs.
    """

    device: torch.device
    module: Any
    kind: Callable[[], Any]

    @classmethod
    def of(cls, device: torch.device) -> GraphMaker | None:
        """None where devices of this kind have no graphs."""
        module = getattr(torch, device.type, None)
        name = next((name for name in dir(module) if name.endswith("Graph")), "")
        has_all = all(hasattr(module, each) for each in ("Stream", "stream", "current_stream", "graph_pool_handle"))
        return cls(device, module, getattr(module, name)) if name and has_all else None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A stream of its own, on which alone a graph can be captured; nothing else runs meanwhile."""
        with _one_capture, self.module.device(self.device), _no_garbage():
            self.module.synchronize(self.device)
            with self.module.stream(_side_stream(self.module, self.device)):
                yield
            self.module.synchronize(self.device)

    @contextmanager
    def without_waits(self) -> Iterator[None]:
        """A block that tells, at its end, of work which a capture forbids: the device's stream could not go on.

        Raises:
            ValueError: something in it waited for the device.
        """
        if not hasattr(self.module, "set_sync_debug_mode"):
            yield
            return
        before = self.module.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as said:
            warnings.filterwarnings("always", message=_WAITED)
            self.module.set_sync_debug_mode(1)
            try:
                yield
            finally:
                self.module.set_sync_debug_mode(before)
        if any(str(one.message).startswith(_WAITED) for one in said):
            raise ValueError("a step of the network waits for the device, or brings numbers to it")

    def give_back_unused(self) -> None:
        """Let go of memory that torch holds and nothing uses: a graph takes its own beside it.

        Libraries' workspaces too: those of captured work then lie in the graphs' own memory, and whoever lets go of
        workspaces later, as others that capture do, takes nothing from under the graphs.
        """
        with suppress(AttributeError):
            _of_torch(self.device, "clearCublasWorkspaces")()
        if hasattr(self.module, "empty_cache"):
            self.module.empty_cache()

    def captured(self, pool: Any, function: Callable[[], None]) -> Any:
        """What ``function`` starts, as a graph whose memory comes from ``pool``."""
        graph: Any = self.kind()
        try:
            with torch.inference_mode(False):  # it makes tensors of the random state, which the user's graphs write to
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            function()
            graph.capture_end()
        except BaseException:
            self._give_up(graph, pool)
            raise
        return graph

    def _give_up(self, graph: Any, pool: Any) -> None:
        """Put right what torch leaves behind where the device itself has refused a capture.

        Its allocator would go on for the capture, and neither empty its cache nor try again when memory is short; and
        (of an older torch) its generator would refuse to draw for the rest of the process.
        """
        with suppress(Exception):
            graph.capture_end()
            return
        with suppress(Exception):
            _of_torch(self.device, "endAllocateToPool", "endAllocateCurrentStreamToPool")(self.device.index, pool)
            _of_torch(self.device, "releasePool")(self.device.index, pool)
        with suppress(Exception):  # the generator is told of the end by a capture that comes to one
            again = self.kind()
            with torch.inference_mode(False):
                again.capture_begin(pool=self.module.graph_pool_handle(), capture_error_mode="thread_local")
            torch.zeros((), device=self.device)
            again.capture_end()


_WAITED = "called a synchronizing"
"""How torch begins to say so."""
_one_capture = threading.RLock()
"""A device's allocator and random state know of one capture at a time."""


@contextmanager
def _no_garbage() -> Iterator[None]:
    """A block in which none is collected: a graph that comes to its end during a capture would spoil it.

    It is not collected before either, which takes longer than all captures do in a process that holds much.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@functools.cache
def _side_stream(module: Any, device: torch.device) -> Any:
    """One for all captures: libraries keep a workspace for each stream that they have run on, for good."""
    return module.Stream(device)


def _of_torch(device: torch.device, name: str, older: str = "") -> Any:
    """What torch has under ``name``, or under ``older``, for devices of this kind.

    Raises:
        AttributeError: it has neither.
    """
    found = getattr(torch._C, f"_{device.type}_{name}", None)
    return getattr(torch._C, f"_{device.type}_{older or name}") if found is None else found


@dataclass(frozen=True)
class Runs:
    """Steps in runs.

    Attributes:
        parts: places of steps, in order.
        first: of each point, in the order they are passed: the run that is the first to depend on it.
        nbytes: what they hold, for a batch of the size that `Step.nbytes` stands for.
    """

    parts: tuple[range, ...]
    first: tuple[int, ...]
    nbytes: int

    @classmethod
    def of(cls, steps: Steps, count: int) -> Runs:
        """``count`` runs at most, each beginning where values begin to depend on another point."""
        depends = [frozenset(step.upstream) for step in steps.steps]
        begins = [next(place for place, points in enumerate(depends) if point in points) for point in steps.order]
        chosen = {begins[place] for place in np.linspace(0, len(begins), count, endpoint=False, dtype=int)[1:]}
        ends = [steps.num_inputs, *sorted(chosen - {steps.num_inputs}), len(depends)]
        parts = tuple(range(start, end) for start, end in zip(ends, ends[1:], strict=False) if start < end)
        first = tuple(next(place for place, part in enumerate(parts) if begin < part.stop) for begin in begins)
        return cls(parts, first, _nbytes(steps, parts))

    @classmethod
    def within(cls, steps: Steps, nbytes: float) -> Runs | None:
        """As many as hold no more than ``nbytes``, for a batch that `Step.nbytes` stands for; None where one does."""
        count = max(1, min(_MOST_RUNS, len(steps.order)))
        while count:
            runs = cls.of(steps, count)
            if runs.nbytes <= nbytes:
                return runs
            count //= 2
        return None


def _nbytes(steps: Steps, parts: Sequence[range]) -> int:
    """What stays between runs, and the values of the run that has most of its own."""
    run_of = {index: place for place, part in enumerate(parts) for index in part}
    crossing = {
        source
        for index, run in run_of.items()
        for source in steps.steps[index].inputs
        if run_of.get(source, run) != run
    }
    own = [sum(steps.steps[index].nbytes for index in part) for part in parts]
    return sum(steps.steps[index].nbytes for index in {*crossing, steps.output}) + max(own, default=0)


class Recording:
    """The steps of a network as graphs, for batches whose arguments are like ``arguments``.

    Args:
        network: in steps; none of them may run code whose work depends on more than its arguments.
        runs: the steps, cut.
        arguments: of one batch.
        candidate: any; its weights are the first to be set.
        maker: records.

    Raises:
        Exception: what stands in the way of a capture, as the device's libraries say it.
    """

    def __init__(
        self, network: Network, runs: Runs, arguments: Sequence[Any], candidate: Sequence[int], maker: GraphMaker
    ) -> None:
        self._network = network
        self._steps = network.steps
        self._runs = runs
        self._given: list[Any] = map_tensors(torch.clone, list(arguments))
        self._places = {(step.name, point): place for place, (step, point) in enumerate(points_as_data(self._steps))}
        off = [[1.0, 1.0, -float("inf"), float("inf"), 0.0]] * max(1, len(self._places))
        self._rows = torch.tensor(off, dtype=torch.float32, device=maker.device)
        self._layers = self._own_layers(candidate)
        self._last_readers = _last_readers(self._steps)
        functions = [self._function(step) for step in self._steps.steps]
        self._loaded: Sequence[Any] | None = None
        self._last: NDArray[np.int64] | None = None
        with maker.aside():
            self._try(functions)  # libraries load and choose their kernels now, which a capture forbids
            with maker.without_waits():
                self._try(functions)
            maker.give_back_unused()
            values = dict(enumerate(self._given))
            self._held: dict[int, Any] = {}
            self._graphs = []
            pool = maker.module.graph_pool_handle()
            for part in runs.parts:
                run = functools.partial(self._run, part, functions, values)
                self._graphs.append(maker.captured(pool, run))
                self._held |= values  # memory that later graphs must not take for themselves
        self._output = values[self._steps.output]

    @property
    def num_graphs(self) -> int:
        """How many graphs one candidate takes at most."""
        return len(self._graphs)

    @property
    def nbytes(self) -> int:
        """About how much memory stays in use, for weights and what is between graphs."""
        return num_bytes([list(self._held.values()), [_state(layer) for layer in self._layers.values()]])

    def outputs(self, arguments: Sequence[Any], candidates: Candidates, rows: Tensor) -> Iterator[Any]:
        """The network's output for each candidate, in memory that the next one writes into.

        Args:
            arguments: of one batch.
            candidates: shape ``[N, L]``; neighbours had better agree on the points that are passed first.
            rows: on the device, as `rows_of` gives them.
        """
        self._load(arguments)
        for candidate, row in zip(candidates, rows.unbind(), strict=True):
            self._replay(candidate, row)
            yield self._output

    def _load(self, arguments: Sequence[Any]) -> None:
        if self._loaded is arguments:
            return
        self._loaded = self._last = None  # whatever interrupts, nothing is taken for done that is not
        for own, given in zip(tensors_of(self._given), tensors_of(list(arguments)), strict=True):
            own.copy_(given)
        self._loaded = arguments

    def _replay(self, candidate: NDArray[np.int64], row: Tensor) -> None:
        before, self._last = self._last, None
        order = list(self._steps.order)
        changed = order if before is None else [point for point in order if candidate[point] != before[point]]
        self._rows[: len(row)].copy_(row)
        self._set_weights(candidate, changed)
        start = 0 if before is None else len(self._graphs)
        if before is not None and changed:
            start = self._runs.first[order.index(changed[0])]
        for graph in self._graphs[start:]:
            graph.replay()
        self._last = candidate

    def _set_weights(self, candidate: NDArray[np.int64], points: Sequence[int]) -> None:
        for point in points:
            for step in self._weighted.get(point, ()):
                assert step.layer is not None
                made = step.layer.at(self._network.quantizer(point, int(candidate[point])))
                for own, value in zip(_state(self._layers[step.layer]), _state(made), strict=True):
                    own.copy_(value)

    def _own_layers(self, candidate: Sequence[int]) -> dict[Any, nn.Module]:
        """A copy of each module whose weight is quantized, in memory that other choices are written into."""
        self._weighted: dict[int, list[Step]] = {}
        copies: dict[Any, nn.Module] = {}
        for step in self._steps.steps:
            if step.weight is not None and step.layer is not None and step.layer not in copies:
                self._weighted.setdefault(step.weight, []).append(step)
                made = step.layer.at(self._network.quantizer(step.weight, int(candidate[step.weight])))
                copies[step.layer] = copy.deepcopy(made)
        return copies

    def _function(self, step: Step) -> Function:
        if step.weight is None and step.points:
            rows = [self._rows[self._places[step.name, point]] for point in step.points]
            settled: Any = tuple(map(QuantizerByData, rows))
            return lambda values: step.run(values, settled)
        if step.layer is not None and step.around is not None:
            return step.around(self._layers[step.layer])
        return step.function

    def _try(self, functions: Sequence[Function]) -> None:
        values = dict(enumerate(self._given))
        for part in self._runs.parts:
            self._run(part, functions, values)

    def _run(self, part: range, functions: Sequence[Function], values: dict[int, Any]) -> None:
        for index in part:
            values[index] = functions[index]([values[source] for source in self._steps.steps[index].inputs])
            for place in self._last_readers[index]:
                del values[place]


def points_as_data(steps: Steps) -> list[tuple[Step, int]]:
    """The points at which something that passes is quantized, with their steps, in order."""
    return [(step, point) for step in steps.steps if step.weight is None for point in step.points]


def rows_of(network: Network, candidates: Candidates) -> Rows | None:
    """The quantizers of ``candidates``, shape ``[N, L]``, as numbers; None where numbers cannot say one of them."""
    quantizing = points_as_data(network.steps)
    rows = np.zeros((len(candidates), len(quantizing), 5), dtype=np.float32)
    for place, (step, point) in enumerate(quantizing):
        widths, inverse = np.unique(candidates[:, point], return_inverse=True)
        known = [row_of(step.settle([network.quantizer(point, int(width))])[0], step.clamp) for width in widths]
        if any(row is None for row in known):
            return None
        rows[:, place] = np.array(known, dtype=np.float32)[inverse.reshape(-1)]
    return rows


def _last_readers(steps: Steps) -> list[list[int]]:
    """For each step the values that nothing reads after it; arguments and the network's output are kept."""
    last = dict.fromkeys(range(steps.num_inputs, len(steps.steps)), 0)
    for index, step in enumerate(steps.steps):
        last |= dict.fromkeys((index, *step.inputs), index)
    return [
        [place for place, reader in last.items() if reader == index and steps.num_inputs <= place != steps.output]
        for index in range(len(steps.steps))
    ]


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
