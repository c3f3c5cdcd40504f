"""Fake quantizers on weights, as parametrizations: the module reads its weight and gets it quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from qexplore._arguments import is_whole
from qexplore.errors import ModelError, SelectionError
from qexplore.model.layers import TRANSPOSED, put_together, taken_apart
from qexplore.model.points import QuantizationPoint
from qexplore.predicates import weight_attribute, weight_of
from qexplore.quant import TensorQuantizer

Granularity = Literal["channel", "tensor"] | int


def check_granularity(value: object) -> None:
    """Raise unless ``value`` is "channel", "tensor" or a positive group size.

    Raises:
        ModelError: it is not.
    """
    if value not in ("channel", "tensor") and not (is_whole(value) and value >= 1):  # type: ignore[operator]
        raise ModelError(
            f'`weight_granularity` must be "channel", "tensor" or a group size such as 32, 64 or 128, got {value!r}'
        )


@dataclass(frozen=True)
class WeightLayout:
    """A weight as rows that share a scale each.

    Attributes:
        axis: of the output channels.
        groups: of a transposed convolution, whose channels stand in groups along both axes; 1 for others.
        granularity: "channel" for a scale per output channel; "tensor" for one; or the length of groups along a
            channel's inputs, in the order in which a convolution unfolds them (input channel, then kernel); a shorter
            last group stands alone.
    """

    axis: int
    groups: int
    granularity: Granularity

    @classmethod
    def of(cls, module: nn.Module, weight: Tensor, granularity: Granularity) -> WeightLayout:
        """The layout of ``weight`` in ``module``. A vector has one scale: a value each would be exact."""
        if isinstance(module, TRANSPOSED):
            return cls(1, module.groups, granularity)
        return cls(0, 1, "tensor" if weight.dim() < 2 else granularity)

    def rows(self, weight: Tensor) -> Tensor:
        """``weight`` as ``[rows, values]``, or ``[channels, groups, values]`` padded with zeros; one scale a row."""
        if self.granularity == "tensor":
            return weight.reshape(1, -1)
        channels = self._apart(weight).flatten(0, 1).flatten(1)
        if self.granularity == "channel":
            return channels
        size = int(self.granularity)
        return F.pad(channels, (0, -channels.shape[1] % size)).reshape(len(channels), -1, size)

    def restore(self, rows: Tensor, weight: Tensor) -> Tensor:
        """What `rows` undone gives, in the shape of ``weight``."""
        if self.granularity == "tensor":
            return rows.reshape(weight.shape)
        apart = self._apart(weight)
        flat = rows if rows.dim() == 2 else rows.flatten(1)[:, : apart[0, 0].numel()]
        return put_together(flat.reshape(apart.shape), weight, self.axis == 1)

    def _apart(self, weight: Tensor) -> Tensor:
        return taken_apart(weight, self.groups, self.axis == 1)


class WeightQuantization(nn.Module):
    """The parametrization of one weight.

    Args:
        name: of the point.
        quantizer: its quantizer, registered by the wrapper and only referred to here.
        layout: which values share a scale.
        followers: names of the module's parameters that stand behind the weight.
    """

    def __init__(
        self, name: str, quantizer: TensorQuantizer, layout: WeightLayout, followers: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.name = name
        self.layout = layout
        self.followers = followers
        # In a tuple, so that the quantizer is no submodule of the network too; a deep copy still takes it along.
        self._held = (quantizer,)
        self._kept: dict[int, Tensor] | None = None
        self.quantizes = True

    @property
    def quantizer(self) -> TensorQuantizer:
        """The point's quantizer."""
        return self._held[0]

    def keep(self) -> None:
        """Keep what each width gave from now on: for a copy whose weights no longer change."""
        self._kept = {}

    def forward(self, weight: Tensor) -> Tensor:
        """``weight``, fake-quantized where the point is on."""
        if not (self.quantizes and self.quantizer.is_active):
            return weight
        self._require_fitting_range(weight)
        if self._kept is None:
            return self.quantize(weight, self.quantizer)
        code = self.quantizer.code
        if code not in self._kept:
            self._kept[code] = self.quantize(weight, self.quantizer)
        return self._kept[code]

    def _require_fitting_range(self, weight: Tensor) -> None:
        amax = self.quantizer.amax
        if amax is None or amax.numel() == 1:
            return
        wanted = torch.Size([*self.layout.rows(weight.detach()).shape[:-1], 1])
        if amax.shape != wanted:
            raise ModelError(
                f"the range of '{self.name}' must have the shape {tuple(wanted)} (weight_granularity="
                f"{self.layout.granularity!r}), got {tuple(amax.shape)}: load the state of a wrapper with the same "
                "granularity, or calibrate anew"
            )

    def quantize(self, weight: Tensor, quantizer: Any) -> Tensor:
        """``weight`` through ``quantizer``, a function of the layout's rows; in memory as ``weight`` lies there."""
        return _laid_out_like(weight, self.layout.restore(quantizer(self.layout.rows(weight)), weight))


def _laid_out_like(weight: Tensor, restored: Tensor) -> Tensor:
    # What may be asked of a weight, such as view(), is asked of it quantized too; and a kernel chosen by the layout
    # would sum in another order. A tensor with one channel is contiguous in both formats.
    for dim, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if weight.dim() == dim and not weight.is_contiguous() and weight.is_contiguous(memory_format=layout):
            return restored.contiguous(memory_format=layout)
    return restored.contiguous()


