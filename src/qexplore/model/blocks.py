"""A wrapped network run as it is written, but for modules of a stack that would give what they gave before."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._trees import cloned, leaves, tensors_of
from qexplore.errors import ModelError
from qexplore.model.doors import Doors, Forward
from qexplore.model.hooks import point_hooks
from qexplore.model.inputs import call
from qexplore.model.points import Candidate
from qexplore.model.replaying import (
    State,
    Versions,
    are_unchanged,
    can_be_noted,
    is_plain,
    network_modules,
    versions_of,
)
from qexplore.model.weights import weight_quantizations
from qexplore.model.wrapped import WrappedNetwork


@dataclass(frozen=True, eq=False)
class _Given:
    """What a block gave.

    Attributes:
        output: of its forward.
        passed: indices of all points that the run had passed when it ended.
        states: objects among its arguments that it wrote into, by place, as it left them.
        versions: the tensors in both.
    """

    output: Any
    passed: frozenset[int]
    states: dict[int, Any]
    versions: Versions

    def leave_behind(self, args: Any, kwargs: dict[str, Any]) -> None:
        """Have the objects among the arguments be what the block makes of them."""
        found = _states(args, kwargs)
        for place, state in self.states.items():
            vars(found[place]).clear()
            vars(found[place]).update(vars(_shallow(state)))


@dataclass(eq=False)
class Noted:
    """A run of one batch.

    Attributes:
        candidate: its choices, by point.
        given: what its blocks gave.
    """

    candidate: Candidate
    given: dict[nn.Module, _Given] = field(default_factory=dict)

    @property
    def passed(self) -> list[frozenset[int]]:
        """The points that were passed until the end of each block; fewer first, the same ones once."""
        return sorted({given.passed for given in self.given.values()}, key=len)

    @property
    def nbytes(self) -> int:
        """What is held for it; memory that several share counts once."""
        return sum({id(t): t.nbytes for one in self.given.values() for t, _ in one.versions}.values())


class BlockRuns:
    """Outputs of a wrapped network for one candidate after the other, on batches.

    Blocks are modules in a list or sequence of modules that a forward calls once. One that has passed only points, from
    the beginning of the run on, at which a candidate agrees with an earlier one gives what it gave then, whatever way
    the data take: it is not run again. All else runs as it is written.

    Args:
        model: a copy of its own, in eval mode, whose weights stay.
        inputs: an example, by which blocks are found.

    Raises:
        ModelError: there are no two blocks, or what modules give cannot be told.
    """

    def __init__(self, model: WrappedNetwork, inputs: Any) -> None:
        if not can_be_noted(model.model):
            raise ModelError("modules of it are compiled, so that what they give cannot be told")
        self._model = model
        self._copies = False
        """Whether the network writes into what blocks give, so that it is handed out in copies."""
        indices = {point.name: point.index for point in model.points}
        self._counted = [(indices[hook.name], hook) for _, hook in point_hooks(model.model)]
        self._read = [(indices[one.name], one) for *_, one in weight_quantizations(model.model)]
        self._blocks = dict(_in_stacks(model.model))
        self._doors = Doors(self._blocks.values())
        calls: Counter[nn.Module] = Counter()
        with self._doors.lead_to(lambda module, forward, args, kwargs: _counted(calls, module, forward, args, kwargs)):
            call(model, cloned(inputs))
        self._blocks = {name: module for name, module in self._blocks.items() if calls[module] == 1}
        if len(self._blocks) < 2:
            raise ModelError("it has no two modules in an nn.ModuleList or nn.Sequential that are called once each")
        self._doors = Doors(self._blocks.values())
        state = State(network_modules(model.model))
        if not self.output(inputs, (0,) * len(model.points))[1].given or not state.is_unchanged:
            raise ModelError("its modules keep what they give to themselves, or give more than tensors")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the blocks, in the order of ``named_modules``."""
        return tuple(self._blocks)

    def output(
        self, inputs: Any, candidate: Candidate, before: Noted | None = None, kept_bytes: float = math.inf
    ) -> tuple[Any, Noted]:
        """The network's output, and what is noted of the run.

        Args:
            inputs: a batch.
            candidate: choices by point, which the quantizers have been told already.
            before: an earlier run of this very batch.
            kept_bytes: most memory for what the blocks give; later ones are not noted when it is full.

        Raises:
            ModelError: the network does what blocks cannot be skipped under; what is noted of ``before`` is not to be
                used again.
        """
        run = _Run(self, before, candidate, kept_bytes)
        with torch.inference_mode(False), torch.no_grad(), self._doors.lead_to(run.enter):
            output = call(self._model, cloned(inputs))
        if not all(are_unchanged(given.versions) for given in run.noted.given.values()):
            if self._copies:
                raise ModelError("it writes into what is kept of its blocks")
            self._copies = True
            return self.output(inputs, candidate, None, kept_bytes)
        return output, run.noted

    def counts(self) -> list[tuple[int, int]]:
        """How often each point was passed, by its index."""
        return [(index, hook.num_calls) for index, hook in self._counted] + [
            (index, one.num_reads) for index, one in self._read
        ]

    def kept(self, output: Any) -> Any:
        """``output`` of a block as it is kept, or handed out again."""
        return cloned(output) if self._copies else output


