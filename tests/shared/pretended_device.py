"""A pretended accelerator: it computes on the CPU, says it lies elsewhere, and refuses what a GPU refuses.

torch can host a device that is written in Python. This one holds each tensor's numbers in a tensor of the CPU and, as
CUDA does,

- refuses an operation on tensors of several devices; a 0-dim tensor of the CPU passes in arithmetic, not in ``clamp``;
- multiplies by the reciprocal when it divides by a 0-dim tensor of the CPU, or by a number;
- keeps a random state of its own on each device;
- gives addresses (``data_ptr``) that tell tensors apart, but at which nothing can be read.

It has two devices, ``pretended:0`` and ``pretended:1``, and counts what a GPU would wait for (`transfers`): numbers
that are brought to the CPU.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from pretended_module import NAME, PretendedModule, recorder
from torch import Tensor
from torch.utils import backend_registration

CAN_BE_MADE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
"""Whether this torch can host a device that is written in Python."""

_aten = torch.ops.aten
_COPYING = {"copy", "copy_", "_to_copy", "_copy_from", "_copy_from_and_resize"}
_ARITHMETIC = {
    *("add", "sub", "rsub", "mul", "div", "true_divide", "pow", "where", "masked_fill", "fill"),
    *("eq", "ne", "lt", "le", "gt", "ge", "remainder", "fmod", "floor_divide"),
}
"""What takes a 0-dim tensor of the CPU beside tensors of the device."""
_INDEXING = {"index", "index_put", "_index_put_impl", "_unsafe_index"}
"""What takes indices of the CPU."""
_ADDRESS_SPACE = 2**60
_transfers = [0]


class PretendedTensor(Tensor):
    """A tensor on the pretended device; ``held`` has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> PretendedTensor:
        made: PretendedTensor = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=device,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({self.held}, device='{self.device}')"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (self.held, self.device.index, self.requires_grad, isinstance(self, torch.nn.Parameter))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError("Only Tensors created explicitly by the user support the deepcopy protocol")
        if id(self) not in memo:
            held = self.held.detach().clone(memory_format=torch.preserve_format)
            memo[id(self)] = _rebuilt(held, *self.__reduce_ex__(2)[1][1:])
            memo[id(self)].grad = None if self.grad is None else self.grad.clone()
        return memo[id(self)]  # type: ignore[no-any-return]

    def data_ptr(self) -> int:
        address = self.held.data_ptr()
        return address and address + _ADDRESS_SPACE

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def __getitem__(self, index: Any) -> Tensor:
        # torch makes a tensor of a list where operations written in Python do not see it.
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")


def _rebuilt(held: Tensor, index: int, requires_grad: bool, is_parameter: bool) -> Tensor:
    made = PretendedTensor(held, torch.device(NAME, index))
    return torch.nn.Parameter(made, requires_grad) if is_parameter else made.requires_grad_(requires_grad)


@functools.cache
def _module() -> PretendedModule:
    """Register the device; it stays until the process ends."""
    module, library = PretendedModule(), torch.library.Library("_", "IMPL")
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=module)
    library.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
    module.library = library  # type: ignore[attr-defined]  # is undone when nothing holds it
    return module


