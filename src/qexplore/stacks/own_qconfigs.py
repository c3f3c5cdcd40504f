"""What a float network says of its own quantization: torch.ao's attribute ``qconfig`` of modules."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from qexplore.stacks.exported_modules import is_layer

_NAME = "qconfig"


def left_out_by_qconfig(network: nn.Module) -> tuple[str, ...]:
    """Names of the layers whose ``qconfig`` is None, by their own attribute or by that of the nearest module around.

    With torch.ao that keeps a layer float.
    """
    return tuple(name for name, qconfig in _of_layers(network, "", "unset") if qconfig is None)


def other_qconfigs(network: nn.Module) -> tuple[str, ...]:
    """Names of the modules with a ``qconfig`` of their own that is not None."""
    return tuple(name for name, one in network.named_modules() if vars(one).get(_NAME) is not None)


def drop_qconfigs(network: nn.Module) -> None:
    """Take the attribute from all modules, in place: torch.ao would hand it down to others."""
    for module in network.modules():
        vars(module).pop(_NAME, None)


def _of_layers(module: nn.Module, name: str, around: object) -> Iterator[tuple[str, object]]:
    own = vars(module).get(_NAME, around)
    if is_layer(module):
        yield name, own
    for key, child in module.named_children():
        yield from _of_layers(child, f"{name}.{key}" if name else key, own)
