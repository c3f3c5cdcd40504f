"""One forward in full precision that shows where tensors pass."""

from __future__ import annotations

from collections import Counter

from torch import Tensor, nn

from qexplore.errors import SelectionError
from qexplore.model.hooks import Listener
from qexplore.model.points import QuantizationPoint


class CallCounter:
    """Listens at all points during one forward: shapes, calls, and how many values pass.

    Args:
        num_samples: of the forward that it listens to.
    """

    def __init__(self, num_samples: int = 1) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.calls: Counter[str] = Counter()
        self._num_samples = num_samples
        self._values: Counter[str] = Counter()

    def __call__(self, name: str, tensors: list[Tensor]) -> None:
        """Note one call at the point ``name``."""
        if tensors:
            self.shapes.setdefault(name, tuple(tensors[0].shape))
            self.calls[name] += 1
            self._values[name] += sum(tensor.numel() for tensor in tensors)

    def num_elements(self, name: str) -> int:
        """Values that one sample's forward passes at the point ``name``; at least that where samples share some."""
        return -(-self._values[name] // self._num_samples)


def activation_point(
    name: str, index: int, module: tuple[str, str] | None, seen: CallCounter | None
) -> QuantizationPoint:
    """The point of an output, given its module's name and type, or of the input, without one."""
    qualified, kind = module or ("", "")
    return QuantizationPoint(
        name,
        "input" if module is None else "activation",
        index,
        kind,
        seen.shapes.get(name) if seen else None,
        seen.calls[name] if seen else None,
        seen.num_elements(name) if seen else None,
        module=qualified,
    )


def all_of(*listeners: Listener) -> Listener:
    """A listener that tells others."""

    def listen(name: str, tensors: list[Tensor]) -> None:
        for listener in listeners:
            listener(name, tensors)

    return listen


def refuse_never_called(never_called: list[str], network: nn.Module) -> None:
    """Raise when selected modules were not called.

    Raises:
        SelectionError: lists them, and says so when torch's attention reads their weights without calling them.
    """
    if not never_called:
        return
    listed = ", ".join(f"'{name}'" for name in never_called)
    bypassed = [name for name in never_called if _is_bypassed(name, network)]
    note = (
        f" (torch's MultiheadAttention uses the weights of {', '.join(bypassed)} without calling the module)"
        if bypassed
        else ""
    )
    raise SelectionError(
        f"every selected module must be called in a forward, but these never are: {listed}{note}. Leave them out: "
        f"predicate & ~predicates.by_name({', '.join(map(repr, never_called))})"
    )


def _is_bypassed(name: str, network: nn.Module) -> bool:
    parent, _, child = name.rpartition(".")
    return child == "out_proj" and isinstance(network.get_submodule(parent), nn.MultiheadAttention)
