"""Training of packed layers: for networks that no stack of PyTorch can take apart, such as GPT-2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack as Keywords

from qexplore._arguments import checked_keywords
from qexplore.errors import WorkflowError
from qexplore.model import Loader, Unpack
from qexplore.preparation import copied_network, replace_everywhere
from qexplore.quant import IntegerGrid, pack, spread_scales
from qexplore.stacks import PackedLinear, float_rows, is_packable
from qexplore.training import Loss, TrainingKeywords, TrainingOptions, train


class TrainedPackedLinear(nn.Module):
    """A `PackedLinear` whose weight is a float parameter, rounded in every forward; gradients pass straight through.

    Args:
        linear: the float layer, whose weight and bias training begins with.
        packed: its packed form, of which scales and ranges of activations are taken and stay as they are.
    """

    steps: Tensor

    def __init__(self, linear: nn.Module, packed: PackedLinear) -> None:
        super().__init__()
        bias: Any = linear.bias
        self.weight = nn.Parameter(float_rows(linear).clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.grid = IntegerGrid(packed.num_bits)
        steps = spread_scales(packed.scales, packed.in_features, packed.group_size)
        self.register_buffer("steps", torch.where(steps > 0, steps, torch.ones_like(steps)))
        self.input_quantizer, self.output_quantizer = packed.input_quantizer, packed.output_quantizer
        self.relu = packed.relu

    def integers(self) -> Tensor:
        """The weight in steps, rounded and clamped, ``[out, in]``; its gradient is the weight's within the range."""
        steps = (self.weight / self.steps).clamp(self.grid.quant_min, self.grid.quant_max)
        return steps + (steps.round() - steps).detach()

    def forward(self, input: Tensor) -> Tensor:
        """``input`` ``[..., in]`` through the layer."""
        y = F.linear(self.input_quantizer(input), self.integers() * self.steps, self.bias)
        quantized: Tensor = self.output_quantizer(F.relu(y) if self.relu else y)
        return quantized


def train_packed(
    network: nn.Module,
    packed_network: nn.Module,
    loader: Loader,
    loss: Loss,
    *,
    unpack: Unpack | None = None,
    progress: bool | None = None,
    **training: Keywords[TrainingKeywords],
) -> nn.Module:
    """A copy of ``packed_network`` whose packed layers, and all else that is float, were trained with rounded weights.

    Args:
        network: the float network that was packed; left as it is.
        packed_network: what `qexplore.pack_linear_weights` made of it; left as it is.
        loader: batches of inputs and target, gone through once an epoch.
        loss: ``loss(output, target)``, a tensor of one number.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form.
        progress: show a bar on stderr; None shows it on a terminal.
        training: as for `qexplore.quantize_qat`.

    Raises:
        WorkflowError: nothing is packed, ``network`` is another one, or the loss is not finite; as
            `qexplore.training.loop.train` says.
        DataError: an empty loader.
    """
    checked_keywords(train_packed, training, TrainingKeywords)
    trained = copied_network(packed_network)
    packed = {name: module for name, module in trained.named_modules() if isinstance(module, PackedLinear)}
    if not packed:
        raise WorkflowError(
            "train_packed needs a network with packed layers, got one without: pack_linear_weights first"
        )
    for name, module in packed.items():
        trained = replace_everywhere(trained, module, TrainedPackedLinear(_float_layer(network, name, module), module))
    train(trained, loader, loss, TrainingOptions(**training, progress=progress).gentle(), unpack=unpack)
    for name, module in packed.items():
        layer = trained.get_submodule(name)
        trained = replace_everywhere(trained, layer, _packed_again(layer, module))
    return trained


def _float_layer(network: nn.Module, name: str, packed: PackedLinear) -> nn.Module:
    """The layer of ``network`` that ``packed`` was made of.

    Raises:
        WorkflowError: it has none of that name and shape.
    """
    layer: nn.Module | None = dict(network.named_modules(remove_duplicate=False)).get(name)
    if layer is None or not is_packable(layer) or float_rows(layer).shape != (packed.out_features, packed.in_features):
        raise WorkflowError(
            "train_packed needs the float network that was packed, with a linear layer of "
            f"{packed.in_features} inputs and {packed.out_features} outputs at '{name}', got {type(network).__name__} "
            "without: give the network that pack_linear_weights was given"
        )
    return layer


@torch.no_grad()
def _packed_again(trained: Any, packed: PackedLinear) -> PackedLinear:
    packed.packed = pack(trained.integers().round().to(torch.int8), packed.num_bits)
    packed.bias = None if trained.bias is None else trained.bias.detach().clone()
    return packed