@dataclass(frozen=True)
class WeightPoint:
    """A weight that several modules may share.

    Attributes:
        name: of the point: the parameter's qualified name under its first module.
        holders: modules that hold the parameter, each with the parameter's name there.
        layout: which values share a scale.
    """

    name: str
    holders: tuple[tuple[nn.Module, str], ...]
    layout: WeightLayout

    @property
    def parameter(self) -> nn.Parameter:
        """The float weight; asked of the module each time, for loading with ``assign=True`` puts another there."""
        module, attribute = self.holders[0]
        chains: Any = getattr(module, "parametrizations", {})
        parameter: nn.Parameter = chains[attribute].original if attribute in chains else getattr(module, attribute)
        return parameter

    @property
    def module_type(self) -> str:
        """Class name of the first module that holds it."""
        module = self.holders[0][0]
        kind = type(module)
        return kind.__bases__[0].__name__ if parametrize.is_parametrized(module) else kind.__name__

    @property
    def num_scales(self) -> int:
        """How many scales are stored with it."""
        return self.layout.rows(self.parameter.detach()).shape[:-1].numel()

    def as_point(self, index: int) -> QuantizationPoint:
        """The point with this place in the vector ``num_bits``."""
        parameter = self.parameter
        return QuantizationPoint(
            self.name,
            "weight",
            index,
            self.module_type,
            tuple(parameter.shape),
            num_elements=parameter.numel(),
            num_scales=self.num_scales,
            module=self.name.rpartition(".")[0],
        )

    def attach(self, quantizer: TensorQuantizer) -> None:
        """Let every holder read its weight through ``quantizer``."""
        for module, attribute in self.holders:
            names = list(module._parameters)
            followers = tuple(names[names.index(attribute) + 1 :])
            quantization = WeightQuantization(self.name, quantizer, self.layout, followers)
            own_class(module)
            parametrize.register_parametrization(module, attribute, quantization, unsafe=True)

    @property
    def is_attached(self) -> bool:
        """Whether every holder still reads its weight through a quantizer."""
        return all(_quantization(module, attribute) is not None for module, attribute in self.holders)


def weight_points(network: nn.Module, selected: Mapping[str, nn.Module], granularity: Granularity) -> list[WeightPoint]:
    """A point for every weight of the selected modules, and for all modules of the network that share it.

    Raises:
        SelectionError: a module without a weight of floating numbers.
        ModelError: a weight that is parametrized already.
    """
    everywhere: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in network.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                everywhere.setdefault(id(parameter), []).append((module, attribute))
    points: dict[int, WeightPoint] = {}
    for name, module in selected.items():
        attribute = weight_attribute(module)
        parameter = _parameter(name, module, attribute)
        qualified = f"{name}.{attribute}" if name else attribute
        layout = WeightLayout.of(module, parameter, granularity)
        holders = tuple(everywhere[id(parameter)])
        if any(isinstance(holder, parametrize.ParametrizationList) for holder, _ in holders):
            raise _parametrized(name)
        points.setdefault(id(parameter), WeightPoint(qualified, holders, layout))
    return list(points.values())


def _parameter(name: str, module: nn.Module, attribute: str) -> nn.Parameter:
    if attribute in getattr(module, "parametrizations", {}):
        raise _parametrized(name)
    parameter = weight_of(name, module)
    if parameter is None:
        held = [own for own, value in module._parameters.items() if value is not None]
        raise SelectionError(
            f"every module that `weights` selects must have a parameter '{attribute}', but '{name}' "
            f"({type(module).__name__}) has {', '.join(held) or 'no parameter'}: select modules that have one, for "
            "example with `& predicates.weighted`"
        )
    return parameter


def _parametrized(name: str) -> ModelError:
    return ModelError(
        f"the weight of '{name}' must not be parametrized already, in a module that shares it neither: bake it in with "
        "torch.nn.utils.parametrize.remove_parametrizations, or leave this module out of `weights`"
    )


def _quantization(module: nn.Module, attribute: str) -> WeightQuantization | None:
    chain = getattr(module, "parametrizations", {})
    if attribute not in chain:
        return None
    return next((one for one in chain[attribute] if isinstance(one, WeightQuantization)), None)


def weight_quantizations(network: nn.Module) -> Iterator[tuple[nn.Module, str, WeightQuantization]]:
    """Modules of ``network`` whose weights are quantized, with the weight's name and its quantization."""
    for module in network.modules():
        for attribute in getattr(module, "parametrizations", ()):
            found = _quantization(module, attribute)
            if found is not None:
                yield module, attribute, found


@contextmanager
def float_weights(network: nn.Module) -> Iterator[None]:
    """Let every module of ``network`` read its float weight for a block."""
    quantizations = [quantization for _, _, quantization in weight_quantizations(network)]
    try:
        for quantization in quantizations:
            quantization.quantizes = False
        yield
    finally:
        for quantization in quantizations:
            quantization.quantizes = True


def restore_weights(network: nn.Module) -> None:
    """Give every module its float weight back, the very parameter it had, in its place among the others."""
    for module, attribute, quantization in list(weight_quantizations(network)):
        own_class(module)
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
        for name in quantization.followers:
            if name in module._parameters:
                module._parameters[name] = module._parameters.pop(name)


def own_class(module: nn.Module) -> None:
    """Part the class that torch made for a parametrized module from that of its deep copies.

    They share it, and torch adds and removes a property there for every parametrization: of the others too.
    """
    if not parametrize.is_parametrized(module):
        return
    kind = type(module)
    members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, members)


def calibrated_rows(point: WeightPoint) -> tuple[Tensor, torch.Size]:
    """The float weight as ``[R, n]`` rows of a scale each, and the shape that a range must have."""
    rows = point.layout.rows(point.parameter.detach())
    return rows.reshape(-1, rows.shape[-1]), torch.Size([*rows.shape[:-1], 1])
