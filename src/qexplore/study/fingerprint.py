"""What decides a measurement, in words: where it differs, what was measured cannot be gone on with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parametrize

from qexplore._random import drawn_apart
from qexplore._trees import tensors_of
from qexplore.errors import StudyMismatchError
from qexplore.evaluation import DirectEvaluator
from qexplore.metrics import Metric, WholeSetMetric
from qexplore.model import Placement, device_text, fingerprint_of
from qexplore.search import LayerwiseQuantizationProblem
from qexplore.study.contents import Contents, code_digest, digest_of, is_of_library

MEASUREMENTS = "1"
"""Goes up when qexplore measures the same candidate otherwise than before, be it in the last bit."""

ABSENT = "nothing"
"""Stands for a field that one of two fingerprints lacks."""

_MEANINGS = {
    "network": "another class of network",
    "network code": "the forward of a layer was changed",
    "structure": "other layers, or parameters of other names or shapes",
    "points": "other quantization points",
    "weights": "other weights",
    "ranges": "another calibration, or quantizers that were changed by hand",
    "data": "other samples or targets, or in another order",
    "batches": "samples come in batches of other sizes",
    "metric": "another metric, direction or range",
    "metric code": "the function of the metric was changed",
    "divergence": "candidates are compared with the float network by another divergence",
    "space": "other choices",
    "ties": "other points are tied",
    "precision": "another precision",
    "settings": "torch is set to another arithmetic",
    "engine": "candidates are measured in another way",
    "batch size": "samples are cut otherwise, perhaps for want of memory: budget_bytes= says what may be taken",
    "threads": "sums are split among another number of threads: torch.set_num_threads",
    "device": "another device, whose arithmetic differs in its last bits",
    "torch": "another version, whose kernels may differ in their last bits",
    "numpy": "another version",
    "measurements": "another version of qexplore, which measures otherwise",
}


def measured_by(problem: LayerwiseQuantizationProblem) -> dict[str, str]:
    """What decides the measurements of ``problem``, each by its name, in texts that people can read.

    Costs a pass over the data, without the network. What is told of data and functions is a short digest of their
    content; what content cannot be had of, such as a file handle, is known by its type, and the text says so.

    Raises:
        DataError: a loader that is read anew gives other samples.
    """
    model, space = problem.model, problem.space
    device = Placement.of(model.model).device
    kinds = dict.fromkeys(parametrize.type_before_parametrizations(one) for one in model.model.modules())
    own = [kind for kind in kinds if not is_of_library(kind)]
    data, batches = _data(problem.direct)
    ties = [[model.points[place].name for place in group] for group in space.groups]
    return {
        **vars(fingerprint_of(model)),
        "network code": code_digest(*own) if own else "none beside that of packages",
        "data": data,
        "batches": batches,
        **dict(_metrics(problem)),
        "divergence": problem.divergence.name if problem.divergence else f"none: {problem.direct.divergence_gap}",
        "space": f"{space.num_points} points, choices {digest_of(space.choices)}",
        "ties": "; ".join(map(" = ".join, ties)) or "none",
        "precision": problem.direct.precision,
        "settings": ", ".join(f"{name} {value}" for name, value in problem.direct.settings()) or "qexplore's own",
        **_engine(problem.evaluator),
        "threads": str(torch.get_num_threads()),
        "device": device_text(device),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "measurements": MEASUREMENTS,
    }


def mismatches(old: Mapping[str, str], new: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """``(field, old, new)`` of every field that differs, in the order of ``new``; `ABSENT` where one has none."""
    names = dict.fromkeys([*new, *old])
    pairs = ((name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in names)
    return [(name, before, now) for name, before, now in pairs if before != now]


def difference_lines(old: Mapping[str, str], new: Mapping[str, str], where: tuple[str, str]) -> list[str]:
    """A line for every field that differs: both values, ``where`` they stand, and what it means."""
    (there, here), differing = where, mismatches(old, new)
    return [f"  {name}: {before} {there}, {now} {here} ({_meaning(name)})" for name, before, now in differing]


def require_same(path: str | os.PathLike[str], old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Refuse to go on with the study at ``path``, measured by ``old``, where ``new`` measures now.

    Raises:
        StudyMismatchError: names every field that differs, both values, what it means, and the ways out.
    """
    lines = difference_lines(old, new, ("in the study", "now"))
    if not lines:
        return
    raise StudyMismatchError(
        "\n".join(
            [
                f"Study {os.fspath(path)!r} must go on with what it was measured with, got {len(lines)} "
                f"difference{'s' if len(lines) > 1 else ''}:",
                *lines,
                'Bring back what it was; or begin another study beside it, on_mismatch="new", which measures anew.',
            ]
        )
    )


def _meaning(name: str) -> str:
    kind = name if name in _MEANINGS else " ".join(part for part in name.split() if not part.isdigit())
    return _MEANINGS.get(kind, "known to one version of qexplore only")


def _metrics(problem: LayerwiseQuantizationProblem) -> Iterator[tuple[str, str]]:
    for place, metric in enumerate([problem.metric, *problem.further.metrics]):
        number = f" {place}" if place else ""
        yield f"metric{number}", _metric_text(metric)
        yield f"metric{number} code", code_digest(*_functions(metric))


def _metric_text(metric: Metric | WholeSetMetric) -> str:
    low, high = metric.range
    better = "higher" if metric.higher_is_better else "lower"
    kind = "of the whole set, " if isinstance(metric, WholeSetMetric) else ""
    text = f"{metric.name} ({kind}{better} is better, from {low:g} to {high:g})"
    if isinstance(metric, Metric) and metric.output is not None:
        text += f", of output {metric.output}"
    ignored = getattr(metric, "ignored", None)
    return text if ignored is None else f"{text}, label {ignored} ignored"


def _functions(metric: Metric | WholeSetMetric) -> tuple[Any, ...]:
    if isinstance(metric, WholeSetMetric):
        return (metric.function,)
    chosen = () if metric.output is None else (metric.output.chosen,)
    return metric.function, metric.of_mean, metric.fit, metric.sample_range, *chosen


def _engine(evaluator: Any) -> dict[str, str]:
    count, size = getattr(evaluator, "num_workers", 0), getattr(evaluator, "batch_size", None)
    engine = f"prefix, {count} batch{'es' if count > 1 else ''} at a time" if count else "direct"
    return {"engine": engine, "batch size": "the loader's" if size is None else str(size)}


def _data(direct: DirectEvaluator) -> tuple[str, str]:
    """Digest of the contents of all batches, and their sizes."""
    contents, sizes = Contents(), []
    for batch in drawn_apart(direct.loader) if direct.data is None else direct.data:
        contents.add(batch)
        sizes.append(next((len(one) for one in tensors_of(batch) if one.dim()), 0))
    runs = [(size, len(list(equal))) for size, equal in groupby(sizes)]
    return str(contents), ", ".join(f"{count} of {size}" for size, count in runs)


def contents_of(direct: DirectEvaluator) -> str:
    """Digest of the samples that ``direct`` measures on, and of how they come in batches; costs a pass over them."""
    return digest_of(_data(direct))
