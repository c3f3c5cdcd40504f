"""Costs of candidates as a study tells them: from tables by point and choice, or as they were written down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np

from qexplore.cost import AdditiveTable, Cost, Costs, build_costs
from qexplore.errors import StudyError
from qexplore.model import Candidates, QuantizationPoint, QuantizedModel
from qexplore.study.records import RunRecord, row_keys
from qexplore.study.store import Store


class WrittenCost:
    """A cost of which a study holds what every candidate has that it measured.

    Args:
        store: holds it.
        name: of the cost.
        role: under which it is written.
    """

    unit = ""

    def __init__(self, store: Store, name: str, role: str) -> None:
        self.name = name
        columns = store.columns(role=role)
        self._known = dict(zip(row_keys(columns.candidates), columns.score.tolist(), strict=True))

    def cost(self, candidates: Candidates) -> Costs:
        """Costs, shape ``[N]``, of ``candidates``, codes of shape ``[N, L]``.

        Raises:
            StudyError: one that was measured by a run that did not ask for this cost.
        """
        keys = row_keys(candidates)
        missing = [place for place, key in enumerate(keys) if key not in self._known]
        if missing:
            first = tuple(candidates[missing[0]].tolist())
            raise StudyError(
                f"the cost '{self.name}' must be known for every candidate, and {len(missing)} of {len(keys)} were "
                f"measured by runs that did not ask for it, the first {first}. Ask of one run, run=, or give the "
                "cost itself in place of its name"
            )
        return np.array([self._known[key] for key in keys], dtype=np.float64)


class KnownCosts:
    """Costs by their names, for the candidates of a study.

    Args:
        store: the study's.
        runs: those that are asked.
    """

    def __init__(self, store: Store, runs: Sequence[RunRecord]) -> None:
        self._store, self._runs = store, runs

    @property
    def names(self) -> tuple[str, ...]:
        """What can be told."""
        tables = (name for run in self._runs for name in run.facts["cost tables"])
        return tuple(sorted({*tables, *(name for run in self._runs for name in run.facts["measured costs"])}))

    def of(self, specs: Any) -> tuple[Cost, ...]:
        """The costs that ``specs`` names: names, `CostTable`s, `Cost` objects or functions of candidates, or one.

        Raises:
            StudyError: a name that the study cannot tell.
            ProblemError: something that is no cost.
        """
        listed = [specs] if isinstance(specs, str) or not isinstance(specs, Iterable) else list(specs)
        built = [self._named(spec) if isinstance(spec, str) else spec for spec in listed]
        points = _Described([QuantizationPoint(**point) for point in self._runs[-1].facts["points"]])
        others = iter(build_costs([one for one in built if not isinstance(one, WrittenCost)], points.as_model()))
        costs = tuple(one if isinstance(one, WrittenCost) else next(others) for one in built)
        if len({cost.name for cost in costs}) < len(costs) or not costs:
            raise StudyError(
                f"`costs` must be one cost or several of different names, got {[cost.name for cost in costs]}"
            )
        return costs

    def _named(self, name: str) -> Cost:
        tables = [run.facts["cost tables"][name] for run in self._runs if name in run.facts["cost tables"]]
        roles = dict.fromkeys(
            run.facts["measured costs"][name] for run in self._runs if name in run.facts["measured costs"]
        )
        if len(tables) + len(roles) == 0:
            raise StudyError(
                f"the cost '{name}' cannot be told without the model, for no run of the study asked for it; it can "
                f"tell {', '.join(self.names)}. Give the cost itself, an object with `name`, `unit` and `cost` or a "
                f"function of candidates [N, L], or explore again with costs=[..., '{name}']: what was measured is "
                "reused"
            )
        if len(roles) > 1 or any(table != tables[0] for table in tables) or (tables and roles):
            raise StudyError(
                f"the runs of the study must mean one cost by the name '{name}', and they mean different ones. Ask of "
                "one run, run=, or give the cost itself"
            )
        return AdditiveTable.read(name, tables[0]) if tables else WrittenCost(self._store, name, next(iter(roles)))


class _Described:
    """As much of a model as a cost is bound to: its points."""

    def __init__(self, points: Sequence[QuantizationPoint]) -> None:
        self.points = tuple(points)

    def as_model(self) -> QuantizedModel:
        return cast(QuantizedModel, self)
