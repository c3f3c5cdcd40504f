"""A recording of one forward, operation by operation: multiplications, values alive, and where values come from."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from qexplore._trees import tensors_of
from qexplore.cost.moments import Sources
from qexplore.cost.operations import Operation
from qexplore.cost.provenance import (
    adds,
    fills,
    hands_on,
    multiplied,
    operation_name,
    storage_key,
    written_by,
)


@dataclass(eq=False)
class Value:
    """What a piece of memory holds between two writes into it.

    Attributes:
        num_bytes: of the memory.
        num_elements: how many numbers it holds.
        sources: points that its numbers come from unchanged; empty where an operation made them.
        summands: points that were added up to it, or its sources.
        is_marked: whether it was seen at a point itself.
        is_by_product: not the first result of its operation, such as the indices of a max pooling.
        is_read: whether a later operation reads it.
    """

    num_bytes: int
    num_elements: int
    sources: Sources = ()
    summands: frozenset[int] = frozenset()
    is_marked: bool = False
    is_by_product: bool = False
    is_read: bool = False


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations that run while it is entered; see `recording`. Points are told to it as they pass.

    Args:
        weights: the float parameters at points, with their points' indices.
        tracker: knows which modules run; entered by `recording`, since torch enters a mode again for every operation.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # To have a mode skipped by its compiler, torch loads all of that, seconds; see `_without_compiler`.
        return False

    def __init__(self, weights: Mapping[nn.Parameter, int], tracker: ModuleTracker) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.not_counted: Counter[str] = Counter()
        self.moments: list[tuple[Value, ...]] = []
        self.additions: list[frozenset[int]] = []
        self._weights = {storage_key(weight): index for weight, index in weights.items()}
        self._alive: dict[int, Value] = {}
        self._references: dict[int, Any] = {}
        self._tracker = tracker

    def mark(self, point: int, tensors: Iterable[Tensor]) -> None:
        """Note that ``tensors`` pass at a point: it is what they held since they were made."""
        for tensor in tensors:
            key = storage_key(tensor)
            value = None if key is None else self._alive.get(key)
            if key is None or value is None:  # a parameter or a constant that was handed through
                continue
            if value.is_marked:  # two points on one tensor: the second one's quantizer makes another
                value = self._alive[key] = replace(value)
            value.sources, value.summands, value.is_marked = (point,), frozenset([point]), True

    def keep(self, output: Any) -> None:
        """Note that ``output`` is what the forward was run for."""
        self._note_reading(tensors_of(output))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls for every operation."""
        kwargs = kwargs or {}
        is_whole = isinstance(func, HigherOrderOperator) or func._overloadpacket in flop_registry
        if not is_whole:
            with self:  # a composite operation may fall apart into ones that can be counted
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self._note(func, args, kwargs, result)
        return result

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        name = operation_name(func)
        read = tensors_of((args, kwargs))
        self._note_reading(read)
        self._count(name, func, args, kwargs, result)
        sources, summands = self._origin(name, read)
        changed = self._renew(written_by(func, args, kwargs), sources, summands)
        changed += self._register(result, {storage_key(tensor) for tensor in read}, sources, summands)
        if not changed:
            return
        self.moments.append(tuple(self._alive.values()))
        computes = any(tensor.is_floating_point() for tensor in changed)
        if computes and self._is_left_out(func, name) and any(tensor.is_floating_point() for tensor in read):
            self.not_counted[name] += 1

    def _is_left_out(self, func: Any, name: str) -> bool:
        """Whether an operation has no formula and does more than move data."""
        return getattr(func, "_overloadpacket", func) not in flop_registry and not hands_on(name) and not fills(name)

    def _count(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        formula = flop_registry.get(getattr(func, "_overloadpacket", func))
        if formula is None:
            return
        macs = formula(*args, **kwargs, out_val=result) / 2
        for share, left, right in multiplied(name, args):
            operands = self._sources(left), self._sources(right)
            self.operations.append(Operation(self._module(), name, round(share * macs), operands))

    def _origin(self, name: str, read: list[Tensor]) -> tuple[Sources, frozenset[int]]:
        """Where the values come from that an operation makes of ``read``."""
        floating = [tensor for tensor in read if tensor.is_floating_point()]
        summands = [self._summands(tensor) for tensor in floating]
        if adds(name):
            if len(floating) == 2 and (met := frozenset[int]().union(*summands)):
                self.additions.append(met)
            return (), frozenset().union(*summands)
        if not hands_on(name) or not floating:
            return (), frozenset()
        # What is copied into a tensor replaces its values, as far as it reaches.
        if name == "aten.copy_" and len(floating) == 2 and _covers_its_storage(floating[0]):
            floating, summands = floating[1:], summands[1:]
        sources = [self._sources(tensor) for tensor in floating]
        joined = tuple(sorted({point for source in sources for point in source})) if all(sources) else ()
        return joined, frozenset().union(*summands)

    def _renew(self, written: list[Tensor], sources: Sources, summands: frozenset[int]) -> list[Tensor]:
        """Note what was written into tensors; those among them that are activations."""
        changed = []
        for tensor in written:
            key = storage_key(tensor)
            if key is not None and key in self._alive:
                before = self._alive[key]
                self._alive[key] = Value(before.num_bytes, before.num_elements, sources, summands)
                changed.append(tensor)
        return changed

    def _register(
        self, result: Any, known: set[int | None], sources: Sources, summands: frozenset[int]
    ) -> list[Tensor]:
        """Note the new tensors in ``result``: those that share no memory with what was ``known``."""
        made = []
        first = tensors_of(result[0]) if isinstance(result, tuple) and result else None
        for tensor in tensors_of(result):
            key = storage_key(tensor)
            if key is None or key in known or key in self._alive:
                continue
            storage = tensor.untyped_storage()
            is_by_product = first is not None and all(tensor is not one for one in first)
            # Integers are counted in their own dtype: no quantizer sees them.
            own = (sources, summands) if tensor.is_floating_point() else ((), frozenset[int]())
            num_bytes = int(storage.nbytes())
            self._alive[key] = Value(num_bytes, num_bytes // tensor.element_size(), *own, is_by_product=is_by_product)
            self._references[key] = weakref.ref(storage, _Forget(self, key))
            made.append(tensor)
        return made

    def _note_reading(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            key = storage_key(tensor)
            if key is not None and key in self._alive:
                self._alive[key].is_read = True

    def _sources(self, tensor: Tensor | None) -> Sources:
        key = None if tensor is None else storage_key(tensor)
        if key is None:
            return ()
        if key in self._weights:
            return (self._weights[key],)
        return self._alive[key].sources if key in self._alive else ()

    def _summands(self, tensor: Tensor) -> frozenset[int]:
        key = storage_key(tensor)
        value = None if key is None else self._alive.get(key)
        return frozenset() if value is None else value.summands

    def _module(self) -> str:
        """The innermost module that runs now, ``""`` for the network itself."""
        deepest = max(self._tracker.parents - {"Global"}, key=lambda name: (name.count("."), name), default="")
        return deepest.partition(".")[2]

    def forget(self, key: int) -> None:
        """Note that a piece of memory is free."""
        self._alive.pop(key, None)
        self._references.pop(key, None)


@contextmanager
def recording(weights: Mapping[nn.Parameter, int] | None = None) -> Iterator[Tape]:
    """A tape of what runs in a block; ``weights`` are the float parameters at points, with their points' indices."""
    with _without_compiler(), ModuleTracker() as tracker, Tape(weights or {}, tracker) as tape:
        yield tape


def _without_compiler() -> AbstractContextManager[Any]:
    """Functions that were compiled run as they are written, where there can be any."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager


class _Forget:
    """What a dying storage calls; holds the tape no longer than its owner does."""

    def __init__(self, tape: Tape, key: int) -> None:
        self._tape, self._key = weakref.ref(tape), key

    def __call__(self, _: Any) -> None:
        tape = self._tape()
        if tape is not None:
            tape.forget(self._key)


def _covers_its_storage(tensor: Tensor) -> bool:
    return bool(tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes())
