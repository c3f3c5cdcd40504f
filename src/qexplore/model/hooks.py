"""The only place that registers and removes hooks.

Hooks are callable objects: a deep copy of a hooked network copies them together with their quantizers, which a closure
or a bound method would leave behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from qexplore._trees import tensors_of
from qexplore.errors import SelectionError
from qexplore.quant import TensorQuantizer

Outputs = Literal["tensor", "all"]
Listener = Callable[[str, list[Tensor]], None]
"""Called with a point's name and the floating tensors of one call that passes there."""

CallListener = Callable[[nn.Module, Any, dict[str, Any], Any], None]
"""Called with a module, its positional and keyword arguments, and its output."""


class PointHook:
    """Puts every floating tensor that passes a point through the point's quantizer, and shows them to a listener."""

    def __init__(self, name: str, quantizer: TensorQuantizer) -> None:
        self.name = name
        self.quantizer = quantizer
        self.listener: Listener | None = None
        self.quantizes = True

    def pass_through(self, tree: Any) -> Any:
        """``tree`` with its tensors quantized, unless the listener wants full precision."""
        if self.quantizes:
            tree = pytree.tree_map_only(Tensor, self._quantize, tree)
        if self.listener is not None:
            self.listener(self.name, floating_tensors(tree))
        return tree

    def _quantize(self, tensor: Tensor) -> Tensor:
        return self.quantizer(tensor) if tensor.is_floating_point() else tensor


class InputHook(PointHook):
    """Forward pre-hook of the network: every floating tensor among its arguments."""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """What torch calls before the network's forward."""
        return self.pass_through((args, kwargs))


class OutputHook(PointHook):
    """Forward hook of a selected module: its output tensor, or all floating tensors in it."""

    def __init__(self, name: str, quantizer: TensorQuantizer, outputs: Outputs) -> None:
        super().__init__(name, quantizer)
        self.outputs = outputs

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """What torch calls after the module's forward."""
        if not (isinstance(output, Tensor) or self.outputs == "all") or not floating_tensors(output):
            raise SelectionError(self._refusal(output))
        return self.pass_through(output)

    def _refusal(self, output: Any) -> str:
        wanted = "be one floating tensor" if self.outputs == "tensor" else "hold a floating tensor"
        offer = 'wrap with outputs="all" to quantize every floating tensor in it with one quantizer, or '
        return (
            f"the output of '{self.name}' must {wanted}, got {_describe(output)}: "
            f"{offer if floating_tensors(output) else ''}leave this module out of the predicate"
        )


def floating_tensors(tree: Any) -> list[Tensor]:
    """The floating tensors in ``tree``, cut off from autograd."""
    return [tensor.detach() for tensor in tensors_of(tree) if tensor.is_floating_point()]


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
        self._hooks: dict[str, tuple[PointHook, RemovableHandle]] = {}

    def add_input(self, network: nn.Module, name: str, quantizer: TensorQuantizer) -> None:
        """Quantize the network's floating inputs."""
        hook = InputHook(name, quantizer)
        self._hooks[name] = hook, network.register_forward_pre_hook(hook, with_kwargs=True)

    def add_output(self, module: nn.Module, name: str, quantizer: TensorQuantizer, outputs: Outputs) -> None:
        """Quantize the output of ``module``, behind the hooks that it carries already."""
        hook = OutputHook(name, quantizer, outputs)
        self._hooks[name] = hook, module.register_forward_hook(hook)

    @contextmanager
    def heard_by(self, listener: Listener, *, quantized: bool) -> Iterator[None]:
        """Show tensors to ``listener`` for a block: as the quantizers leave them, or in full precision."""
        hooks = [hook for hook, _ in self._hooks.values()]
        try:
            for hook in hooks:
                hook.listener, hook.quantizes = listener, quantized
            yield
        finally:
            for hook in hooks:
                hook.listener, hook.quantizes = None, True

    def remove(self, name: str) -> None:
        """Remove the hook of one point."""
        self._hooks.pop(name)[1].remove()

    def remove_all(self) -> None:
        """Leave no hook on the network."""
        for name in list(self._hooks):
            self.remove(name)

    @property
    def are_on(self) -> bool:
        """Whether every hook is still on its module; `detach` may have taken them off."""
        return all(handle.id in (handle.hooks_dict_ref() or ()) for _, handle in self._hooks.values())


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
        for key in [key for key, hook in hooks.items() if isinstance(hook, PointHook)]:
            del hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)


def foreign_hooks(module: nn.Module) -> list[Any]:
    """Forward hooks and pre-hooks on ``module`` that are not a wrapper's."""
    return [hook for hooks in _hook_tables(module) for hook in hooks.values() if not isinstance(hook, PointHook)]


def comes_last(module: nn.Module) -> bool:
    """Whether the wrapper's hook, if there is one, runs after every other forward hook of ``module``."""
    own = [isinstance(hook, PointHook) for hook in module._forward_hooks.values()]
    return not any(own) or own[-1]


def _hook_tables(module: nn.Module) -> tuple[dict[int, Any], dict[int, Any]]:
    return module._forward_hooks, module._forward_pre_hooks
