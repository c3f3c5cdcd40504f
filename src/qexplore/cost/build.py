"""From what users write to costs of one model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from qexplore._arguments import checked_name
from qexplore.cost.base import CheckedCost, Cost, SeparableCost
from qexplore.cost.bits import MeanBits, TotalBits, WeightedBits
from qexplore.cost.memory import ActivationBytes, ModelBits, ModelBytes, PeakActivationBytes
from qexplore.cost.observation import Observed, observe
from qexplore.cost.operations import Bops
from qexplore.cost.table import CostTable
from qexplore.errors import ProblemError
from qexplore.model import QuantizedModel


class _Source:
    """A model, and one observation of it for all costs that need one."""

    def __init__(self, model: QuantizedModel) -> None:
        self.model = model
        self._observed: Observed | None = None

    def observed(self, cost: str) -> Observed:
        """The observation, made for ``cost`` where it is the first to need one."""
        self._observed = self._observed or observe(self.model, cost=cost)
        return self._observed


_NAMED: dict[str, Callable[[_Source], Cost]] = {
    "activation_bytes": lambda source: ActivationBytes(source.model.points),
    "bops": lambda source: Bops(source.observed("bops").operations, source.observed("bops").idle),
    "mean_bits": lambda source: MeanBits(source.model.points),
    "model_bits": lambda source: ModelBits(source.model),
    "model_bytes": lambda source: ModelBytes(source.model),
    "peak_activation_bytes": lambda source: PeakActivationBytes(source.observed("peak_activation_bytes").moments),
    "total_bits": lambda source: TotalBits(),
    "weighted_bits": lambda source: WeightedBits(source.model.points),
}

COST_NAMES = tuple(sorted(_NAMED))
"""Costs that can be asked for by name."""


ADDITIVE_NAMES = ("activation_bytes", "mean_bits", "model_bits", "model_bytes", "total_bits", "weighted_bits")
"""Those of them that are sums over points."""


_OTHER_COSTS = ": or give a qexplore.CostTable, or a function f(candidates [N, L]) -> [N]"


def build_costs(specs: Any, model: QuantizedModel) -> tuple[Cost, ...]:
    """The costs that ``specs`` names, for candidates of ``model``.

    Args:
        specs: one of, or a sequence of: names among `COST_NAMES`, `CostTable`s, objects with ``name``, ``unit`` and
            ``cost``, or functions ``f(candidates [N, L]) -> [N]``, called by their ``__name__``.
        model: wrapped; calibrated or described for costs that depend on what passes at a point.

    Raises:
        ProblemError: an unknown name, something that is no cost, a table with rows for unknown points, two costs of one
            name, or a cost that needs a forward that was not observed yet.
    """
    listed = list(specs) if isinstance(specs, Iterable) and not isinstance(specs, str) else [specs]
    source = _Source(model)
    costs = tuple(_build(spec, source) for spec in listed)
    names = [cost.name for cost in costs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ProblemError(f"every cost must have a name of its own, got '{twice}' {names.count(twice)} times")
    return costs


def _build(spec: Any, source: _Source) -> Cost:
    if isinstance(spec, str):
        return _NAMED[checked_name("a cost", spec, COST_NAMES, ProblemError, hint=_OTHER_COSTS)](source)
    if isinstance(spec, CostTable):
        return spec.bound_to([point.name for point in source.model.points])
    if isinstance(spec, (SeparableCost, Bops, PeakActivationBytes, CheckedCost)):
        return spec
    if not isinstance(spec, type) and isinstance(spec, Cost) and callable(spec.cost):
        return CheckedCost(spec.cost, str(spec.name), str(spec.unit), getattr(spec, "check", None))
    if callable(spec) and not isinstance(spec, type) and isinstance(getattr(spec, "__name__", None), str):
        return CheckedCost(spec, spec.__name__)
    raise ProblemError(
        f"a cost must be a name, a CostTable, an object with `name`, `unit` and `cost`, or a function that has a name, "
        f"got {spec!r}: {_hint(spec)}"
    )


def _hint(spec: Any) -> str:
    if isinstance(spec, type):
        return f"make an object of the class, {spec.__name__}(...)"
    if callable(spec):
        return "write it as a function with `def`, or give it a `__name__`"
    return f"the names are {', '.join(COST_NAMES)}"
