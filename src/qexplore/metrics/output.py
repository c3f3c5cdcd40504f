"""Which of a network's outputs is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qexplore._arguments import is_whole
from qexplore._pickling import require_a_name
from qexplore._trees import opened
from qexplore.errors import MetricError

_LISTED = 8
"""How many outputs an error names before it says how many more there are."""


@dataclass(frozen=True)
class Output:
    """One choice among what a network gives, the same for metrics, divergences, losses and comparisons of files.

    Args:
        chosen: the place of an output (``1``), its name (``"boxes"``; ``"aux.0"`` inside another), or a function of all
            that the network gives.

    Raises:
        MetricError: none of these.
    """

    chosen: Any

    def __post_init__(self) -> None:
        if not (is_whole(self.chosen) or isinstance(self.chosen, str) or callable(self.chosen)):
            raise MetricError(
                "`output` must be the place of an output, its name, or a function of all outputs, got "
                f"{self.chosen!r}: leave it out where the network has one"
            )

    def __getstate__(self) -> dict[str, Any]:
        require_a_name("an `output`", self.chosen, MetricError)
        return self.__dict__.copy()

    @classmethod
    def of(cls, chosen: Any) -> Output | None:
        """``chosen`` as an `Output`; None stands for no choice."""
        return chosen if chosen is None or isinstance(chosen, cls) else cls(chosen)

    def __call__(self, outputs: Any) -> Any:
        """The chosen one of ``outputs``.

        Raises:
            MetricError: there is none of this place or name, or the function raises.
        """
        if callable(self.chosen):
            return self._by_function(outputs)
        found = _named(outputs, self.chosen) if isinstance(self.chosen, str) else _placed(outputs, int(self.chosen))
        if found is None:
            raise MetricError(
                f"`output` must be one that the network gives, {outputs_text(named_tensors(outputs))}, got "
                f"{self.chosen!r}"
            )
        return found

    def __str__(self) -> str:
        if callable(self.chosen):
            return str(getattr(self.chosen, "__name__", type(self.chosen).__name__))
        return repr(self.chosen)

    def _by_function(self, outputs: Any) -> Any:
        try:
            return self.chosen(outputs)
        except Exception as error:
            raise MetricError(
                f"`output` must be a function of what the network gives, {outputs_text(named_tensors(outputs))}, but "
                f"'{self}' raised {type(error).__name__}: {error}"
            ) from error


def _placed(tree: Any, place: int) -> Any:
    whole = opened(tree)
    parts = (tree,) if whole is None else whole.parts
    return parts[place] if -len(parts) <= place < len(parts) else None


def _named(tree: Any, name: str) -> Any:
    whole = opened(tree)
    if whole is None:
        return None
    for key, part in zip(map(str, whole.keys), whole.parts, strict=True):
        found = part if key == name else _named(part, name[len(key) + 1 :]) if name.startswith(f"{key}.") else None
        if found is not None:
            return found
    return None


def named_tensors(tree: Any, name: str = "", inside: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """The tensors in ``tree`` by the names that an `Output` takes; one alone has the name ``""``."""
    if isinstance(tree, Tensor):
        return {name: tree}
    whole = None if id(tree) in inside else opened(tree)
    found: dict[str, Tensor] = {}
    for key, part in () if whole is None else zip(whole.keys, whole.parts, strict=True):
        found |= named_tensors(part, f"{name}.{key}" if name else str(key), (*inside, id(tree)))
    return found


def outputs_text(tensors: dict[str, Tensor]) -> str:
    """Names and shapes, for errors."""
    shown = [f"{_spelled(name)} of shape {tuple(tensor.shape)}" for name, tensor in tensors.items()]
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return (", ".join(shown[:_LISTED]) or "no tensor") + more


def in_metric(chosen: Any) -> str:
    """How a metric is given its own choice, which every call obeys."""
    return f"metric=dataclasses.replace(qexplore.top1_accuracy, output={chosen})"


def floating_outputs(output: Any) -> dict[str, Tensor]:
    """Floating tensors with an axis or more in a network's output, by name: what may be judged."""
    return {name: one for name, one in named_tensors(output).items() if one.is_floating_point() and one.dim()}


def logits_of(output: Any) -> Tensor:
    """The tensor of logits in a network's output: what it calls ``logits``, else its one floating tensor.

    Raises:
        MetricError: several floating tensors, none of which is called so, or no tensor.
    """
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits  # type: ignore[no-any-return]
    if isinstance(output, dict) and "logits" in output:
        return output["logits"]  # type: ignore[no-any-return]
    tensors = floating_outputs(output) or named_tensors(output)
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    if tensors:
        raise MetricError(
            f"the network must give one floating output, or `output` must say which is judged, got "
            f"{outputs_text(tensors)}: choose one by its place or name, or by a function of all of them, where a call "
            f"takes output=, and in the metric everywhere else, as in {in_metric(_spelled(next(iter(tensors))))}"
        )
    raise MetricError(
        f"the output must be a tensor, or hold one, got {type(output).__name__}: write a qexplore.Metric of your "
        "own for it"
    )


def _spelled(name: str) -> str:
    return name if name.isdigit() else repr(name) if name else "one tensor"
