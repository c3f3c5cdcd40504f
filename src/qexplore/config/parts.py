"""What a configuration names, made: the network, its data, functions, and which modules are meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import qexplore.metrics as metrics
from qexplore._random import isolated
from qexplore._references import referred, working_directory_first
from qexplore.config.forms import is_reference, number_of_best
from qexplore.config.selection import calls, refers, selection
from qexplore.cost import CostTable
from qexplore.errors import ConfigError, QExploreError
from qexplore.metrics import as_metric, topk_accuracy
from qexplore.model import Scheme, functions_called, scheme
from qexplore.predicates import Predicate
from qexplore.search import read_target

Note = Callable[[str, str], None]
"""Takes the field of a mistake, and its sentence."""

LOADERS = ("calibration_loader", "search_loader", "report_loader")
SELECTIONS = ("activations", "weights", "inputs", "functions")


class Parts:
    """Everything that the fields of a configuration name; what cannot be had is noted.

    Args:
        given: fields whose values have the right form.
        note: told of every mistake.

    Attributes:
        network: in eval mode; None where it cannot be had, and so are the others.
        loaders: batches by field.
        metric: a metric or a function.
        unpack: a function of a batch.
        activations: a predicate.
        weights: likewise.
        inputs: likewise.
        functions: likewise.
        scheme: what stands in the place of these four.
        costs: what `LayerwiseQuantizationProblem` takes.
        first_error: why the first of them cannot be had.
    """

    def __init__(self, given: Mapping[str, Any], note: Note) -> None:
        self._note, self._seed = note, given.get("seed", 0)
        self.first_error: BaseException | None = None
        self.network: Any = self._network(given)
        self.loaders = {name: self._loader(name, given[name]) for name in LOADERS if name in given}
        self.metric: Any = self._metric(given)
        self.unpack: Any = self._made("unpack", given["unpack"]) if "unpack" in given else None
        self.activations = self._predicate("activations", given)
        self.weights = self._predicate("weights", given)
        self.inputs = self._predicate("inputs", given)
        self.functions = self._predicate("functions", given)
        self.scheme: Any = self._scheme(given)
        self.costs = tuple(self._costs(given.get("costs", ("total_bits",))))
        self._check_target(given)

    def _fail(self, field: str, text: str, error: BaseException | None = None) -> None:
        self.first_error = self.first_error or error
        self._note(field, text)

    def _made(self, field: str, name: str) -> Any:
        """What ``name`` refers to or, of a function without arguments, what that returns; None where it fails."""
        try:
            found = referred(name, ConfigError)
        except ConfigError as error:
            self._fail(field, f"must name something that can be imported, got {name!r}: {error}", error.__cause__)
            return None
        if isinstance(found, nn.Module) or not callable(found) or not _takes_nothing(found):
            return found
        try:
            with working_directory_first(), isolated(torch.device("cpu"), self._seed):
                return found()
        except Exception as error:
            kind = "" if isinstance(error, QExploreError) else f"{type(error).__name__}: "
            self._fail(field, f"must name a factory that works, got {name!r}, which failed: {kind}{error}", error)
            return None

    def _network(self, given: Mapping[str, Any]) -> Any:
        made = self._made("network", given["network"]) if "network" in given else None
        if made is None or isinstance(made, nn.Module):
            return made if made is None else made.eval()
        self._fail("network", f"must give an nn.Module, got {given['network']!r}, which gives {_kind(made)}")
        return None

    def _loader(self, field: str, name: str) -> Any:
        made = self._made(field, name)
        if made is not None and (not hasattr(made, "__iter__") or isinstance(made, (Tensor, Iterator))):
            hint = "a DataLoader or a list of batches, for it is passed over more than once"
            self._fail(field, f"must give {hint}, got {name!r}, which gives {_kind(made)}")
        return made

    def _metric(self, given: Mapping[str, Any]) -> Any:
        name = given.get("metric", "top1_accuracy")
        metric = self._made("metric", name) if is_reference(name) else metric_called(name)
        if metric is None:
            return None
        if isinstance(metric, nn.Module):
            self._fail("metric", f"must give a metric, got {name!r}, which gives {_kind(metric)}")
            return None
        try:
            checked: Any = as_metric(metric)
        except QExploreError as error:
            self._fail("metric", f"must give a metric, got {name!r}: {error}", error)
            return None
        low, high = checked.range
        least = given.get("min_accuracy")
        if least is not None and not low <= least <= high:
            self._fail("min_accuracy", f"must be in [{low:g}, {high:g}], the range of {checked.name}, got {least!r}")
        return metric

    def _predicate(self, field: str, given: Mapping[str, Any]) -> Predicate | None:
        if field not in given or self.network is None:
            return None
        words = given[field] if isinstance(given[field], (list, tuple)) else (given[field],)
        found = {word: self._made(field, word.lstrip("~ ")) for word in words if refers(word.lstrip("~ "))}
        if None in found.values():
            return None
        wrong = partial(self._fail, field)
        if field == "functions":
            return calls(words, found, wrong, self._called)
        return selection(words, self.network, found, wrong)

    def _called(self) -> list[str]:
        """Names of functions that the network calls; none where that cannot be seen."""
        loaders = [loader for loader in self.loaders.values() if loader is not None]
        return functions_called(self.network, loaders[0], self.unpack) if loaders else []

    def _scheme(self, given: Mapping[str, Any]) -> Scheme | None:
        name = given.get("scheme")
        if name is None or not is_reference(name):
            return name if name is None else scheme(name)
        made = self._made("scheme", name)
        if made is None or isinstance(made, Scheme):
            return made
        self._fail(
            "scheme", f"must give a scheme, such as qx.scheme('tensorrt'), got {name!r}, which gives {_kind(made)}"
        )
        return None

    def _costs(self, given: Any) -> Iterator[Any]:
        for spec in given if isinstance(given, (list, tuple)) else (given,):
            yield self._table(spec) if spec.endswith(".csv") else self._made("costs", spec) if ":" in spec else spec

    def _table(self, path: str) -> CostTable | None:
        try:
            return CostTable.from_csv(Path(path))
        except QExploreError as error:
            self._fail("costs", f"must name a cost table that can be read, got {path!r}: {error}", error)
            return None

    def _check_target(self, given: Mapping[str, Any]) -> None:
        path = given.get("target")
        try:
            if path is not None:
                read_target(path)
        except QExploreError as error:
            self._fail("target", f"must name a file of a target, got {path!r}: {error}", error)


def metric_called(name: str) -> Any:
    """The metric of a name that a configuration may hold."""
    best = number_of_best(name)
    return topk_accuracy(best) if best > 1 else getattr(metrics, name)


def _takes_nothing(function: Any) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def _kind(made: Any) -> str:
    return f"({', '.join(type(one).__name__ for one in made)})" if isinstance(made, tuple) else type(made).__name__
