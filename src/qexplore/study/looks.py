"""Sensitivities of single points, from what searches looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qexplore.errors import StudyError
from qexplore.front import by_stored_bits
from qexplore.metrics import kl_divergence
from qexplore.model import Candidate
from qexplore.search import Lacking, SensitivityTable
from qexplore.study.store import Store


def sensitivities_of(store: Store, facts: Mapping[str, Any]) -> SensitivityTable:
    """Of each point at each choice that was looked at with all others off, on the most samples.

    Raises:
        StudyError: nothing was looked at so.
    """
    tables: dict[tuple[str, int], dict[Candidate, float]] = {}
    for part in store.parts():
        if part.against_float and sum(map(bool, part.candidate)) <= 1:
            table = tables.setdefault((part.metric, len(part.values)), {})
            table[part.candidate] = float(np.mean(part.values, dtype=np.float64))
    if not tables:
        raise StudyError(
            f"Sensitivities of the study '{store.path}': a search must have looked at points one at a time, and none "
            "did. Explore with a guided algorithm, or measure them: qexplore.sensitivity(problem)"
        )
    metric, num_samples = max(tables, key=lambda key: (len(tables[key]), key[1]))
    known = tables[metric, num_samples]
    codes, values = [], []
    for point, choices in enumerate(facts["choices"]):
        rows = {code: _alone(point, code, len(facts["choices"])) for code in by_stored_bits(choices)}
        found = {code: known[row] for code, row in rows.items() if row in known}
        codes.append(tuple(found))
        values.append(tuple(np.inf if np.isnan(value) else value for value in found.values()))
    count, total = sum(map(len, codes)), sum(map(len, facts["choices"]))
    lacking = Lacking(f"{count} of {total} choices", None) if count < total else None
    names = [point["name"] for point in facts["points"]]
    kept = [place for place, row in enumerate(codes) if row]
    return SensitivityTable(
        tuple(names[place] for place in kept),
        tuple(codes[place] for place in kept),
        tuple(values[place] for place in kept),
        metric,
        "nats" if metric == kl_divergence.name else "",
        num_samples,
        lacking,
    )


def _alone(point: int, code: int, length: int) -> Candidate:
    return (*(0,) * point, code, *(0,) * (length - point - 1))
