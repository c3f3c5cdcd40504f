"""Runs of a network that is float but for one point: what comes before the point is remembered, not run again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._random import random_state
from qexplore._trees import cloned, tensors_of
from qexplore.model.doors import Doors, Forward
from qexplore.model.hooks import foreign_hooks, point_hooks
from qexplore.model.inputs import Placement, call
from qexplore.model.point_hook import floating_tensors
from qexplore.model.weights import forget_cached, weight_quantizations
from qexplore.model.widths import widths_set
from qexplore.model.wrapped import WrappedNetwork

_KEPT_BYTES = 1 << 29
"""Most that outputs of modules take while they are remembered."""

Versions = list[tuple[Tensor, int]]
"""Tensors, and how often each had been written."""

_CONSTANTS = (type(None), bool, int, float, str)


class SinglePointRuns:
    """Outputs of a wrapped network in which one point is quantized and all else float; in eval mode, without gradients.

    The first run is float, and notes what every module gave. Later ones take that for the modules that are through
    before the point is passed, where this is sure to change nothing: such a float run has given the first one's very
    output, and the first left neither the modules' state nor the random generators' changed. Otherwise all is run.

    Args:
        model: in a block of `using` in which all points are off; nobody else changes more of it than ranges meanwhile.
        inputs: as `qexplore.model.call` takes them.
        kept_bytes: most memory for what is remembered.

    Attributes:
        expected: the floating tensors of the float network's output.
    """

    def __init__(self, model: WrappedNetwork, inputs: Any, kept_bytes: int = _KEPT_BYTES) -> None:
        self._model = model
        self._inputs = inputs
        self._is_sure: dict[str, bool] = {}
        self._recording: _Recording | None = None
        if not can_be_noted(model.model):
            self.expected = self._output({})
            return
        recording = _Recording(model.model, kept_bytes)
        device = Placement.of(model.model).device
        state, drawn = State(recording.modules), random_state(device)
        with recording.noting():
            self.expected = self._output({})
        if state.is_unchanged and random_state(device) == drawn:
            self._recording = recording

    @property
    def repeat(self) -> bool:
        """Whether the same ranges are known to give the same output again: nothing is drawn, and nothing counted."""
        return self._recording is not None

    def output(self, name: str, code: int) -> list[Tensor]:
        """The floating tensors of the output with the choice ``code`` at the point ``name``."""
        if name not in self._is_sure:
            self._is_sure[name] = self._recording is not None and self._agrees(self._recording, name)
        if self._recording is not None and self._is_sure[name]:
            found = self._replayed(self._recording, name, {name: code})
            if found is not None:
                return found
        return self._output({name: code})

    def _agrees(self, recording: _Recording, name: str) -> bool:
        """Whether the float network, what comes before the point remembered, gives the very output."""
        found = self._replayed(recording, name, {})
        return found is not None and len(found) == len(self.expected) and all(map(torch.equal, found, self.expected))

    def _replayed(self, recording: _Recording, name: str, codes: dict[str, int]) -> list[Tensor] | None:
        """None where the run went another way, or wrote into what is remembered."""
        with recording.replaying(name):
            output = self._output(codes)
        if recording.is_whole:
            return output
        self._recording = None
        return None

    def _output(self, codes: dict[str, int]) -> list[Tensor]:
        chosen = {name: self._model.fake_quantizers[name] for name in codes}
        with widths_set(chosen, list(codes.values())):
            forget_cached()
            return floating_tensors(call(self._model, cloned(self._inputs)))


@dataclass
class _Call:
    """A module's forward in the first run.

    Attributes:
        module: whose.
        outer: the one that it was called in; None for the network's own.
        end: how many forwards had begun when this one ended; 0 until then.
        output: what it gave; forgotten where it cannot stand for the forward.
        versions: the tensors in it, as they were when it was given.
    """

    module: nn.Module
    outer: _Call | None
    end: int = 0
    output: Any = None
    versions: Versions = field(default_factory=list)
    is_kept: bool = False

    def keep(self, output: Any) -> None:
        self.output, self.versions, self.is_kept = output, versions_of(output), True

    def forget(self) -> None:
        self.output, self.versions, self.is_kept = None, [], False

    @property
    def depth(self) -> int:
        """How many it is in."""
        return 0 if self.outer is None else 1 + self.outer.depth

    @property
    def is_in_kept(self) -> bool:
        """Whether it is in one that is remembered."""
        return self.outer is not None and (self.outer.is_kept or self.outer.is_in_kept)

    @property
    def is_unchanged(self) -> bool:
        return are_unchanged(self.versions)


class _Recording:
    """The forwards of a network's modules, in the order in which they began; which points were passed before which."""

    def __init__(self, network: nn.Module, kept_bytes: int) -> None:
        self.modules = network_modules(network)
        self._doors = Doors(self.modules)
        self.is_whole = True
        self._kept_bytes = kept_bytes
        self._calls: list[_Call] = []
        self._outer: _Call | None = None
        self._firsts: dict[str, int] = {}
        self._position = self._first = 0
        self._hooks = [hook for _, hook in point_hooks(network)]
        self._weights = [quantization for *_, quantization in weight_quantizations(network)]
        self._before = self._passes()
        self._seen_inside = {module for module in self.modules if any(map(foreign_hooks, _inside(module)))}

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what the run in a block does."""
        with self._doors.lead_to(self._note):
            yield
        self._note_passes()
        for one in self._calls:
            if not one.is_unchanged:
                one.forget()

    @contextmanager
    def replaying(self, name: str) -> Iterator[None]:
        """Let what is through before the point ``name`` is passed give what it gave, in the run in a block."""
        self._position, self._first = 0, self._firsts.get(name, len(self._calls))
        with self._doors.lead_to(self._replay):
            yield
        self.is_whole = self.is_whole and all(one.is_unchanged for one in self._calls)

    def _note(self, module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> Any:
        self._note_passes()
        noted = _Call(module, self._outer)
        self._calls.append(noted)
        can_stand = module not in self._seen_inside and is_plain((args, *kwargs.values()), (tuple,))
        given = versions_of((args, kwargs)) if can_stand else []
        self._outer = noted
        output = forward(*args, **kwargs)
        self._outer, noted.end = noted.outer, len(self._calls)
        if noted.outer and can_stand and is_plain(output, (tuple, list, dict)) and are_unchanged(given):
            noted.keep(output)
            self._make_room(noted)
        return output

    def _passes(self) -> list[tuple[str, int]]:
        """How often each point was passed."""
        reads = [(one.name, one.num_reads) for one in self._weights]
        return [(one.name, one.num_calls) for one in self._hooks] + reads

    def _note_passes(self) -> None:
        """A point passed since the last forward began: that one is the first that is not sure to be through before."""
        passes = self._passes()
        for (name, count), (_, before) in zip(passes, self._before, strict=True):
            if count > before:
                self._firsts.setdefault(name, max(len(self._calls) - 1, 0))
        self._before = passes

    def _replay(self, module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> Any:
        if self._position >= self._first or not self.is_whole:
            return forward(*args, **kwargs)
        noted = self._calls[self._position]
        self.is_whole = noted.module is module
        is_through = self.is_whole and noted.is_kept and noted.end <= self._first
        self._position = noted.end if is_through else self._position + 1
        return noted.output if is_through else forward(*args, **kwargs)

    def _make_room(self, newest: _Call) -> None:
        """Forget what is inside modules that are remembered themselves, the innermost first; else the newest."""
        while self._num_bytes() > self._kept_bytes:
            inner = [one for one in self._calls if one.is_kept and one.is_in_kept]
            deepest = max((one.depth for one in inner), default=0)
            for one in [one for one in inner if one.depth == deepest] or [newest]:
                one.forget()

    def _num_bytes(self) -> int:
        storages = [tensor.untyped_storage() for one in self._calls for tensor, _ in one.versions]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def network_modules(network: nn.Module) -> list[nn.Module]:
    """The modules that run: what quantizes a weight, or makes it, is none of them."""
    return [module for name, module in network.named_modules() if "parametrizations" not in name.split(".")]


def can_be_noted(network: nn.Module) -> bool:
    """Whether what modules give can be told, and known not to have been written over."""
    is_compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in network.modules())
    return not is_compiled and not torch.is_inference_mode_enabled()


def _inside(module: nn.Module) -> Iterator[nn.Module]:
    return (inner for inner in module.modules() if inner is not module)


def is_plain(tree: Any, containers: tuple[type, ...]) -> bool:
    """Whether ``tree`` is made of ordinary tensors and constants alone: nothing that others hold and may change."""
    if isinstance(tree, containers):
        parts: Iterable[Any] = tree.values() if isinstance(tree, dict) else tree  # type: ignore[assignment]
        return all(is_plain(part, containers) for part in parts)
    if isinstance(tree, Tensor):
        return type(tree) is Tensor and tree.layout == torch.strided and not (tree.is_nested or tree.is_inference())
    return isinstance(tree, _CONSTANTS)


def versions_of(tree: Any) -> Versions:
    """The tensors in ``tree``, and how often each has been written."""
    return [(tensor, tensor._version) for tensor in tensors_of(tree)]


def are_unchanged(tensors: Versions) -> bool:
    """Whether nothing was written into ``tensors`` since."""
    return all(tensor._version == version for tensor, version in tensors)


class State:
    """What modules hold, and how often their tensors were written."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = modules
        self._held = [dict(table) for table in self._tables()]
        self._versions = self._written()

    @property
    def is_unchanged(self) -> bool:
        """Whether all is as it was: the very objects."""
        pairs = zip(self._held, self._tables(), strict=True)
        return self._versions == self._written() and all(
            was.keys() == now.keys() and all(was[key] is now[key] for key in was) for was, now in pairs
        )

    def _tables(self) -> list[dict[str, Any]]:
        return [table for one in self._modules for table in (vars(one), one._parameters, one._buffers)]

    def _written(self) -> list[int]:
        tensors = (t for one in self._modules for t in (*one._parameters.values(), *one._buffers.values()))
        return [tensor._version for tensor in tensors if tensor is not None and not tensor.is_inference()]
