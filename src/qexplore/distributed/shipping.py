"""What is sent to workers, as bytes: the evaluators with their network, ranges and data, each once."""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from qexplore._optional import import_optional
from qexplore.errors import WorkersError
from qexplore.evaluation import DirectEvaluator, Evaluator
from qexplore.model import QuantizedModel
from qexplore.search import LayerwiseQuantizationProblem

Evaluators = dict[str, Evaluator]
"""By role."""
_DEEPEST = 12


def ray_module() -> Any:
    """The package itself.

    Raises:
        MissingPackageError: names the extra.
    """
    return import_optional("ray", extra="ray", purpose="RayWorkers")


def evaluators_by_role(problem: LayerwiseQuantizationProblem) -> Evaluators:
    """All that a problem asks."""
    found: Evaluators = {}

    def around(evaluator: Evaluator, role: str) -> Evaluator:
        return found.setdefault(role, evaluator)

    problem.recorded_by(around)
    return found


def direct_of(evaluator: Evaluator) -> DirectEvaluator:
    """The direct evaluator that it is, or that it asks."""
    found: Any = evaluator
    direct: DirectEvaluator = getattr(found, "direct", found)
    return direct


def packed(evaluators: Mapping[str, Evaluator], without: QuantizedModel | None = None) -> bytes:
    """``evaluators`` as bytes.

    Args:
        evaluators: by role.
        without: a network that whoever unpacks it has already: its modules are named instead.

    Raises:
        WorkersError: something cannot be pickled; names the attribute that stops it.
    """
    names = {} if without is None else {id(module): name for name, module in _named(without)}
    try:
        return _dumped(dict(evaluators), names)
    except Exception as error:
        path, found = _culprit("problem", dict(evaluators), names)
        raise WorkersError(
            f"RayWorkers: what is sent to workers must be picklable, got {path} of type {type(found).__name__}: "
            f"{type(error).__name__}: {error}. Leave it out of the network, or have every worker build the problem "
            'itself: RayWorkers(factory="package.module:build")'
        ) from None


def unpacked(packet: bytes, model: QuantizedModel | None) -> Evaluators:
    """What `packed` made; ``model`` stands for the network that was left out."""
    names = {} if model is None else dict(_named(model))
    found: Evaluators = _Unpickler(io.BytesIO(packet), names).load()
    return found


def built(factory: str) -> Evaluators:
    """The evaluators of the problem that ``package.module:function`` gives.

    Raises:
        WorkersError: there is no such function, or it gives something else.
    """
    module, _, name = factory.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise WorkersError(
            f"`factory` must name a function of a module that every worker can import, got {factory!r}: {error}"
        ) from None
    problem = function()
    if not isinstance(problem, LayerwiseQuantizationProblem):
        raise WorkersError(
            f"`factory` must name a function that returns a LayerwiseQuantizationProblem, got "
            f"{type(problem).__name__} from {factory!r}"
        )
    return evaluators_by_role(problem)


def _named(model: QuantizedModel) -> Iterator[tuple[str, nn.Module]]:
    """The network itself stands under the empty name."""
    yield from model.named_modules()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, modules: Mapping[str, nn.Module]) -> None:
        super().__init__(file)
        self._modules = modules

    def persistent_load(self, pid: Any) -> Any:
        return self._modules[pid]


def _dumped(value: Any, names: Mapping[int, str]) -> bytes:
    class Pickler(ray_module().cloudpickle.CloudPickler):  # type: ignore[misc]
        def persistent_id(self, thing: Any) -> str | None:
            return names.get(id(thing)) if isinstance(thing, nn.Module) else None

    file = io.BytesIO()
    Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def _culprit(path: str, value: Any, names: Mapping[int, str], depth: int = 0) -> tuple[str, Any]:
    """The innermost attribute that stops pickling, and where it is."""
    for step, part in _parts(value) if depth < _DEEPEST else ():
        try:
            _dumped(part, names)
        except Exception:
            return _culprit(f"{path}{step}", part, names, depth + 1)
    return path, value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{place}]", part) for place, part in enumerate(value))
    if isinstance(value, nn.Module):
        yield from ((f".{name}", part) for name, part in value.named_children())
    state = value.__getstate__() if hasattr(type(value), "__getstate__") else getattr(value, "__dict__", {})
    if isinstance(state, Mapping):
        yield from ((f".{name}", part) for name, part in state.items())
