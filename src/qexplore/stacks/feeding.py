"""Which modules give the tensors that chosen layers read: where activations are to be quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qexplore.model import calls_heard_by, floating_tensors, in_eval_mode

INPUT = "input"


@dataclass(frozen=True)
class Feeding:
    """What one forward has shown.

    Attributes:
        layers: qualified name and type of every leaf and every chosen layer that was called, in the order of calls.
        producers: names of the modules whose output a chosen layer reads.
        readers: by producer, ``"input"`` for the network's own, who reads it.
        fed_by_function: chosen layers that read what no module gives: the result of a function such as an addition.
        weighted: layers that have weights, chosen or not.
        reads_input: whether a chosen layer reads the network's floating input.
    """

    layers: tuple[tuple[str, str], ...]
    producers: tuple[str, ...]
    readers: dict[str, tuple[str, ...]]
    fed_by_function: frozenset[str]
    weighted: frozenset[str]
    reads_input: bool


def feeding_of(network: nn.Module, example: tuple[Any, ...], chosen: Mapping[str, nn.Module]) -> Feeding:
    """Run ``network`` once on ``example`` and see where the tensors that ``chosen`` layers read come from.

    A tensor is told by its memory, so that a view of it, as ``flatten`` gives, is the same one.
    """
    watcher = _Watcher(network, example, chosen)
    with in_eval_mode(network), torch.no_grad(), calls_heard_by(watcher.names, watcher):
        network(*example)
    return watcher.feeding()


class _Watcher:
    def __init__(self, network: nn.Module, example: tuple[Any, ...], chosen: Mapping[str, nn.Module]) -> None:
        leaves = {module: name for name, module in network.named_modules() if next(module.children(), None) is None}
        self.names = leaves | {module: name for name, module in chosen.items()}
        self._chosen = set(chosen)
        self._origin = {_memory(one): INPUT for one in floating_tensors(example)}
        self._alive: list[Any] = [example]  # memory that is given back would be told for another tensor's
        self._calls: dict[str, str] = {}
        self._readers: dict[str, dict[str, None]] = {}
        self._fed_by_function: set[str] = set()

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        name = self.names[module]
        self._calls.setdefault(name, type(module).__name__)
        if name in self._chosen:
            for tensor in floating_tensors((args, kwargs)):
                origin = self._origin.get(_memory(tensor))
                if origin is None:
                    self._fed_by_function.add(name)
                else:
                    self._readers.setdefault(origin, {})[name] = None
        self._alive.append(output)
        self._origin.update({_memory(one): name for one in floating_tensors(output)})

    def feeding(self) -> Feeding:
        readers = {origin: tuple(names) for origin, names in self._readers.items()}
        weighted = {
            name
            for module, name in self.names.items()
            if any(one is not None and one.dim() > 1 for one in module._parameters.values())
        }
        return Feeding(
            layers=tuple(self._calls.items()),
            producers=tuple(name for name in self._calls if name in readers),
            readers=readers,
            fed_by_function=frozenset(self._fed_by_function),
            weighted=frozenset(weighted),
            reads_input=INPUT in readers,
        )


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
