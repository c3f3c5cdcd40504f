"""Which modules give the tensors that chosen layers read: where activations are to be quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qexplore.model import calls_heard_by, floating_tensors, in_eval_mode, write_count

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

    A tensor is told by its memory, so that a view of it, as ``flatten`` gives, is the same one; once something other
    than a clamp was written into it, it is what a function gave.
    """
    watcher = _Watcher(network, example, chosen)
    with in_eval_mode(network), torch.no_grad(), calls_heard_by(watcher.names, watcher), _Clamps(watcher):
        network(*example)
    return watcher.feeding()


class _Watcher:
    def __init__(self, network: nn.Module, example: tuple[Any, ...], chosen: Mapping[str, nn.Module]) -> None:
        leaves = {module: name for name, module in network.named_modules() if next(module.children(), None) is None}
        self.names = leaves | {module: name for name, module in chosen.items()}
        self._chosen = set(chosen)
        self._origins: dict[int, tuple[str, int]] = {}
        """By memory: who gave what stands there, and its version, which every write counts on."""
        self._note(INPUT, example)
        self._alive: list[Any] = [example]  # memory that is given back would be told for another tensor's
        self._calls: dict[str, str] = {}
        self._readers: dict[str, dict[str, None]] = {}
        self._fed_by_function: set[str] = set()

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        name = self.names[module]
        self._calls.setdefault(name, type(module).__name__)
        if name in self._chosen:
            for tensor in floating_tensors((args, kwargs)):
                origin = self.origin(tensor)
                if origin is None:
                    self._fed_by_function.add(name)
                else:
                    self._readers.setdefault(origin, {})[name] = None
        self._alive.append(output)
        self._note(name, output)

    def origin(self, tensor: Tensor) -> str | None:
        """Who gave ``tensor`` as it is now: a module, or the network's input; None where a function did."""
        origin, version = self._origins.get(_memory(tensor), (None, 0))
        return origin if version == write_count(tensor) else None

    def _note(self, origin: str, given: Any) -> None:
        self._origins.update({_memory(one): (origin, write_count(one)) for one in floating_tensors(given)})

    def clamped(self, tensor: Tensor, origin: str | None) -> None:
        """Let a ``tensor`` that a clamp may have been written into still be of ``origin``: it keeps to a grid."""
        if origin is not None:
            self._note(origin, tensor)

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


class _Clamps(TorchFunctionMode):
    """Tells a watcher of clamps, which may be written into what they read."""

    def __init__(self, watcher: _Watcher) -> None:
        super().__init__()
        self._watcher = watcher

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "").rstrip("_") not in _CLAMPS:
            return func(*args, **(kwargs or {}))
        read = next(iter(floating_tensors((args, kwargs))))
        origin = self._watcher.origin(read)
        output = func(*args, **(kwargs or {}))
        self._watcher.clamped(read, origin)
        return output


_CLAMPS = frozenset({"relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "clip"})


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