def register() -> None:
    """Tell torch of the device, before anything trains: the first backward of a process counts the devices for good."""
    if CAN_BE_MADE:
        with pretended_device():
            torch.ones(1, requires_grad=True).sum().backward()


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """Have the device, ``pretended:0``, for the time of the block.

    Modules keep their parameters, the objects, when they move, as they do between the CPU and CUDA.
    """
    module = _module()
    swaps, tensor, as_tensor, new_tensor = (
        torch.__future__.get_swap_module_params_on_conversion(),
        torch.tensor,
        torch.as_tensor,
        Tensor.new_tensor,
    )

    def made(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # Both make a tensor of the CPU and move it where operations written in Python do not see it.
        @functools.wraps(function)
        def on_cpu_first(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            if device is None or torch.device(device).type != NAME:
                return function(data, *args, device=device, **kwargs)
            return function(data.cpu() if isinstance(data, PretendedTensor) else data, *args, **kwargs).to(device)

        return on_cpu_first

    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.tensor, torch.as_tensor = made(tensor), made(as_tensor)
    PretendedTensor.new_tensor = lambda self, data, *, dtype=None: torch.tensor(  # type: ignore[method-assign]
        data, dtype=self.dtype if dtype is None else dtype, device=self.device
    )
    was_in_use, module.is_in_use = module.is_in_use, True
    try:
        with torch.serialization.safe_globals([_rebuilt]):
            yield torch.device(NAME, 0)
    finally:
        module.is_in_use = was_in_use
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        torch.tensor, torch.as_tensor, PretendedTensor.new_tensor = tensor, as_tensor, new_tensor


def num_transfers() -> int:
    """How often numbers were brought from the device to the CPU so far: where a GPU has to be waited for."""
    return _transfers[0]


# ----------------------------------------------------------------------------------------------------------- running


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = func._schema.name.removeprefix("aten::")
    kwargs = dict(kwargs)
    if name in ("_copy_from", "_copy_from_and_resize"):
        return _copied(args[0], args[1])
    device = _device_of(name, args, kwargs)
    asked = kwargs.get("device")
    if asked is not None and torch.device(asked).type != NAME:
        device = None
    elif asked is not None:
        index = torch.device(asked).index
        device, kwargs["device"] = torch.device(NAME, _module().current_device() if index is None else index), "cpu"
    kwargs.pop("pin_memory", None)
    if device is None or name in ("_local_scalar_dense", "is_nonzero", "equal"):
        _waited_for(name)
    if name in ("div", "div_") and not kwargs.get("rounding_mode"):
        func, args = _by_reciprocal(func, args)
    if name in _DECOMPOSED:
        func = _DECOMPOSED[name]
    given: dict[int, PretendedTensor] = {}

    def held(tensor: PretendedTensor) -> Tensor:
        given[id(tensor.held)] = tensor
        return tensor.held

    args, kwargs = _changed(args, PretendedTensor, held), _changed(kwargs, PretendedTensor, held)
    is_idle = "dropout" in name and args[2] is False  # of a network in eval mode
    is_drawn = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()) and not is_idle
    if is_drawn and device is not None:
        if recorder[0] is not None:
            recorder[0].refuse(name)
        with _module().drawing(device):
            result = func(*args, **kwargs)
    else:
        result = func(*args, **kwargs)
    for leaf in given.values():
        if leaf.shape != leaf.held.shape:  # a target that the operation has resized, as `arange` does
            leaf.data = PretendedTensor(leaf.held, leaf.device)
    if device is None:
        return result

    def back(tensor: Tensor) -> Tensor:
        return given[id(tensor)] if id(tensor) in given else PretendedTensor(tensor, device)

    # A view of a plain tensor is a plain one, in inference mode too.
    is_plain = (
        torch.is_inference_mode_enabled() and _gives_views(func) and not all(x.is_inference() for x in given.values())
    )
    with torch.inference_mode(False) if is_plain else nullcontext():
        wrapped = _changed(result, Tensor, back)
    if recorder[0] is not None:
        recorder[0].note(func, args, kwargs, result, wrapped)
    return wrapped


def _changed(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """``value`` with each tensor of a ``kind`` in it changed; ``pytree`` would take longer than most operations."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, (tuple, list)):
        return (list if isinstance(value, list) else tuple)(_changed(one, kind, change) for one in value)
    return {key: _changed(one, kind, change) for key, one in value.items()} if isinstance(value, dict) else value


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _changed(value, Tensor, found.append)
    return found


def _waited_for(name: str) -> None:
    """Count what brings numbers to the CPU."""
    _transfers[0] += 1
    _synchronized()
    if recorder[0] is not None:
        recorder[0].refuse(name)


def _synchronized() -> None:
    if _module().get_sync_debug_mode():
        warnings.warn("called a synchronizing PRETENDED operation", stacklevel=2)


@functools.cache
def _gives_views(func: Any) -> bool:
    """Whether what ``func`` returns lies in its argument's memory."""
    return any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)


def _copied(source: Tensor, target: Tensor) -> Tensor:
    if not isinstance(target, PretendedTensor):
        _waited_for("copy")
    elif not isinstance(source, PretendedTensor):
        _synchronized()
        if recorder[0] is not None:
            recorder[0].refuse("copy from the CPU")
    to, of = (tensor.held if isinstance(tensor, PretendedTensor) else tensor for tensor in (target, source))
    to.copy_(of)
    if recorder[0] is not None:
        recorder[0].note(_aten.copy_.default, (to, of), {}, to, target)
    return target


def _device_of(name: str, args: Any, kwargs: Any) -> torch.device | None:
    """Where the operation runs.

    Raises:
        RuntimeError: its tensors lie on several devices.
    """
    leaves = _tensors((args, kwargs))
    device = next((leaf.device for leaf in leaves if isinstance(leaf, PretendedTensor)), None)
    if name in _COPYING:
        return args[0].device if isinstance(args[0], PretendedTensor) else None
    plain = name.removesuffix("_")
    for leaf in _tensors([args[0], *args[2:]]) if plain in _INDEXING else leaves:
        if leaf.device == device:
            continue
        passes = leaf.dim() == 0 and leaf.device.type == "cpu" and plain in _ARITHMETIC | _INDEXING
        if not passes:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {device} and "
                f"{leaf.device}! (in {name})"
            )
    return device


def _by_reciprocal(func: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """``x / number`` as ``x * (1 / number)``, rounded in between, as CUDA has it for a divisor that is not there."""
    x, divisor = args[0], args[1]
    if isinstance(divisor, PretendedTensor) or not x.is_floating_point():
        return func, args
    inverse = 1 / torch.as_tensor(divisor, dtype=torch.promote_types(x.dtype, torch.float32))
    product = _aten.mul_.Tensor if func._schema.name == "aten::div_" else _aten.mul.Tensor
    return product, (x, inverse)


def _lstm_cell(
    input_gates: Tensor, hidden_gates: Tensor, cx: Tensor, input_bias: Any = None, hidden_bias: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    gates = input_gates + hidden_gates
    if input_bias is not None:
        gates = gates + input_bias + hidden_bias
    i, f, c, o = gates.chunk(4, 1)
    cy = f.sigmoid() * cx + i.sigmoid() * c.tanh()
    return o.sigmoid() * cy.tanh(), cy, gates


def _gru_cell(
    input_gates: Tensor, hidden_gates: Tensor, hx: Tensor, input_bias: Any = None, hidden_bias: Any = None
) -> tuple[Tensor, Tensor]:
    if input_bias is not None:
        input_gates, hidden_gates = input_gates + input_bias, hidden_gates + hidden_bias
    (ir, iz, inew), (hr, hz, hnew) = input_gates.chunk(3, 1), hidden_gates.chunk(3, 1)
    r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
    n = (inew + r * hnew).tanh()
    return n + z * (hx - n), input_gates


# What torch runs on every device but the CPU.
_DECOMPOSED: dict[str, Callable[..., Any]] = {
    "_thnn_fused_lstm_cell": _lstm_cell,
    "_thnn_fused_gru_cell": _gru_cell,
}
