"""Weights that no point quantizes, each with the reason; and memory that two weights share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from qexplore.predicates import IS_NORM, float_reason, is_norm, weight_attributes, weight_of

IS_UNREAD = "torch's recurrent layers do not read parametrized weights"
_SHOWN = 8
"""Names that a line lists."""
_BEHIND_PARAMETRIZATIONS = re.compile(r"\bparametrizations\.(\w+)\.original\d*$")
NOT_SELECTED = "not selected by `weights`"
_OTHER_NAME = (
    "parameters that are not known as weights of their modules; a row in predicates.WEIGHT_NAMES makes weights of them"
)
_WAYS_OUT = {
    WeightNorm: "bake it in with torch.nn.utils.remove_weight_norm, or use torch.nn.utils.parametrizations.weight_norm",
    SpectralNorm: (
        "bake it in with torch.nn.utils.remove_spectral_norm, or use torch.nn.utils.parametrizations.spectral_norm"
    ),
    BasePruningMethod: "bake it in with torch.nn.utils.prune.remove",
}


@dataclass(frozen=True)
class LeftFloat:
    """A weight of two axes or more, a floating input, or what is at a point that is off: it stays float.

    Attributes:
        name: of a weight qualified, as a point would have; of an input that of the forward's argument; of
            a point its own.
        reason: why.
        kind: ``"weight"``, ``"input"``, ``"call"`` or ``"point"``.
        num_elements: of a weight how many numbers it has; 0 of others.
    """

    name: str
    reason: str
    kind: str = "weight"
    num_elements: int = 0


def left_float(network: nn.Module, quantized: Iterable[tuple[nn.Module, str]]) -> tuple[LeftFloat, ...]:
    """The weights of ``network`` that are not ``quantized``, modules with names of weights."""
    done = {(id(module), attribute) for module, attribute in quantized}
    return tuple(
        LeftFloat(
            f"{name}.{attribute}" if name else attribute,
            _reason(name, module, attribute),
            num_elements=_size(name, module, attribute),
        )
        for name, module in network.named_modules()
        if "parametrizations" not in name.split(".")
        for attribute in _matrices(module)
        if (id(module), attribute) not in done
    )


def _matrices(module: nn.Module) -> Iterator[str]:
    computed = computed_by_hooks(module)
    yield from computed
    for attribute, tensor in module._parameters.items():
        is_lazy = isinstance(tensor, nn.UninitializedParameter)
        if tensor is None or is_lazy or attribute.startswith(("bias", *(f"{one}_" for one in computed))):
            continue
        if tensor.is_floating_point() and tensor.dim() >= 2:
            yield attribute
    chains: Any = getattr(module, "parametrizations", {})
    yield from (attribute for attribute in chains if attribute in weight_attributes(module))


def _size(name: str, module: nn.Module, attribute: str) -> int:
    held = module._parameters.get(attribute)
    tensor = module.__dict__.get(attribute) if held is None else held
    tensor = weight_of(name, module, attribute) if tensor is None else tensor
    return 0 if tensor is None else tensor.numel()


def _reason(name: str, module: nn.Module, attribute: str) -> str:
    hooked = computed_by_hooks(module)
    if attribute in hooked:
        return hooked[attribute]
    if is_norm(module):
        return IS_NORM
    if attribute not in weight_attributes(module):
        return _OTHER_NAME
    if is_unread(module, attribute):
        return IS_UNREAD
    return float_reason(name, module) or NOT_SELECTED


def is_unread(module: nn.Module, attribute: str) -> bool:
    """Whether ``module`` computes with what stands before the parametrizations of its weight."""
    return isinstance(module, nn.RNNBase) and attribute in getattr(module, "parametrizations", {})


def computed_by_hooks(module: nn.Module) -> dict[str, str]:
    """Tensors that hooks make anew before every call, as torch's older weight norm does; with what to do about it."""
    found = {}
    for hook in module._forward_pre_hooks.values():
        kind = next((kind for kind in _WAYS_OUT if isinstance(hook, kind)), None)
        name = getattr(hook, "name", getattr(hook, "_tensor_name", None))
        if kind is not None and isinstance(name, str) and isinstance(module.__dict__.get(name), Tensor):
            found[name] = f"computed by a hook ({type(hook).__name__}) before every call: {_WAYS_OUT[kind]}"
    return found


def left_float_text(left: Sequence[LeftFloat]) -> str:
    """What is ``left`` float under the reasons, a line each, the largest first; empty for none."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for one in sorted(left, key=lambda one: -one.num_elements):
        by_reason.setdefault((one.kind, one.reason), []).append(one.name)
    lines = [f"{kind}s left float: {_listed(names)} ({reason})" for (kind, reason), names in by_reason.items()]
    return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def overlaps(network: nn.Module) -> tuple[str, ...]:
    """Sentences about parameters that lie in the same memory and yet are not seen alike, such as one transposed."""
    told, reached, furthest = [], 0, ""
    for start, end, name in sorted(_spans(network)):
        if start < reached:
            told.append(f"{furthest} and {name} share memory, but not axis by axis: each is a weight of its own")
        if end > reached:
            reached, furthest = end, name
    return tuple(told)


def _spans(network: nn.Module) -> Iterator[tuple[int, int, str]]:
    seen = set()
    for name, tensor in network.named_parameters():
        if tensor.is_meta or isinstance(tensor, nn.UninitializedParameter) or not tensor.numel():
            continue
        alike = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        if alike not in seen:
            seen.add(alike)
            length = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
            yield tensor.data_ptr(), tensor.data_ptr() + length * tensor.element_size(), plain_name(name)


def plain_name(parameter: str) -> str:
    """The name of a parameter without what parametrizations put into it."""
    return _BEHIND_PARAMETRIZATIONS.sub(r"\1", parameter)
