"""Fake quantizers on weights, as parametrizations: the module reads its weight and gets it quantized."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from qexplore._arguments import is_whole
from qexplore.errors import ModelError
from qexplore.model.frames import aside
from qexplore.model.layers import TRANSPOSED, flat_weights, put_together, read_weights_anew, taken_apart
from qexplore.model.state import in_eval_mode
from qexplore.model.weight_store import WeightStore
from qexplore.quant import QuantizerByData, TensorQuantizer

Granularity = Literal["channel", "tensor"] | int
Network = TypeVar("Network", bound=nn.Module)


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
        was_unsafe: what torch calls so of the parametrizations that the weight has without this one.
    """

    def __init__(
        self,
        name: str,
        quantizer: TensorQuantizer,
        layout: WeightLayout,
        followers: tuple[str, ...] = (),
        was_unsafe: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.layout = layout
        self.followers = followers
        self.was_unsafe = was_unsafe
        # In a tuple, so that the quantizer is no submodule of the network too; a deep copy still takes it along.
        self._held = (quantizer,)
        self.kept: WeightStore | None = None
        self.quantizes = True
        self.num_reads = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": None}  # a copy's weights may change

    @property
    def quantizer(self) -> TensorQuantizer:
        """The point's quantizer."""
        return self._held[0]

    def keep(self, store: WeightStore) -> None:
        """Keep what each choice gave in ``store`` from now on, in which the weight does not change."""
        self.kept = store

    def forward(self, weight: Tensor) -> Tensor:
        """``weight``, fake-quantized where the point is on."""
        self.num_reads += 1
        with aside():
            return self._read(weight)

    def _read(self, weight: Tensor) -> Tensor:
        if not (self.quantizes and self.quantizer.is_active):
            return weight
        settled = self.quantizer.settled
        quantizer, choice = (self.quantizer, self.quantizer.code) if settled is None else (settled, settled)
        if self.kept is None or isinstance(settled, QuantizerByData):  # which is to be recorded, whatever it gives now
            return self._checked(weight, quantizer)
        return self.kept.get((self.name, choice), lambda: self._checked(weight, quantizer))

    def _checked(self, weight: Tensor, quantizer: Any) -> Tensor:
        self._require_fitting_range(weight)
        return self.quantize(weight, quantizer)

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


def quantization_at(module: nn.Module, attribute: str) -> WeightQuantization | None:
    """What quantizes the weight ``attribute`` of ``module``; None where nothing does."""
    chain = getattr(module, "parametrizations", {})
    if attribute not in chain:
        return None
    return next((one for one in chain[attribute] if isinstance(one, WeightQuantization)), None)


def weight_quantizations(network: nn.Module) -> Iterator[tuple[nn.Module, str, WeightQuantization]]:
    """Modules of ``network`` whose weights are quantized, with the weight's name and its quantization."""
    for module in network.modules():
        for attribute in getattr(module, "parametrizations", ()):
            found = quantization_at(module, attribute)
            if found is not None:
                yield module, attribute, found


def float_weight(module: nn.Module, attribute: str) -> Tensor:
    """The weight ``attribute`` as the quantization of it gets it: a parameter, or what parametrizations make of some.

    These are asked in eval mode and without gradients: in train mode a spectral norm changes whenever it is read.
    """
    chains: Any = getattr(module, "parametrizations", {})
    if attribute not in chains:
        return getattr(module, attribute)  # type: ignore[no-any-return]
    return weight_before(chains[attribute])


def weight_before(chain: Any) -> Tensor:
    """What the quantization in a list of parametrizations gets."""
    before = list(itertools.takewhile(lambda one: not isinstance(one, WeightQuantization), chain))
    if not before:
        return chain.original  # type: ignore[no-any-return]
    with torch.no_grad(), in_eval_mode(chain):
        weight: Tensor = before[0](*originals(chain))
        for one in before[1:]:
            weight = one(weight)
    return weight


def originals(chain: Any) -> tuple[Tensor, ...]:
    """What a list of parametrizations makes its tensor of."""
    return (
        (chain.original,) if chain.is_tensor else tuple(getattr(chain, f"original{i}") for i in range(chain.ntensors))
    )


def with_plain_weights(network: Network) -> Network:
    """``network`` itself, or where parametrizations stand before a quantization a copy in which `bake_weights` ran."""
    chains = [module.parametrizations[name] for module, name, _ in weight_quantizations(network)]  # type: ignore
    if all(len(chain) == 1 for chain in chains):
        return network
    copied = copy.deepcopy(network)
    bake_weights(copied)
    return copied


def bake_weights(network: nn.Module) -> None:
    """Make plain parameters of what stands before the quantizations of ``network``, a copy whose weights stay."""
    for module, attribute, quantization in list(weight_quantizations(network)):
        chains: Any = module.parametrizations
        if len(chains[attribute]) > 1 and chains[attribute][-1] is quantization:
            weight = nn.Parameter(float_weight(module, attribute).clone(), requires_grad=False)
            chains[attribute] = parametrize.ParametrizationList([quantization], weight, unsafe=True)


def weight_store(network: nn.Module, budget: int) -> WeightStore:
    """A store of ``budget`` bytes, or of as many as every quantized weight of ``network`` takes at one choice."""
    chains: Any = [module.parametrizations[name] for module, name, _ in weight_quantizations(network)]  # type: ignore
    once = sum(originals(chain)[0].nbytes for chain in chains)
    return WeightStore(max(budget, once))


@contextmanager
def kept_weights(network: nn.Module, store: WeightStore | None = None) -> Iterator[None]:
    """Let every weight of ``network`` be quantized once at a choice in a block, in which it does not change.

    Args:
        network: whose weights are quantized.
        store: holds what is made, for blocks to come too; None holds all of it to the end of this one.

    torch's own ``parametrize.cached`` is one for all threads and models, and keeps a value when the width moves on.
    """
    before = [(quantization, quantization.kept) for _, _, quantization in weight_quantizations(network)]
    try:
        store = WeightStore() if store is None else store
        for quantization, _ in before:
            quantization.keep(store)
        yield
    finally:
        for quantization, kept in before:
            quantization.kept = kept


def forget_cached() -> None:
    """Have torch read weights anew in a block of ``parametrize.cached``: widths have changed.

    All weights: torch files those of a deep copy under the module that was copied.
    """
    parametrize._cache.clear()


@contextmanager
def float_weights(network: nn.Module) -> Iterator[None]:
    """Let every module of ``network`` read its float weight for a block."""
    quantizations = [quantization for _, _, quantization in weight_quantizations(network)]
    try:
        for quantization in quantizations:
            quantization.quantizes = False
        forget_cached()
        yield
    finally:
        for quantization in quantizations:
            quantization.quantizes = True
        forget_cached()


def attach(module: nn.Module, attribute: str, quantization: WeightQuantization) -> None:
    """Let ``module`` read its weight through ``quantization``, behind the parametrizations that it has."""
    own_class(module)
    parametrize.register_parametrization(module, attribute, quantization, unsafe=True)
    if isinstance(module, nn.RNNBase):
        module.__dict__.pop("_flat_weights", None)
        read_weights_anew(type(module))


def restore_weights(network: nn.Module) -> None:
    """Give every module its float weight back, the very parameters it had, in their place among the others."""
    for module, attribute, quantization in list(weight_quantizations(network)):
        own_class(module)
        chain: Any = module.parametrizations[attribute]  # type: ignore[index]
        if len(chain) > 1:
            del chain[list(chain).index(quantization)]
            chain.unsafe = quantization.was_unsafe
            continue
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
        for name in quantization.followers:
            if name in module._parameters:
                module._parameters[name] = module._parameters.pop(name)
        if isinstance(module, nn.RNNBase) and not parametrize.is_parametrized(module):
            module._flat_weights = flat_weights(module)


def own_class(module: nn.Module) -> None:
    """Part the class that torch made for a parametrized module from that of its deep copies.

    They share it, and torch adds and removes a property there for every parametrization: of the others too.
    """
    if not parametrize.is_parametrized(module):
        return
    kind = type(module)
    members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, members)
