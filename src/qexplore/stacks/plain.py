"""A float network as torch.ao knows it: layers of torch's own classes, inside a network that holds them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from qexplore.stacks.base import Beside, Converted, Listener, Settings
from qexplore.stacks.saving import ChosenModules

_SAYS_NOTHING = frozenset(
    {"__init__", "__module__", "__doc__", "__annotations__", "__dict__", "__weakref__", "__firstlineno__"}
    | {"__static_attributes__", "__annotate_func__", "__annotate__", "__orig_bases__", "__parameters__"}
    | {"__constants__", "__repr__", "extra_repr", "reset_parameters"}
)
"""What a class may have of its own without computing anything else."""


@dataclass(frozen=True)
class Plain:
    """A copy of a float network that torch.ao can work with.

    torch.ao tells layers by their exact class and by their name in the network. So a layer of a class of the user's own
    that computes what torch's does is one of torch's here; and a network that is a layer itself, such as an
    ``nn.Linear``, is held by another that calls it by the name of its class.

    Attributes:
        network: the copy.
        held: name of the layer that the network is; empty where it is no layer itself.
        classes: the user's classes, by the names of modules in ``network`` that are of torch's now.
    """

    network: nn.Module
    held: str
    classes: dict[str, str]

    def settings(self, settings: Settings) -> Settings:
        """The same in names of the copy."""
        if not self.held:
            return settings
        settings = dataclasses.replace(
            settings, left_float={self._own(n): why for n, why in settings.left_float.items()}
        )
        if settings.modules is None:
            return settings
        names = dict(self.network.named_modules())
        chosen = [name for name in names if name and settings.modules(self.name(name), names[name])]
        both = {"", *chosen} if self.held in chosen else chosen
        return dataclasses.replace(settings, modules=ChosenModules(both, str(settings.modules)))

    def name(self, name: str) -> str:
        """What the user's network calls the module ``name`` of the copy."""
        inside = self.held and (name == self.held or name.startswith(f"{self.held}."))
        return name[len(self.held) + 1 :] if inside else name

    def _own(self, name: str) -> str:
        """What the copy calls a step of the user's network."""
        own = f"{self.held}.{name}".rstrip(".")
        return own if own in dict(self.network.named_modules()) else name

    def named(self, converted: Converted) -> Converted:
        """The same in the user's names and classes."""
        rows = (
            dataclasses.replace(row, name=self.name(row.name), type=self.classes.get(row.name, row.type))
            for row in converted.strategy
        )
        trained = {self.name(name): value for name, value in converted.trained.items()}
        beside = converted.beside and self._named(converted.beside)
        return dataclasses.replace(converted, strategy=tuple(rows), trained=trained, beside=beside)

    def _named(self, beside: Beside) -> Beside:
        def in_their_names(args: tuple[Any, ...], listener: Listener) -> None:
            beside(args, lambda step: listener(dataclasses.replace(step, name=self.name(step.name))))

        return in_their_names


def plain(network: nn.Module) -> Plain:
    """A copy of ``network`` as torch.ao knows it."""
    copied = with_own_classes(copy.deepcopy(network))
    own = {module: (type(module).__name__, base) for module in copied.modules() if (base := _torchs_own(module))}
    for module, (_, base) in own.items():
        module.__class__ = base
    held = _held(copied) if fx.Tracer().is_leaf_module(copied, "") else copied
    classes = {name: own[module][0] for name, module in held.named_modules() if module in own}
    return Plain(held, "" if held is copied else type(copied).__name__, classes)


def has_own_forward(module: nn.Module | None) -> bool:
    """Whether ``module`` computes what was set on it by ``module.forward = ...``, and not what its class does."""
    return module is not None and "forward" in vars(module)


def with_own_classes(network: nn.Module) -> nn.Module:
    """``network``, changed: torch's layers that have a ``forward`` of their own are of no class that torch.ao swaps."""
    for module in network.modules():
        if has_own_forward(module) and type(module).__module__.startswith("torch.nn."):
            module.__class__ = _unknown(type(module))
    return network


def _unknown(kind: type[nn.Module]) -> Any:
    """A class like ``kind``, traced and called as that one is, that is not known by its exact class or full name."""
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "__qualname__": f"own {kind.__name__}"})


def _held(layer: nn.Module) -> nn.Module:
    graph, name = fx.Graph(), type(layer).__name__
    places = tuple(_places(graph, inspect.signature(layer.forward)))
    graph.output(graph.call_module(name, places))
    return fx.GraphModule({name: layer}, graph, class_name=name).train(layer.training)


def _places(graph: fx.Graph, signature: inspect.Signature) -> Iterator[fx.Node]:
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            yield graph.placeholder(name, default_value=parameter.default)


def _torchs_own(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch's that computes what ``module`` does, whose class is another; None where there is none."""
    kinds: tuple[Any, ...] = type(module).__mro__
    place = next(place for place, kind in enumerate(kinds) if kind.__module__.startswith("torch."))
    base = kinds[place]
    if not place or not base.__module__.startswith("torch.nn.modules.") or base.forward is nn.Module.forward:
        return None
    if issubclass(base, nn.Sequential) or has_own_forward(module):
        return None
    declared = {name for kind in base.__mro__ for name in getattr(kind, "__annotations__", ())}
    known = {*dir(base), *declared, *vars(module), *module._parameters, *module._buffers}
    changed = {name for kind in kinds[:place] for name in vars(kind)} & known - _SAYS_NOTHING
    found: type[nn.Module] = base
    return None if changed else found
