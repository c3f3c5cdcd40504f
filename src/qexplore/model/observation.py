"""One forward in full precision that shows where tensors pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qexplore._trees import tensors_of
from qexplore.errors import SelectionError
from qexplore.model.point_hook import Listener
from qexplore.model.points import FoundPoint, QuantizationPoint

Data = Literal["calibration", "example"]
"""Of what a forward is."""

_RAN: dict[Data, tuple[str, str]] = {
    "calibration": ("no batch of the calibration data", "If other data do, calibrate on these too"),
    "example": ("nothing in the example", "If other data do, run model.calibrate(loader) on these first"),
}
"""What ran, by what it was, and what to do where other data reach more."""


class CallCounter:
    """Listens at all points during a forward: shapes, calls, and how many values pass; and adds up several.

    Attributes:
        shapes: of the first tensor at each point, in the first forward that passes there.
        calls: at each point, in the same forward.
        values: that passed, in all forwards.
        devices: on which the first tensor at each point lay, in the latest forward.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.calls: Counter[str] = Counter()
        self.values: Counter[str] = Counter()
        self.devices: dict[str, torch.device] = {}
        self._num_samples = 0

    def __call__(self, name: str, tensors: list[Tensor]) -> None:
        """Note one call at the point ``name``."""
        if tensors:
            self.shapes.setdefault(name, tuple(tensors[0].shape))
            self.devices[name] = tensors[0].device
            self.calls[name] += 1
            self.values[name] += sum(tensor.numel() for tensor in tensors)

    def note(self, name: str, tree: Any) -> None:
        """Note the tensors in ``tree`` as values at ``name``, which need be no point that is listened at."""
        self.values[name] += sum(tensor.numel() for tensor in tensors_of(tree))

    def add(self, other: CallCounter, values: Mapping[str, int], num_samples: int) -> None:
        """Add a forward of so many samples that ``other`` heard, and the ``values`` that pass for all of them."""
        self.shapes = other.shapes | self.shapes
        self.devices |= other.devices
        self.calls = Counter({**other.calls, **self.calls})
        self.values.update(values)
        self._num_samples += num_samples

    def rename(self, names: Mapping[str, str]) -> None:
        """Go on under the new name, by the old one, for what was heard so far."""
        self.shapes = {names.get(name, name): shape for name, shape in self.shapes.items()}
        self.devices = {names.get(name, name): device for name, device in self.devices.items()}
        self.calls = Counter({names.get(name, name): count for name, count in self.calls.items()})
        self.values = Counter({names.get(name, name): count for name, count in self.values.items()})

    def num_elements(self, name: str) -> float:
        """Values that pass at the point ``name`` for one sample, in the mean; an int where it is whole."""
        whole, rest = divmod(self.values[name], max(self._num_samples, 1))
        return self.values[name] / self._num_samples if rest else whole


def activation_point(
    name: str, index: int, module: tuple[str, str] | None, seen: CallCounter | None, found: FoundPoint | None = None
) -> QuantizationPoint:
    """The point of an output, given its module's name and type; of the input, without one; or one that was found."""
    qualified, kind = module or ("", "")
    return QuantizationPoint(
        name,
        found.kind if found else "input" if module is None else "activation",
        index,
        kind,
        seen.shapes.get(name) if seen else None,
        seen.calls[name] if seen else None,
        seen.num_elements(name) if seen else None,
        module=qualified,
        readers=found.readers if found else (),
    )


def all_of(*listeners: Listener) -> Listener:
    """A listener that tells others."""

    def listen(name: str, tensors: list[Tensor]) -> None:
        for listener in listeners:
            listener(name, tensors)

    return listen


def refuse_not_called(not_called: list[str], network: nn.Module, by: Data) -> None:
    """Raise when selected modules were not called by what ran.

    Raises:
        SelectionError: lists them, and says so when torch's attention reads their weights without calling them.
    """
    if not not_called:
        return
    listed = ", ".join(f"'{name}'" for name in not_called)
    bypassed = [name for name in not_called if _is_bypassed(name, network)]
    if bypassed:
        listed += f" (torch's MultiheadAttention uses the weights of {', '.join(bypassed)} without calling the module)"
    ran, otherwise = _RAN[by]
    raise SelectionError(
        f"every selected module must be called in a forward, but {ran} calls: {listed}. {otherwise}; if nothing ever "
        f"calls them, leave them out: predicate & ~predicates.by_name({', '.join(map(repr, not_called))})"
    )


def _is_bypassed(name: str, network: nn.Module) -> bool:
    parent, _, child = name.rpartition(".")
    return child == "out_proj" and isinstance(network.get_submodule(parent), nn.MultiheadAttention)
