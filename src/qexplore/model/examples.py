"""What stands for the data where costs watch a forward: one sample of every kind that there was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from qexplore._trees import map_tensors, tensors_of
from qexplore.model.inputs import num_samples
from qexplore.model.observation import CallCounter

_MOST = 16
"""So many batches are taken apart; others are known by then, or count in the number of values alone."""

_OUTPUT = "(output)"

Passed = tuple[tuple[str, float], ...]
"""Values that pass at each point for one sample, by name."""


@dataclass
class Example:
    """Inputs that stand for samples of one kind.

    Attributes:
        inputs: as `qexplore.model.call` takes them; of one sample where a batch can be cut into samples.
        num_samples: that they hold.
        num_seen: samples of the data that they stand for.
        passed: how many values pass at each point for a sample, by name.
    """

    inputs: Any
    num_samples: int
    num_seen: int
    passed: Passed = ()


class Examples:
    """Gathers examples while data runs through a network.

    Samples for which as many values pass at every point are of one kind. In most networks all are; where parts are
    skipped, or inputs are of many sizes, there are several.

    Args:
        watch: runs the network on inputs with a listener, and returns its output.
    """

    def __init__(self, watch: Callable[[Any, CallCounter], Any]) -> None:
        self.seen = CallCounter()
        self._watch = watch
        self._by_sample: dict[Passed, Example] = {}
        self._by_batch: dict[Passed, Example] = {}
        self._num_apart = 0

    def add(self, inputs: Any, target: Any, output: Any, seen: CallCounter) -> None:
        """Note what ``seen`` heard in a forward that made ``output`` of a batch."""
        count = count_samples(inputs, target, output)
        batch = _totals(seen, output)
        kind = tuple((name, total / count) for name, total in batch.items())
        if kind in self._by_batch:
            samples = [self._by_batch[kind]] * count
        elif self._num_apart < _MOST:
            samples = self._taken_apart(inputs, count, batch, kind)
        else:
            samples = []
        for example in samples:
            example.num_seen += 1
        is_cut = all(example.num_samples == 1 for example in samples)
        self.seen.add(seen, _sum(example.passed for example in samples) if samples and is_cut else batch, count)

    def _taken_apart(self, inputs: Any, count: int, batch: Mapping[str, int], kind: Passed) -> list[Example]:
        """An example for each sample of a batch: of it alone, or the whole batch where that passes something else."""
        self._num_apart += 1
        for sample in _cuts(inputs, count):
            try:
                first = self._passed(sample(0))
                if _is_batch([first] * count, batch):
                    self._by_batch[kind] = self._by_sample.setdefault(first, Example(sample(0), 1, 0, first))
                    return [self._by_batch[kind]] * count
                if dict(first)[_OUTPUT] >= batch[_OUTPUT]:  # no sample was taken, but a part of all of them
                    continue
                each = [first, *(self._passed(sample(place)) for place in range(1, count))]
            except Exception:
                continue
            if _is_batch(each, batch):
                return [
                    self._by_sample.setdefault(one, Example(sample(place), 1, 0, one)) for place, one in enumerate(each)
                ]
        self._by_batch[kind] = self._by_sample.setdefault(kind, Example(inputs, count, 0, kind))
        return [self._by_batch[kind]] * count

    def _passed(self, inputs: Any) -> Passed:
        heard = CallCounter()
        return tuple(_totals(heard, self._watch(inputs, heard)).items())

    def rename(self, names: Mapping[str, str]) -> None:
        """Go on under the new name of a point, by the old one, for what was noted so far."""
        if not names:
            return
        self.seen.rename(names)
        for example in self._by_sample.values():
            example.passed = _renamed(example.passed, names)
        self._by_sample = {_renamed(kind, names): example for kind, example in self._by_sample.items()}
        self._by_batch = {_renamed(kind, names): example for kind, example in self._by_batch.items()}

    @property
    def found(self) -> tuple[Example, ...]:
        """One of each kind, in the order in which they were met."""
        return tuple(self._by_sample.values())


def _totals(heard: CallCounter, output: Any) -> dict[str, int]:
    """Values that passed in a forward at each point, and in its output."""
    return {**dict(sorted(heard.values.items())), _OUTPUT: sum(tensor.numel() for tensor in tensors_of(output))}


def _renamed(passed: Passed, names: Mapping[str, str]) -> Passed:
    *points, output = [(names.get(name, name), values) for name, values in passed]
    return (*sorted(points), output)


def _sum(each: Iterable[Passed]) -> dict[str, int]:
    total = Counter[str]()
    for passed in each:
        total.update(dict(passed))  # whole numbers, of one sample
    return total


def _is_batch(each: Sequence[Passed], batch: Mapping[str, int]) -> bool:
    """Whether samples one by one pass what their batch does; what all share, as a table of positions, once."""
    total = _sum(each)
    shared = {name for name, values in each[0] if values == batch.get(name) and name != _OUTPUT}
    return total.keys() == batch.keys() and all(
        total[name] == batch[name] or (name in shared and total[name] == batch[name] * len(each)) for name in batch
    )


def count_samples(inputs: Any, target: Any = None, output: Any = None) -> int:
    """How many samples a batch holds: as many as targets, or outputs, where the inputs have an axis or list so long.

    Else what the first axes of the inputs agree on, or 1.
    """
    of_target, of_output = _plausible(target), _plausible(output)
    lengths = _lengths(inputs)
    agreed = [count for count in of_target if count in of_output]
    return next((count for count in (*agreed, *of_target, *of_output) if count in lengths), num_samples(inputs))


def _plausible(tree: Any) -> list[int]:
    """How many samples ``tree`` may have one entry each for, the likeliest first."""
    first = {tensor.shape[0] for tensor in tensors_of(tree) if tensor.dim() and tensor.shape[0]}
    agreed = list(first) if len(first) == 1 else []
    if not isinstance(tree, (list, tuple)) or not tree:
        return agreed
    if all(isinstance(item, Tensor) and item.dim() for item in tree) and agreed:
        return [*agreed, len(tree)]  # several tasks, or one tensor a sample
    return [len(tree), *agreed]


def _lengths(tree: Any) -> set[int]:
    """Of all axes and lists in ``tree``."""
    lengths = {size for tensor in tensors_of(tree) for size in tensor.shape}
    pending = [tree]
    while pending:
        item = pending.pop()
        if isinstance(item, list) or (isinstance(item, tuple) and item is not tree):  # a tuple itself holds arguments
            lengths.add(len(item))
        pending += [*item.values()] if isinstance(item, Mapping) else [*item] if isinstance(item, (list, tuple)) else []
    return lengths


def _cuts(inputs: Any, count: int) -> Iterator[Callable[[int], Any]]:
    """Ways to take a sample, by its place, out of so many: along an axis, or out of lists."""
    if count == 1:
        return

    def along(axis: int, is_only: bool, place: int) -> Any:
        def narrow(tensor: Tensor) -> Tensor:
            is_so_long = axis < tensor.dim() and tensor.shape[axis] == count
            if count not in tensor.shape or (is_only and not is_so_long):
                return tensor
            return tensor.narrow(axis if is_so_long else tensor.shape.index(count), place, 1)

        return map_tensors(narrow, inputs)

    def of_lists(place: int) -> Any:
        def is_so_long(item: Any) -> bool:
            return type(item) in (list, tuple) and len(item) == count and (item is not inputs or isinstance(item, list))

        def taken(leaf: Any) -> Any:
            return leaf[place : place + 1] if is_so_long(leaf) else leaf

        return pytree.tree_map(taken, inputs, is_leaf=is_so_long)

    tensors = tensors_of(inputs)
    for axis in range(max((tensor.dim() for tensor in tensors), default=0)):
        if any(tensor.dim() > axis and tensor.shape[axis] == count for tensor in tensors):
            yield partial(along, axis, False)
            yield partial(along, axis, True)  # what has that length along another axis by chance is shared
    yield of_lists
