"""The hooks of a wrapped network: on, off, and told from those of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from qexplore.errors import SelectionError
from qexplore.model.argument_points import ArgumentHook, FinishReading, ReadingHook
from qexplore.model.calls import CallHook, Calls
from qexplore.model.doors import Counted
from qexplore.model.frames import Framed, aside
from qexplore.model.input_points import ArgumentNames
from qexplore.model.point_hook import InputHook, Listener, OutputHook, Outputs, PointHook
from qexplore.model.points import Found, Site
from qexplore.model.surveys import CallSurvey, ReadingSurvey, SurveyHook
from qexplore.model.write_back import Arguments
from qexplore.quant import TensorQuantizer

CallListener = Callable[[nn.Module, Any, dict[str, Any], Any], None]
"""Called with a module, its positional and keyword arguments, and its output."""


class Hooks:
    """The hooks of one wrapped network."""

    def __init__(self) -> None:
        self._hooks: dict[str, tuple[PointHook, tuple[RemovableHandle, ...]]] = {}
        self._modules: dict[str, nn.Module] = {}
        self._readings: list[tuple[nn.Module, ReadingHook, tuple[RemovableHandle, ...]]] = []
        self._calls: Calls | None = None

    def add_input(self, network: nn.Module, name: str, quantizer: TensorQuantizer, names: ArgumentNames) -> None:
        """Quantize the network's floating input of this name, or all of them."""
        hook = InputHook(name, quantizer, names)
        self._hooks[name] = hook, (network.register_forward_pre_hook(hook, with_kwargs=True),)

    def add_output(self, module: nn.Module, name: str, quantizer: TensorQuantizer, outputs: Outputs) -> None:
        """Quantize the output of ``module``, behind the hooks that it carries already."""
        hook = OutputHook(name, quantizer, outputs)
        before = module.register_forward_pre_hook(hook.arguments, with_kwargs=True)
        self._hooks[name] = hook, (before, module.register_forward_hook(hook))
        self._modules[name] = module

    def put_found(
        self, network: nn.Module, found: Found, quantizers: Mapping[str, TensorQuantizer], calls: Calls
    ) -> None:
        """Quantize what data have found, in place of what was found before.

        Args:
            network: whose modules read and call.
            found: the points; arguments that stay float of modules whose inputs are quantized.
            quantizers: by point.
            calls: meets the calls.
        """
        self.take_found()
        left = [one.site for one in found.left if one.kind == "argument"]
        reading: dict[str, dict[str, ArgumentHook]] = {module: {} for module, _ in left}
        called: dict[Site, PointHook] = {}
        for point in found.points:
            kind = ArgumentHook if point.readers else CallHook
            made = kind(point.name, quantizers[point.name])
            self._hooks[point.name] = made, ()
            called |= dict.fromkeys(point.calls, made)
            if point.kind == "argument" and isinstance(made, ArgumentHook):
                for module, argument in point.sites:
                    reading.setdefault(module, {})[argument] = made
        calls.hooks, self._calls = {}, calls
        for module, call in found.calls_in_order:
            calls.hooks.setdefault(module, {})[call] = called[module, call]
        for name, hooks in reading.items():
            self._add_reading(name, network.get_submodule(name), hooks, [site[1] for site in left if site[0] == name])
        if calls.hooks:
            calls.put_on(network)

    def _add_reading(self, name: str, module: nn.Module, hooks: Mapping[str, ArgumentHook], left: list[str]) -> None:
        hook = ReadingHook(name, hooks, left, ArgumentNames.of(module))
        before = module.register_forward_pre_hook(hook, with_kwargs=True)
        self._readings.append((module, hook, (before, module.register_forward_hook(FinishReading(hook)))))

    def take_found(self) -> None:
        """Leave out what data have found."""
        for *_, handles in self._readings:
            for handle in handles:
                handle.remove()
        if self._calls is not None:
            self._calls.take_off()
            self._calls.hooks = {}
        self._readings, self._calls = [], None
        found = [name for name, (hook, _) in self._hooks.items() if isinstance(hook, (ArgumentHook, CallHook))]
        for name in found:
            del self._hooks[name]

    @contextmanager
    def surveyed(self, network: nn.Module, reading: ReadingSurvey, calls: Calls, met: CallSurvey) -> Iterator[None]:
        """Note in a block what modules read, and what they call; what was found before rests meanwhile."""
        hooks, handles = [hook for hook, _ in self._hooks.values()], []
        try:
            for hook in hooks:
                hook.surveyor = None if isinstance(hook, (ArgumentHook, CallHook)) else reading.made_at
            for _, resting, _ in self._readings:
                resting.rests = True
            for name, module in reading.modules.items():
                handles.append(module.register_forward_pre_hook(SurveyHook(reading, name), with_kwargs=True))
            with reading.following(), calls.surveyed(network, met) if calls.wanted is not None else nullcontext():
                yield
        finally:
            for hook in hooks:
                hook.surveyor = None
            for _, resting, _ in self._readings:
                resting.rests = False
            for handle in handles:
                handle.remove()

    @contextmanager
    def heard_by(self, listener: Listener, *, quantized: bool) -> Iterator[None]:
        """Show tensors to ``listener`` for a block: as the quantizers leave them, or in full precision."""
        before = [(hook, hook.listener, hook.quantizes) for hook, _ in self._hooks.values()]
        try:
            for hook, *_ in before:
                hook.listener, hook.quantizes = listener, quantized
                if isinstance(hook, ArgumentHook):
                    hook.begin()
            yield
        finally:
            for hook, present, quantizes in before:
                hook.listener, hook.quantizes = present, quantizes

    @contextmanager
    def passes_noted(self, onlooker: Listener | None = None) -> Iterator[set[str]]:
        """The names of the points that a block passes, shown to ``onlooker`` too; other listeners are undisturbed."""
        hooks = [hook for hook, _ in self._hooks.values()]
        before, passed = [hook.num_calls for hook in hooks], set[str]()
        try:
            for hook in hooks:
                hook.onlooker = onlooker
            yield passed
        finally:
            for hook in hooks:
                hook.onlooker = None
        passed |= {hook.name for hook, count in zip(hooks, before, strict=True) if hook.num_calls > count}

    @contextmanager
    def none_passed_over(self) -> Iterator[None]:
        """Make sure that every forward of a selected module in a block is one that its hook sees.

        Raises:
            SelectionError: a module's ``forward`` was called by name.
        """
        seen: list[tuple[str, nn.Module, OutputHook | ReadingHook]] = [
            (name, self._modules[name], hook) for name, (hook, _) in self._hooks.items() if isinstance(hook, OutputHook)
        ]
        seen += [(hook.name, module, hook) for module, hook, _ in self._readings]
        counts = {id(module): Counted(module) for _, module, _ in seen}
        before = [hook.num_calls for *_, hook in seen]
        try:
            for _, module, _ in seen:
                module.__dict__["forward"] = counts[id(module)]
            yield
        finally:
            for count in counts.values():
                count.restore()
        for (name, module, hook), began in zip(seen, before, strict=True):
            num_calls = counts[id(module)].num_calls
            missed = num_calls - (hook.num_calls - began)
            if missed > 0:
                raise SelectionError(
                    f"every call of '{name}' must go through the module itself, where its quantizer sees it, but "
                    f"{missed} of {num_calls} went to its forward(): write `module(x)` for "
                    f"`module.forward(x)`, or leave it out: predicate & ~predicates.by_name({name!r})"
                )

    def remove(self, name: str) -> None:
        """Remove the hooks of one point."""
        for handle in self._hooks.pop(name)[1]:
            handle.remove()
        self._modules.pop(name, None)

    def remove_all(self) -> None:
        """Leave no hook on the network."""
        self.take_found()
        for name in list(self._hooks):
            self.remove(name)

    @property
    def are_on(self) -> bool:
        """Whether every hook is still on its module; `detach` may have taken them off."""
        handles = [handle for _, both in self._hooks.values() for handle in both]
        handles += [handle for *_, both in self._readings for handle in both]
        meets_calls = self._calls is None or not self._calls.hooks or self._calls.are_on
        return meets_calls and all(handle.id in (handle.hooks_dict_ref() or ()) for handle in handles)


