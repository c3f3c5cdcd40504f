"""A recording of one forward, operation by operation: multiplications, values alive, and where values come from."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker

from qexplore._trees import tensors_of
from qexplore.tape.operation import Operation
from qexplore.tape.products import is_product, multiplies_nothing, products
from qexplore.tape.provenance import (
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
from qexplore.tape.reading import Given, Read, computed_with, region_of
from qexplore.tape.values import Factors, Origin, Reader, Sources, Value

_UNKNOWN, _CONSTANT = Origin(), Origin(is_constant=True)


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations that run while it is entered; see `recording`. Points are told to it as they pass.

    Args:
        weights: the float parameters at points, with their points' indices.
        fixed: parameters and buffers; what is made of these alone is the same for every sample.
        tracker: knows which modules run; entered by `recording`, since torch enters a mode again for every operation.
        call: names the call of a function that is made now; "" for none, or where nobody follows them.
        reading: gives the calls that read operands at points now.

    Attributes:
        operations: what was multiplied.
        not_counted: operations without a formula, and how often each ran.
        missing: those of them that may have products, and how many numbers they gave.
        weights_read: points of weights that operations on data read.
        moments: what is alive after each operation.
        additions: points that come together in sums.
        kernels: modules and calls that multiply what lies within one operation.
        reads: numbers that operations compute with.
        given: what modules and calls have given, each under the first that did.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # To have a mode skipped by its compiler, torch loads all of that, seconds; see `_without_compiler`.
        return False

    def __init__(
        self,
        weights: Mapping[nn.Parameter, int],
        fixed: Iterable[Tensor],
        tracker: ModuleTracker,
        call: Callable[[], str] = str,
        reading: Callable[[], Iterable[Reader]] = tuple,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.not_counted: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.weights_read: set[int] = set()
        self.moments: list[tuple[Value, ...]] = []
        self.additions: list[frozenset[int]] = []
        self.kernels: dict[str, None] = {}
        self.reads: list[Read] = []
        self.given: list[Value] = []
        self._weights: dict[int | None, list[tuple[tuple[int, int], int]]] = {}
        for weight, index in weights.items():  # several may share memory, as those of a recurrent layer on a GPU
            self._weights.setdefault(storage_key(weight), []).append((reach(weight), index))
        self._fixed = {storage_key(tensor) for tensor in fixed} - {None}
        self._alive: dict[int, Value] = {}
        self._references: dict[int, Any] = {}
        self._read_as: dict[int, dict[int, frozenset[Reader]]] = {}
        self._values_read: list[Value] = []
        self._tracker = tracker
        self._call, self._reading = call, reading

    def mark_read(self, point: int, readers: Iterable[Reader], tensors: Iterable[Tensor]) -> None:
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
        written, made = written_by(func, args, kwargs), tensors_of(result)
        is_fixed = self._follow_fixed(name, read, [*written, *made])
        is_view = not written and _is_view(read, made)
        if not is_view:  # who looks at a tensor in another shape has not read it yet
            self._note_reading(read)
        if not is_fixed:
            self._count(name, func, args, kwargs, result)
            if not is_view:
                self._note_computing(func, name, args, read, made)
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
            value = self._alive[storage_key(tensor) or 0]
            value.factors = factors
            value.copy_of = self._original(read[0]) if name == "aten.clone" and read else None

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
            return name, self._both_sources(*read), (self._is_fixed(read[0]), self._is_fixed(read[1]))
        if name != "aten.clone":  # by contiguous() or reshape()
            return None
        copied = self._alive.get(storage_key(read[0]) or 0) if read else None
        return None if copied is None else copied.factors

    def _sum_up(self, summed: Tensor) -> None:
        """Count an elementwise product that is summed up, as `torch.linalg.vecdot` is."""
        value = self._alive.get(storage_key(summed) or 0)
        if value is not None and value.factors is not None:
            name, operands, of_weights = value.factors
            self.operations.append(
                Operation(self._module(), "aten.mul", value.num_elements, operands, of_weights, self._call())
            )
            self.not_counted[name] -= 1
            value.factors = None

    def _count(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        if not is_product(func):
            return
        for macs, left, right in products(func, args, kwargs, result):
            if left is None or right is None:
                self.kernels.setdefault(self._place())
            of_weights = self._is_fixed(left), self._is_fixed(right)
            operands = self._both_sources(left, right)
            self.operations.append(Operation(self._module(), name, macs, operands, of_weights, self._call()))

    def _is_fixed(self, tensor: Tensor | None) -> bool:
        return tensor is not None and storage_key(tensor) in self._fixed

    def _note_computing(self, func: Any, name: str, args: Any, read: list[Tensor], made: list[Tensor]) -> None:
        """Note the numbers that an operation computes with, where it moves none and looks at several."""
        varying = [tensor for tensor in read if tensor.is_floating_point() and not self._is_fixed(tensor)]
        for tensor in computed_with(func, name, args, varying, made):
            self._note_read(tensor)

    def _note_read(self, tensor: Tensor) -> None:
        original = self._original(tensor)
        if original is None or self._origin_of(tensor).is_constant:
            return
        (value, region), reader = original, self._place()
        is_argument = not self._call() and value.made_by != reader
        is_quantized = bool(self._sources(tensor))
        known = value.reads.get(region)
        if known is None:
            value.reads[region] = Read(min(region[1], value.num_elements), is_quantized, reader, is_argument)
            self.reads.append(value.reads[region])
        elif known.is_quantized and not is_quantized:
            known.is_quantized, known.reader, known.is_argument = False, reader, is_argument

    def _original(self, tensor: Tensor) -> tuple[Value, tuple[int, int]] | None:
        """What holds the numbers of ``tensor``, and which part of it they are."""
        value = self._alive.get(storage_key(tensor) or 0)
        return None if value is None else value.part(region_of(tensor))

    def note_given(self, kind: Given, name: str, tree: Any) -> None:
        """Note that a module or a call gives the tensors in ``tree``: those that none inside it gave before."""
        for tensor in tensors_of(tree):
            value = self._alive.get(storage_key(tensor) or 0) if tensor.is_floating_point() else None
            if value is not None and value.given_by is None and not self._is_fixed(tensor):
                value.given_by = kind, name
                self.given.append(value)

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
                self._alive[key] = Value(before.num_bytes, before.num_elements, origin, made_by=self._place())
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
            self._alive[key] = Value(
                num_bytes,
                num_bytes // tensor.element_size(),
                own,
                is_by_product=is_by_product,
                made_by=self._place(),
            )
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
        running = {*(name.partition(".")[2] for name in self._tracker.parents), *self._reading()}
        return next((point for point, readers in points.items() if not readers.isdisjoint(running)), None)

    def _both_sources(self, left: Tensor | None, right: Tensor | None) -> tuple[Sources, Sources]:
        return self._sources(left), self._sources(right)

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

    def _place(self) -> str:
        """The call of a function that is made now, or the module that runs."""
        return self._call() or self._module()

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


def _is_view(read: list[Tensor], made: list[Tensor]) -> bool:
    """Whether an operation has made nothing but other shapes of what it was given."""
    keys = {storage_key(tensor) for tensor in made}
    return bool(keys) and keys <= {storage_key(tensor) for tensor in read}


def _has_fractions(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