class _Run:
    """One forward."""

    def __init__(self, runs: BlockRuns, before: Noted | None, candidate: Candidate, kept_bytes: float) -> None:
        self._runs = runs
        self._kept_bytes = kept_bytes
        self._begin = runs.counts()
        self._passed: set[int] = set()
        self._called: set[nn.Module] = set()
        self.noted = Noted(candidate)
        if before is not None:
            pairs = enumerate(zip(before.candidate, candidate, strict=True))
            changed = {point for point, (was, now) in pairs if was != now}
            self.noted.given = {
                module: given for module, given in before.given.items() if changed.isdisjoint(given.passed)
            }

    def enter(self, module: nn.Module, forward: Forward, args: Any, kwargs: dict[str, Any]) -> Any:
        """Stands in the place of a block's forward."""
        if module in self._called:
            raise ModelError("it calls a block twice")
        self._called.add(module)
        known = self.noted.given.get(module)
        if known is not None:
            self._passed |= known.passed
            known.leave_behind(args, kwargs)
            return self._runs.kept(known.output)
        states = _states(args, kwargs)
        taken, held = versions_of((args, kwargs)), list(map(_contents, states))
        output = forward(*args, **kwargs)
        if not are_unchanged(taken):
            raise ModelError("a block writes into what it is given")
        if self._can_be_kept(args, kwargs, output):
            self._note(module, output, {i: _shallow(s) for i, s in enumerate(states) if _contents(s) != held[i]})
        return output

    def _can_be_kept(self, args: Any, kwargs: dict[str, Any], output: Any) -> bool:
        given = [one for one in (*args, *kwargs.values()) if not _is_state(one)]
        return is_plain(tuple(given), (tuple,)) and is_plain(output, (tuple, list, dict))

    def _note(self, module: nn.Module, output: Any, states: dict[int, Any]) -> None:
        counts = zip(self._runs.counts(), self._begin, strict=True)
        self._passed |= {point for (point, count), (_, before) in counts if count > before}
        kept = self._runs.kept(output)
        noted = _Given(kept, frozenset(self._passed), states, versions_of((kept, *states.values())))
        self.noted.given[module] = noted
        if self.noted.nbytes > self._kept_bytes:
            del self.noted.given[module]


def _in_stacks(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and "parametrizations" not in name.split("."):
            yield from ((f"{name}.{child}" if name else child, inner) for child, inner in module.named_children())


def _counted(calls: Counter[nn.Module], module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> Any:
    calls[module] += 1
    return forward(*args, **kwargs)


def _is_state(one: Any) -> bool:
    """Whether this is an object that a block may write into, such as a cache."""
    return hasattr(one, "__dict__") and not isinstance(one, (Tensor, nn.Module, type)) and not callable(one)


def _states(args: Any, kwargs: dict[str, Any]) -> list[Any]:
    return [one for one in (*args, *kwargs.values()) if _is_state(one)]


def _contents(state: Any) -> list[Any]:
    """What tells whether an object has been written into."""
    return [id(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves(state) if _is_compared(leaf)]


def _is_compared(leaf: Any) -> bool:
    return isinstance(leaf, (Tensor, bool, int, float, str))


def _shallow(state: Any) -> Any:
    """A copy with the very tensors."""
    return copy.deepcopy(state, {id(tensor): tensor for tensor in tensors_of(state)})
