"""The only place that registers and removes hooks.

Hooks are callable objects: a deep copy of a hooked network copies them together with their quantizers, which a closure
or a bound method would leave behind.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qexplore._trees import map_tensors, tensors_of
from qexplore._warnings import warn
from qexplore.errors import SelectionError
from qexplore.model.input_points import INPUT, ArgumentNames, bare_name, floating_inputs, unlike, with_input
from qexplore.model.write_back import Arguments
from qexplore.quant import TensorQuantizer

Outputs = Literal["tensor", "all"]
Listener = Callable[[str, list[Tensor]], None]
"""Called with a point's name and the floating tensors of one call that passes there."""

CallListener = Callable[[nn.Module, Any, dict[str, Any], Any], None]
"""Called with a module, its positional and keyword arguments, and its output."""

Forward = Callable[..., Any]

Door = Callable[[nn.Module, Forward, Any, dict[str, Any]], Any]
"""Called in a forward's place: with the module, its forward, and the positional and keyword arguments."""


class PointHook:
    """Puts every floating tensor that passes a point through the point's quantizer, and shows them to a listener."""

    def __init__(self, name: str, quantizer: TensorQuantizer) -> None:
        self.name = name
        self.quantizer = quantizer
        self.listener: Listener | None = None
        self.quantizes = True
        self.onlooker: Listener | None = None
        self.num_calls = 0

    def pass_through(self, tree: Any) -> Any:
        """``tree`` with its tensors quantized, unless the listener wants full precision."""
        if self.quantizes:
            tree = map_tensors(self._quantize, tree)
        return self._heard(tree)

    def _heard(self, tree: Any) -> Any:
        self.num_calls += 1
        for told in (self.listener, self.onlooker):
            if told is not None:
                told(self.name, floating_tensors(tree))
        return tree

    def _quantize(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return _map_nested(self.quantizer, tensor) if tensor.is_nested else self.quantizer(tensor)


class InputHook(PointHook):
    """Forward pre-hook of the network: one of its floating inputs, or every one where the point is named "input"."""

    def __init__(self, name: str, quantizer: TensorQuantizer, names: ArgumentNames) -> None:
        super().__init__(name, quantizer)
        self.argument = bare_name(name).removeprefix(INPUT).removeprefix(".")
        self._names = names
        self._has_compared = False

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """What torch calls before the network's forward."""
        self._compare(args, kwargs)
        if not self.argument:
            return self.pass_through((args, kwargs))
        passed: list[Tensor] = []

        def change(tensor: Tensor) -> Tensor:
            passed.append(self._quantize(tensor) if self.quantizes else tensor)
            return passed[-1]

        changed = with_input(self._names, self.argument, args, kwargs, change)
        if passed:
            self._heard(passed)
        return changed

    def _compare(self, args: Any, kwargs: dict[str, Any]) -> None:
        """Warn once where one range serves several inputs of different magnitudes."""
        is_calibrated = getattr(self.quantizer, "is_calibrated", False)  # an export puts a function in its place
        is_watched = self.listener is not None  # what an observed forward computes is taken for the network's own
        if self._has_compared or is_watched or torch.compiler.is_compiling() or not is_calibrated:
            return
        self._has_compared = True
        inputs = floating_inputs(self._names, args, kwargs)
        why = unlike({name: inputs[name] for name in inputs if self.argument in ("", name)})
        if why:
            warn(f"the point '{self.name}' has one range for {why}")


class OutputHook(PointHook):
    """Forward hook of a selected module: its output tensor, or all floating tensors in it.

    What a module wrote into its argument is quantized there, as others may read it there.
    """

    def __init__(self, name: str, quantizer: TensorQuantizer, outputs: Outputs) -> None:
        super().__init__(name, quantizer)
        self.outputs = outputs
        self.arguments = Arguments(name)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """What torch calls after the module's forward."""
        if not (isinstance(output, Tensor) or self.outputs == "all") or not floating_tensors(output):
            raise SelectionError(self._refusal(output))
        written = self.arguments.written(module)
        if not written:
            return self.pass_through(output)

        def quantize(tensor: Tensor) -> Tensor:
            quantized = self._quantize(tensor) if self.quantizes else tensor
            return self.arguments.write_back(tensor, quantized, written)

        return self._heard(map_tensors(quantize, output))

    def _refusal(self, output: Any) -> str:
        wanted = "be one floating tensor" if self.outputs == "tensor" else "hold a floating tensor"
        offer = 'wrap with outputs="all" to quantize every floating tensor in it with one quantizer, or '
        return (
            f"the output of '{self.name}' must {wanted}, got {_describe(output)}: "
            f"{offer if floating_tensors(output) else ''}leave this module out of the predicate"
        )


def floating_tensors(tree: Any) -> list[Tensor]:
    """The floating tensors in ``tree``, cut off from autograd; of a nested one those that it is made of."""
    found = [tensor.detach() for tensor in tensors_of(tree) if tensor.is_floating_point()]
    return [one for tensor in found for one in (_samples(tensor) if tensor.is_nested else [tensor])]


def _samples(nested: Tensor) -> list[Tensor]:
    """The tensors in a nested one, each as a batch of one sample."""
    return [sample[None] for sample in nested.unbind()]


def _map_nested(function: Callable[[Tensor], Tensor], nested: Any) -> Tensor:
    """``function`` of what is in a nested tensor, nested as it was."""
    if nested.layout == torch.strided:
        return torch.nested.as_nested_tensor([function(sample)[0] for sample in _samples(nested)])
    # Made of the very offsets, or torch would not add the two.
    changed: Tensor = torch.nested.nested_tensor_from_jagged(
        function(nested.values()), nested.offsets(), nested.lengths(), jagged_dim=nested._ragged_idx
    )
    return changed


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of {str(output.dtype).removeprefix('torch.')}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {', '.join(map(repr, output))}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {', '.join(type(item).__name__ for item in output) or 'nothing'}"
    return f"a {type(output).__name__}"


class Hooks:
    """The hooks of one wrapped network."""

    def __init__(self) -> None:
        self._hooks: dict[str, tuple[PointHook, tuple[RemovableHandle, ...]]] = {}
        self._modules: dict[str, nn.Module] = {}

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

    @contextmanager
    def heard_by(self, listener: Listener, *, quantized: bool) -> Iterator[None]:
        """Show tensors to ``listener`` for a block: as the quantizers leave them, or in full precision."""
        before = [(hook, hook.listener, hook.quantizes) for hook, _ in self._hooks.values()]
        try:
            for hook, *_ in before:
                hook.listener, hook.quantizes = listener, quantized
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
        counts = {name: _Counted(module) for name, module in self._modules.items()}
        hooks = {name: hook for name, (hook, _) in self._hooks.items() if isinstance(hook, OutputHook)}
        before = {name: hook.num_calls for name, hook in hooks.items()}
        try:
            for name, module in self._modules.items():
                module.__dict__["forward"] = counts[name]
            yield
        finally:
            for count in counts.values():
                count.restore()
        for name, hook in hooks.items():
            missed = counts[name].num_calls - (hook.num_calls - before[name])
            if missed > 0:
                raise SelectionError(
                    f"every call of '{name}' must go through the module itself, where its quantizer sees it, but "
                    f"{missed} of {counts[name].num_calls} went to its forward(): write `module(x)` for "
                    f"`module.forward(x)`, or leave it out: predicate & ~predicates.by_name({name!r})"
                )

    def remove(self, name: str) -> None:
        """Remove the hooks of one point."""
        for handle in self._hooks.pop(name)[1]:
            handle.remove()
        self._modules.pop(name, None)

    def remove_all(self) -> None:
        """Leave no hook on the network."""
        for name in list(self._hooks):
            self.remove(name)

    @property
    def are_on(self) -> bool:
        """Whether every hook is still on its module; `detach` may have taken them off."""
        handles = [handle for _, both in self._hooks.values() for handle in both]
        return all(handle.id in (handle.hooks_dict_ref() or ()) for handle in handles)


class _Counted:
    """A module's forward that counts how often it is called."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._own = module.__dict__.get("forward")
        self._forward = module.forward
        self.num_calls = 0
        functools.update_wrapper(self, module.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Counted, and passed on."""
        self.num_calls += 1
        return self._forward(*args, **kwargs)

    def restore(self) -> None:
        """Give the module its forward back."""
        self._module.__dict__.pop("forward", None)
        if self._own is not None:
            self._module.__dict__["forward"] = self._own


@contextmanager
def calls_heard_by(modules: Iterable[nn.Module], listener: CallListener) -> Iterator[None]:
    """Show ``listener`` every call of ``modules`` for a block, before other hooks see its output."""
    handles: list[RemovableHandle] = []
    try:
        for module in modules:
            handles.append(module.register_forward_hook(listener, prepend=True, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class Doors:
    """Stand in the place of the forwards of ``modules``, for a block at a time; hooks run as ever."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._held = [(module, module.__dict__.get("forward"), _Through(module)) for module in modules]

    @contextmanager
    def lead_to(self, door: Door) -> Iterator[None]:
        """Have ``door`` called for every forward."""
        try:
            for module, _, through in self._held:
                through.door = door
                module.__dict__["forward"] = through
            yield
        finally:
            for module, own, _ in self._held:
                module.__dict__.pop("forward", None)
                if own is not None:
                    module.__dict__["forward"] = own


class _Through:
    """What is called as a module's forward."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._forward = module.forward
        self.door: Door | None = None
        functools.update_wrapper(self, module.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        assert self.door is not None
        return self.door(self._module, self._forward, args, kwargs)


def point_hooks(network: nn.Module) -> list[tuple[nn.Module, PointHook]]:
    """The hooks of a wrapper on ``network``, each with the module that it is on."""
    return [
        (module, hook)
        for module in network.modules()
        for hooks in _hook_tables(module)
        for hook in hooks.values()
        if isinstance(hook, PointHook)
    ]


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
    own = [isinstance(hook, PointHook) for hook in module._forward_hooks.values()]
    return not any(own) or own[-1]


_OWN = (PointHook, Arguments)


def _hook_tables(module: nn.Module) -> tuple[dict[int, Any], dict[int, Any]]:
    return module._forward_hooks, module._forward_pre_hooks