@contextmanager
def calls_heard_by(
    modules: Iterable[nn.Module], listener: CallListener, *, after_others: bool = False
) -> Iterator[None]:
    """Show ``listener`` every call of ``modules`` for a block, before other hooks see its output, or after them."""
    handles: list[RemovableHandle] = []
    try:
        for module in modules:
            hook = partial(_tell, listener)
            handles.append(module.register_forward_hook(hook, prepend=not after_others, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tell(listener: CallListener, *call: Any) -> None:
    with aside():  # what a listener computes are no calls of the network's
        listener(*call)


def point_hooks(network: nn.Module) -> list[tuple[nn.Module, PointHook]]:
    """The hooks of a wrapper on ``network``, each with the module that it is on."""
    return [(module, hook) for module in network.modules() for hook in _hooks_of(module)]


def _hooks_of(module: nn.Module) -> Iterator[PointHook]:
    """A point that several modules read is met at each."""
    for hooks in _hook_tables(module):
        for hook in hooks.values():
            if isinstance(hook, PointHook):
                yield hook
            elif isinstance(hook, ReadingHook):
                yield from hook.hooks.values()
    yield from _hooks_of_calls(module)


def _hooks_of_calls(module: nn.Module) -> Iterable[PointHook]:
    framed = module.__dict__.get("forward")
    frames = framed.frames if isinstance(framed, Framed) else None
    return () if frames is None else frames.hooks_of(framed.name)  # type: ignore[union-attr]


def read_inside(module: nn.Module) -> dict[nn.Module, set[str]]:
    """Points that are met while ``module`` runs, whoever else meets them: at calls, and at what inner modules read."""
    found: dict[nn.Module, set[str]] = {}
    for inner in module.modules():
        hooks = list(_hooks_of_calls(inner))
        for reading in _hook_tables(inner)[1].values():
            hooks += reading.hooks.values() if isinstance(reading, ReadingHook) and inner is not module else ()
        found[inner] = {hook.name for hook in hooks}
    return found


def remove_frames(network: nn.Module) -> None:
    """Leave the forwards of all modules as they were before their calls were met."""
    for module in network.modules():
        framed = module.__dict__.get("forward")
        if isinstance(framed, Framed):
            framed.take_off()


def remove_point_hooks(module: nn.Module) -> None:
    """Take the wrapper's hooks off ``module`` itself, not off what is inside it."""
    for hooks in _hook_tables(module):
        for key in [key for key, hook in hooks.items() if isinstance(hook, _OWN)]:
            del hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)


def foreign_hooks(module: nn.Module) -> list[Any]:
    """Forward hooks and pre-hooks on ``module`` that are not a wrapper's."""
    return [hook for hooks in _hook_tables(module) for hook in hooks.values() if not isinstance(hook, _OWN)]


def comes_last(module: nn.Module) -> bool:
    """Whether the wrapper's hook, if there is one, runs after every other forward hook of ``module``."""
    own = [isinstance(hook, _OWN) for hook in module._forward_hooks.values()]
    return not any(own) or own[-1]


_OWN = (PointHook, Arguments, ReadingHook, FinishReading)


def _hook_tables(module: nn.Module) -> tuple[dict[int, Any], dict[int, Any]]:
    return module._forward_hooks, module._forward_pre_hooks
