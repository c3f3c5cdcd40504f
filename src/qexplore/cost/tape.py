"""A recording of one forward, operation by operation: multiplications, values alive, and where values come from."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker

from qexplore._trees import tensors_of
from qexplore.cost.moments import Sources
from qexplore.cost.operations import Operation
from qexplore.cost.products import is_product, multiplies_nothing, products
from qexplore.cost.provenance import (
    adds,
    counts_up,
    fills,
    fills_in_place,
    hands_on,
    multiplies,
    operation_name,
    reach,
    repeats,
    storage_key,
    sums,
    takes_first,
    written_by,
)
from qexplore.cost.values import Factors, Origin, Value
from qexplore.model import Site, calls_reading

_UNKNOWN, _CONSTANT = Origin(), Origin(is_constant=True)


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations that run while it is entered; see `recording`. Points are told to it as they pass.

    Args:
        weights: the float parameters at points, with their points' indices.
        fixed: parameters and buffers; what is made of these alone is the same for every sample.
        tracker: knows which modules run; entered by `recording`, since torch enters a mode again for every operation.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # To have a mode skipped by its compiler, torch loads all of that, seconds; see `_without_compiler`.
        return False

    def __init__(self, weights: Mapping[nn.Parameter, int], fixed: Iterable[Tensor], tracker: ModuleTracker) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.not_counted: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.weights_read: set[int] = set()
        self.moments: list[tuple[Value, ...]] = []
        self.additions: list[frozenset[int]] = []
        self._weights: dict[int | None, list[tuple[tuple[int, int], int]]] = {}
        for weight, index in weights.items():  # several may share memory, as those of a recurrent layer on a GPU
            self._weights.setdefault(storage_key(weight), []).append((reach(weight), index))
        self._fixed = {storage_key(tensor) for tensor in fixed} - {None}
        self._alive: dict[int, Value] = {}
        self._references: dict[int, Any] = {}
        self._read_as: dict[int, dict[int, frozenset[str | Site]]] = {}
        self._values_read: list[Value] = []
        self._tracker = tracker

    def mark_read(self, point: int, readers: Iterable[str | Site], tensors: Iterable[Tensor]) -> None:
        """Note that ``readers``, modules by name and calls, get ``tensors`` as they are at a point."""
        for tensor in tensors:
            key = storage_key(tensor)
            if key is None:
                continue
            self._read_as.setdefault(key, {})[point] = frozenset(readers)
            value = self._alive.get(key)
            if value is not None:
                value.is_read_elsewhere = value.is_read_elsewhere or (not value.read_at and value.is_read)
                value.read_at.add(point)
                self._values_read.append(value)

    def mark(self, point: int, tensors: Iterable[Tensor]) -> None:
        """Note that ``tensors`` pass at a point: it is what they held since they were made."""
        for tensor in tensors:
            key = storage_key(tensor)
            value = None if key is None else self._alive.get(key)
            if key is None or value is None:  # a parameter or a constant that was handed through
                continue
            if value.is_marked:  # two points on one tensor: the second one's quantizer makes another
                value = self._alive[key] = replace(value)
            value.origin, value.is_marked = Origin.of_point(point), True

    def keep(self, output: Any) -> None:
        """Note that ``output`` is what the forward was run for."""
        self._note_reading(tensors_of(output))
        for value in self._values_read:  # what is read at a point alone is stored as it is there
            if len(value.read_at) == 1 and not value.is_read_elsewhere:
                value.origin = Origin.of_point(next(iter(value.read_at)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls for every operation."""
        kwargs = kwargs or {}
        if not (isinstance(func, HigherOrderOperator) or is_product(func)):
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
        written = written_by(func, args, kwargs)
        is_fixed = self._follow_fixed(name, read, [*written, *tensors_of(result)])
        if written or not _is_view(read, result):  # who looks at a tensor in another shape has not read it yet
            self._note_reading(read)
        if not is_fixed:
            self._count(name, func, args, kwargs, result)
            self.weights_read.update(point for tensor in read for point in self._weights_in(tensor))
        varying = [tensor for tensor in read if _has_fractions(tensor)]
        if sums(name) and varying and not is_fixed:
            self._sum_up(varying[0])
        factors = None if is_fixed else self._factors(name, varying)
        origin = self._origin(name, read)
        changed = self._renew(written, origin)
        changed += self._register(result, {storage_key(tensor) for tensor in read}, origin)
        if changed:
            self.moments.append(tuple(self._alive.values()))
        if is_fixed:
            return
        if not (is_product(func) or hands_on(name) or fills(name)) and varying:
            self._leave_out(func, name, [tensor for tensor in changed if _has_fractions(tensor)])
        for tensor in changed[:1]:
            self._alive[storage_key(tensor) or 0].factors = factors

    def _follow_fixed(self, name: str, read: list[Tensor], made: list[Tensor]) -> bool:
        """Whether an operation makes something of parameters alone, as the weight behind a parametrization.

        That is not done for a sample, and what is repeated for each sample is the sample's.
        """
        is_fixed = all(storage_key(tensor) in self._fixed for tensor in read) if read else counts_up(name)
        self._fixed -= {storage_key(tensor) for tensor in made}
        if is_fixed and not repeats(name):
            self._fixed |= {storage_key(tensor) for tensor in made} - {None}
        return is_fixed

    def _leave_out(self, func: Any, name: str, made: list[Tensor]) -> None:
        """Note an operation without a formula, and whether products of two tensors may be missing for it."""
        if not made:
            return
        self.not_counted[name] += 1
        if not multiplies_nothing(func):
            self.missing[name] += made[0].numel()  # others are by-products, such as a factorisation

    def _factors(self, name: str, read: list[Tensor]) -> Factors | None:
        """What is multiplied, number by number, in what an operation makes of ``read``."""
        if multiplies(name) and len(read) == 2 and all(tensor.dim() for tensor in read):
            return name, self._sources(read[0]), self._sources(read[1])
        if name != "aten.clone":  # by contiguous() or reshape()
            return None
        copied = self._alive.get(storage_key(read[0]) or 0) if read else None
        return None if copied is None else copied.factors

    def _sum_up(self, summed: Tensor) -> None:
        """Count an elementwise product that is summed up, as `torch.linalg.vecdot` is."""
        value = self._alive.get(storage_key(summed) or 0)
        if value is not None and value.factors is not None:
            name, *operands = value.factors
            self.operations.append(
                Operation(self._module(), "aten.mul", value.num_elements, (operands[0], operands[1]))
            )
            self.not_counted[name] -= 1
            value.factors = None

    def _count(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        if not is_product(func):
            return
        for macs, left, right in products(func, args, kwargs, result):
            operands = self._sources(left), self._sources(right)
            self.operations.append(Operation(self._module(), name, macs, operands))

    def _origin(self, name: str, read: list[Tensor]) -> Origin:
        """Where the values come from that an operation makes of ``read``."""
        if fills(name):
            is_partly = fills_in_place(name) and not _covers_its_storage(read[0])
            return self._origin_of(read[0]) if is_partly else _CONSTANT
        floating = [tensor for tensor in read if tensor.is_floating_point()]
        if adds(name):
            summands = [self._origin_of(tensor).summands for tensor in floating]
            if len(floating) == 2 and (met := frozenset[int]().union(*summands)):
                self.additions.append(met)
            return Origin(summands=frozenset().union(*summands))
        is_masked = name in ("aten.mul", "aten.mul_") and any(tensor.dtype is torch.bool for tensor in read)
        if not (hands_on(name) or is_masked):
            return _UNKNOWN
        # What is copied into a tensor replaces its values, as far as it reaches.
        if name == "aten.copy_" and len(floating) == 2 and _covers_its_storage(floating[0]):
            floating = floating[1:]
        return Origin.joined(map(self._origin_of, floating[:1] if takes_first(name) else floating))

    def _renew(self, written: list[Tensor], origin: Origin) -> list[Tensor]:
        """Note what was written into tensors; those among them that are activations."""
        changed = []
        for tensor in written:
            key = storage_key(tensor)
            if key is not None and key in self._alive:
                before = self._alive[key]
                self._read_as.pop(key, None)
                self._alive[key] = Value(before.num_bytes, before.num_elements, origin)
                changed.append(tensor)
        return changed

    def _register(self, result: Any, known: set[int | None], origin: Origin) -> list[Tensor]:
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
            own = origin if tensor.is_floating_point() else _UNKNOWN
            num_bytes = int(storage.nbytes())
            self._alive[key] = Value(num_bytes, num_bytes // tensor.element_size(), own, is_by_product=is_by_product)
            self._references[key] = weakref.ref(storage, _Forget(self, key))
            made.append(tensor)
        return made

    def _note_reading(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            key = storage_key(tensor)
            if key is not None and key in self._alive:
                value = self._alive[key]
                value.is_read = True
                value.is_read_elsewhere = value.is_read_elsewhere or (
                    bool(value.read_at) and self._read_point(key) is None
                )

    def _read_point(self, key: int) -> int | None:
        """The point that the module or call which runs now reads a tensor at."""
        points = self._read_as.get(key)
        if not points:
            return None
        running = {*(name.partition(".")[2] for name in self._tracker.parents), *calls_reading()}
        return next((point for point, readers in points.items() if not readers.isdisjoint(running)), None)

    def _sources(self, tensor: Tensor | None) -> Sources:
        return () if tensor is None else self._origin_of(tensor).sources

    def _origin_of(self, tensor: Tensor) -> Origin:
        key = storage_key(tensor)
        if key is None:
            return _UNKNOWN
        if (point := self._read_point(key)) is not None:
            return Origin.of_point(point)
        if key in self._alive:
            return self._alive[key].origin
        if key in self._weights:
            return Origin(tuple(sorted(self._weights_in(tensor))))
        return _UNKNOWN if tensor.dim() else _CONSTANT  # a single number that is no result is filled in somewhere

    def _weights_in(self, tensor: Tensor) -> list[int]:
        key = storage_key(tensor)
        if key not in self._weights:
            return []
        start, end = reach(tensor)
        return [index for (first, behind), index in self._weights[key] if first < end and start < behind]

    def _module(self) -> str:
        """The innermost module that runs now, ``""`` for the network itself."""
        deepest = max(self._tracker.parents - {"Global"}, key=lambda name: (name.count("."), name), default="")
        return deepest.partition(".")[2]

    def forget(self, key: int) -> None:
        """Note that a piece of memory is free."""
        self._alive.pop(key, None)
        self._read_as.pop(key, None)
        self._fixed.discard(key)
        self._references.pop(key, None)


@contextmanager
def recording(network: nn.Module, weights: Mapping[nn.Parameter, int] | None = None) -> Iterator[Tape]:
    """A tape of what ``network`` runs in a block; ``weights`` are its parameters at points, with their indices."""
    fixed = itertools.chain(network.parameters(), network.buffers())
    parts = _without_compiler(), _without_fused_attention()
    with parts[0], parts[1], _Modules() as tracker, Tape(weights or {}, fixed, tracker) as tape:
        yield tape


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Attention and transformer layers run in the parts that they consist of, which can be counted and followed."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _without_compiler() -> AbstractContextManager[Any]:
    """Functions that were compiled run as they are written, where there can be any."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager


class _Modules(ModuleTracker):
    """Without the hooks for a backward, which die on a view of a parameter that is passed to a module."""

    def _fw_pre_hook(self, mod: nn.Module, input: Any) -> None:
        self.parents.add(self._get_mod_name(mod))  # type: ignore[no-untyped-call]

    def _fw_post_hook(self, mod: nn.Module, input: Any, output: Any) -> None:
        self.parents.discard(self._get_mod_name(mod))  # type: ignore[no-untyped-call]


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


def _is_view(read: list[Tensor], result: Any) -> bool:
    """Whether an operation has made nothing but other shapes of what it was given."""
    made = {storage_key(tensor) for tensor in tensors_of(result)}
    return bool(made) and made <= {storage_key(tensor) for tensor in read}


def _has_fractions(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
