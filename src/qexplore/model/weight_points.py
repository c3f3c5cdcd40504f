"""Which weights of a network are quantized, each with all modules that hold it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qexplore.errors import ModelError, SelectionError
from qexplore.model.left_float import IS_UNREAD, computed_by_hooks, is_unread, left_float, left_float_text
from qexplore.model.points import QuantizationPoint
from qexplore.model.weights import (
    Granularity,
    WeightLayout,
    WeightQuantization,
    attach,
    float_weight,
    originals,
    quantization_at,
)
from qexplore.predicates import (
    PredicateLike,
    as_predicate,
    select_modules,
    weight_attribute,
    weight_attributes,
    weight_of,
)
from qexplore.quant import TensorQuantizer

Holder = tuple[nn.Module, str]
"""A module, and the name of its weight."""


@dataclass(frozen=True)
class WeightPoint:
    """A weight that several modules may share.

    Attributes:
        name: of the point: the weight's qualified name under its first module.
        holders: modules that hold the weight, each with the weight's name there.
        layout: which values share a scale.
    """

    name: str
    holders: tuple[Holder, ...]
    layout: WeightLayout

    @property
    def parameter(self) -> Tensor:
        """The float weight: the parameter, or what parametrizations of the user's own make of theirs.

        Asked of the module each time, for loading with ``assign=True`` puts another there.
        """
        return float_weight(*self.holders[0])

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What is trained behind the weight, of all holders: one tensor, unless it is parametrized besides."""
        return tuple(tensor for holder in self.holders for tensor in _trained(*holder))

    @property
    def module_type(self) -> str:
        """Class name of the first module that holds it."""
        return parametrize.type_before_parametrizations(self.holders[0][0]).__name__

    @property
    def num_scales(self) -> int:
        """How many scales are stored with it."""
        return self.layout.rows(self.parameter.detach()).shape[:-1].numel()

    def as_point(self, index: int) -> QuantizationPoint:
        """The point with this place in the vector ``num_bits``."""
        weight = self.parameter.detach()
        return QuantizationPoint(
            self.name,
            "weight",
            index,
            self.module_type,
            tuple(weight.shape),
            num_elements=weight.numel(),
            num_scales=self.layout.rows(weight).shape[:-1].numel(),
            module=self.name.rpartition(".")[0],
        )

    def attach(self, quantizer: TensorQuantizer) -> None:
        """Let every holder read its weight through ``quantizer``."""
        for module, attribute in self.holders:
            names = list(module._parameters)
            chains: Any = getattr(module, "parametrizations", {})
            is_parametrized = attribute in chains
            followers = () if is_parametrized else tuple(names[names.index(attribute) + 1 :])
            was_unsafe = is_parametrized and chains[attribute].unsafe
            attach(module, attribute, WeightQuantization(self.name, quantizer, self.layout, followers, was_unsafe))

    @property
    def is_attached(self) -> bool:
        """Whether every holder still reads its weight through a quantizer."""
        return all(quantization_at(module, attribute) is not None for module, attribute in self.holders)

    def require_one(self) -> None:
        """Raise unless all holders still hold one weight.

        Raises:
            ModelError: they hold several, as after ``load_state_dict(assign=True)`` from a file that has it twice.
        """
        held = [float_weight(*holder) for holder in self.holders[1:]]
        first = float_weight(*self.holders[0]) if held else None
        if first is not None and any(one is not first and _memory(one) != _memory(first) for one in held):
            kinds = ", ".join(f"'{attribute}' of a {type(module).__name__}" for module, attribute in self.holders)
            raise ModelError(
                f"the weight '{self.name}' must be the one that {len(self.holders)} modules share, as when it was "
                f"wrapped, but now they hold several ({kinds}): load the state without assign=True, or detach, tie "
                "the weights anew, and wrap"
            )


def weight_points(network: nn.Module, predicate: PredicateLike, granularity: Granularity) -> list[WeightPoint]:
    """A point for every weight of the modules that ``predicate`` selects, and for all modules that share it.

    Parameters in the same memory, seen alike, are one weight.

    Raises:
        SelectionError: nothing is selected, or a module without a weight of floating numbers.
        ModelError: a weight that is a parametrized one's original too.
    """
    predicate = as_predicate(predicate)
    try:
        selected = select_modules(network, predicate)
    except SelectionError as error:
        passed_over = left_float_text(left_float(network, ()))
        raise SelectionError(f"{error}\n{passed_over}" if passed_over else str(error)) from error
    everywhere = _holders(network)
    points: dict[Hashable, WeightPoint] = {}
    for name, module in selected.items():
        for attribute in _weights(name, module):
            qualified = f"{name}.{attribute}" if name else attribute
            holders: tuple[Holder, ...] = ((module, attribute),)
            weight = module._parameters.get(attribute)
            if weight is not None:
                holders = tuple(everywhere[_memory(weight)])
                if any(isinstance(holder, parametrize.ParametrizationList) for holder, _ in holders):
                    raise ModelError(
                        f"the weight of '{name}' must not be what another module has parametrized: bake that in with "
                        "torch.nn.utils.parametrize.remove_parametrizations, or leave this module out of `weights`"
                    )
            layout = WeightLayout.of(module, float_weight(module, attribute), granularity)
            key = (id(module), attribute) if weight is None else _memory(weight)
            points.setdefault(key, WeightPoint(qualified, holders, layout))
    return list(points.values())


def _holders(network: nn.Module) -> dict[Hashable, list[Holder]]:
    everywhere: dict[Hashable, list[Holder]] = {}
    for module in network.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None and not isinstance(parameter, nn.UninitializedParameter):
                everywhere.setdefault(_memory(parameter), []).append((module, attribute))
    return everywhere


def _memory(tensor: Tensor) -> Hashable:
    """The same for tensors that are the same numbers in the same memory."""
    if tensor.is_meta or not tensor.numel() or tensor.layout is not torch.strided:
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device


def _weights(name: str, module: nn.Module) -> list[str]:
    held = [one for one in weight_attributes(module) if weight_of(name, module, one) is not None]
    weights = [one for one in held if not is_unread(module, one)]
    if not weights:
        wanted = weight_attribute(module)
        own = [own for own, value in module._parameters.items() if value is not None]
        hooks = computed_by_hooks(module)
        why = IS_UNREAD if held else "; ".join(f"its '{one}' is {reason}" for one, reason in hooks.items())
        raise SelectionError(
            f"every module that `weights` selects must have a parameter '{wanted}', but '{name}' "
            f"({type(module).__name__}) has {', '.join(own) or 'no parameter'}: "
            f"{why or 'select modules that have one, for example with `& predicates.weighted`'}"
        )
    return weights


def _trained(module: nn.Module, attribute: str) -> Iterator[Tensor]:
    chains: Any = getattr(module, "parametrizations", {})
    yield from originals(chains[attribute]) if attribute in chains else (getattr(module, attribute),)


def calibrated_rows(point: WeightPoint) -> tuple[Tensor, torch.Size]:
    """The float weight as ``[R, n]`` rows of a scale each, and the shape that a range must have."""
    rows = point.layout.rows(point.parameter.detach())
    return rows.reshape(-1, rows.shape[-1]), torch.Size([*rows.shape[:-1], 1])
