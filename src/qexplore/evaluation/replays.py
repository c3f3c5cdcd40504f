"""Candidates run as recorded work on a device that can record, in place of steps that are started one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qexplore._trees import leaves, map_tensors, structure, tensors_of
from qexplore.evaluation.graph import Steps
from qexplore.evaluation.network import Network, equal
from qexplore.evaluation.recording import GraphMaker, Recording, Runs, rows_of
from qexplore.evaluation.stack import StackNetwork, StackReplays
from qexplore.model import Candidates

_WORTH_RECORDING = 16
"""So many candidates and batches of one form are run in steps first: recording costs about as much as some of them."""
_MOST_FORMS = 2
"""Batches of one size, and a last one that is smaller."""
_PLAIN = (int, float, bool, str, type(None))


class GraphReplays:
    """Runs whole candidates through a batch by graphs, one set of them for batches of one form.

    Taken only where it gives what the same steps give that are started one by one, bit for bit, on two batches and
    several candidates. So it makes no difference to any number who ran a candidate.

    Args:
        network: in steps.
        budget_bytes: most memory for values; half of it may stay in use here.
        maker: records.
    """

    def __init__(self, network: Network, budget_bytes: int, maker: GraphMaker) -> None:
        self._network = network
        self._budget = budget_bytes // 2
        self._maker = maker
        self._recordings: dict[Any, Recording] = {}
        self._refused: dict[Any, str] = {}
        self._asked: dict[Any, int] = {}
        self._unsaid = False
        self._sent: tuple[Candidates, Tensor] | None = None

    @property
    def description(self) -> str:
        """How many graphs a candidate takes, or why there are none."""
        if self._recordings:
            return f"replayed as {max(each.num_graphs for each in self._recordings.values())} graphs"
        if self._refused:
            return f"no graphs: {next(reversed(self._refused.values()))}"
        if self._unsaid:
            return "no graphs: choices among them are no plain whole-number widths of one range"
        return "graphs as soon as enough candidates were asked for"

    def outputs(self, place: int, arguments: Sequence[Any], candidates: Candidates) -> Iterator[Any] | None:
        """As `qexplore.evaluation.engine.Replays.outputs`."""
        form = _form(arguments)
        if form is None or form in self._refused or torch.is_autocast_enabled(self._maker.device.type):
            return None
        self._asked[form] = self._asked.get(form, 0) + len(candidates)
        if form not in self._recordings and self._asked[form] < _WORTH_RECORDING:
            return None
        rows = self._on_device(candidates)
        if rows is None or (form not in self._recordings and not self._record(form, arguments, candidates)):
            return None
        return self._recordings[form].outputs(arguments, candidates, rows)

    def close(self) -> None:
        """Give all memory back; what was refused is tried anew, for batches may be smaller then."""
        self._recordings.clear()
        self._refused.clear()
        self._asked.clear()
        self._sent = None

    def _on_device(self, candidates: Candidates) -> Tensor | None:
        """The rows of ``candidates``, sent once for all batches; None where they have none."""
        if self._sent is None or not np.array_equal(self._sent[0], candidates):
            rows = rows_of(self._network, candidates)
            self._unsaid = rows is None
            if rows is None:
                return None
            self._sent = candidates.copy(), torch.from_numpy(rows).to(self._maker.device)
        return self._sent[1]

    def _record(self, form: Any, arguments: Sequence[Any], candidates: Candidates) -> bool:
        try:
            if len(self._recordings) == _MOST_FORMS:
                raise ValueError("batches of many forms")
            made = Recording(self._network, self._runs(arguments), arguments, candidates[0].tolist(), self._maker)
            self._compare(made, arguments, candidates)
        except Exception as error:  # steps can still be started one by one
            self._refused[form] = _sentence(error)
            return False
        self._recordings[form] = made
        return True

    def _runs(self, arguments: Sequence[Any]) -> Runs:
        left = self._budget - sum(each.nbytes for each in self._recordings.values())
        scale = max(len(tensor) for tensor in tensors_of(list(arguments)) if tensor.dim()) / self._network.example_size
        runs = Runs.within(self._network.steps, left / scale)
        if runs is None:
            raise MemoryError(f"their memory takes more than half of the budget of {2 * self._budget:,} bytes")
        return runs

    def _compare(self, made: Recording, arguments: Sequence[Any], candidates: Candidates) -> None:
        """Hold ``made`` against steps on two batches, with candidates of which neighbours share a beginning.

        Raises:
            ValueError: they differ.
        """
        tried = _beginning_alike(self._network.steps, candidates)
        rows = rows_of(self._network, tried)
        assert rows is not None  # each choice stands in one of the candidates
        on_device = torch.from_numpy(rows).to(self._maker.device)
        for given in (arguments, map_tensors(_turned_over, list(arguments))):
            for candidate, output in zip(tried, made.outputs(given, tried, on_device), strict=True):
                if not equal(output, self._network.steps.run(given, self._network.quantizers(candidate))):
                    raise ValueError("what is replayed does not equal the steps")


def _beginning_alike(steps: Steps, candidates: Candidates) -> Candidates:
    """The first candidate, one that goes over into the last one half-way, and the last one."""
    first, last = candidates[0], candidates[-1]
    between = first.copy()
    behind = list(steps.order[len(steps.order) // 2 :])
    between[behind] = last[behind]
    return np.stack([first, between, last])


def _turned_over(argument: Tensor) -> Tensor:
    """Another batch of the same form: the samples in the opposite order."""
    return torch.empty_like(argument).copy_(argument.flip(0)) if argument.dim() else argument


def _form(arguments: Sequence[Any]) -> Any:
    """What a batch must have in common with another for the same work; None where that cannot be said."""
    parts = leaves(list(arguments))
    if not all(isinstance(part, (Tensor, *_PLAIN)) for part in parts) or not tensors_of(list(arguments)):
        return None
    described = tuple(
        (part.shape, part.dtype, part.stride(), part.device) if isinstance(part, Tensor) else (type(part), part)
        for part in parts
    )
    return structure(list(arguments)), described


def _sentence(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return first if isinstance(error, (ValueError, MemoryError)) else f"{type(error).__name__}: {first}"


class NoReplays:
    """Says why nothing is recorded, and leaves all candidates to steps.

    Args:
        why: the reason.
    """

    def __init__(self, why: str) -> None:
        self.description = f"no graphs: {why}"

    def outputs(self, place: int, arguments: Sequence[Any], candidates: Candidates) -> None:
        """None, always."""

    def close(self) -> None:
        """There is nothing to give back."""


def replays_for(network: Network, budget_bytes: int) -> GraphReplays | StackReplays | NoReplays | None:
    """What may run candidates of ``network`` in place of steps; None on the CPU, where starting them costs little."""
    if isinstance(network, StackNetwork):
        return StackReplays(network, budget_bytes)
    if network.device.type == "cpu":
        return None
    if network.runs_own_code:
        return NoReplays("modules that run code of yours cannot be recorded")
    maker = GraphMaker.of(network.device)
    return NoReplays("the device has none") if maker is None else GraphReplays(network, budget_bytes, maker)
