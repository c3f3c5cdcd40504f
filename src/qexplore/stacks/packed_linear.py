"""Linear layers whose weights are stored as packed integers of 2 to 8 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qexplore._quiet import quiet
from qexplore.errors import WorkflowError
from qexplore.quant import (
    check_group_size,
    check_packed_width,
    num_packed_bytes,
    pack,
    quantize_weight,
    spread_scales,
    unpack,
)
from qexplore.stacks.torch_ao import require

_LOWEST, _HIGHEST = 0, 255


class PackedLinear(nn.Module):
    """A linear layer that keeps its weight packed, and dequantizes it in every forward.

    Smaller on disk and in memory, not faster. ``state_dict()`` holds the packed bytes (uint8), the scales and the bias,
    and loads strictly into a module that was built alike. Input and output are float, and pass an 8-bit quantizer where
    `start_observing` and `stop_observing` have given it a range; a torch quantized tensor is taken too, and answered
    with one of the output's scale and zero point.

    Args:
        in_features: inputs.
        out_features: outputs.
        bias: whether there is one.
        num_bits: width of the weights, 2 to 8.
        group_size: neighbouring inputs that share a scale; None for one scale per output channel.
        relu: whether a ReLU follows, as in a fused module.

    Raises:
        NumBitsError: a width or group size that cannot be packed.
    """

    packed: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        num_bits: int = 4,
        group_size: int | None = None,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.num_bits, self.group_size = check_packed_width(num_bits), check_group_size(group_size)
        self.relu = relu
        groups = 1 if group_size is None else -(-in_features // group_size)
        num_bytes = num_packed_bytes(in_features * out_features, num_bits)
        self.register_buffer("packed", torch.zeros(num_bytes, dtype=torch.uint8))
        self.register_buffer("scales", torch.zeros(out_features, groups))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)
        self.input_quantizer, self.output_quantizer = Uint8Activation(), Uint8Activation()

    @classmethod
    def from_float(
        cls, linear: nn.Module, num_bits: int = 4, group_size: int | None = None, *, method: str = "mse"
    ) -> PackedLinear:
        """The packed form of a float layer, which stays as it is.

        Args:
            linear: an ``nn.Linear``, or transformers' ``Conv1D``, whose weight is transposed.
            num_bits: width of the weights, 2 to 8.
            group_size: neighbouring inputs that share a scale; None for one scale per output channel.
            method: ``"mse"`` for ranges of the least squared error, ``"max"`` for the largest magnitude.

        Raises:
            WorkflowError: another kind of module, or a weight that is not finite.
            NumBitsError: a width or group size that cannot be packed.
        """
        weight = float_rows(linear)
        if not bool(torch.isfinite(weight).all()):
            raise WorkflowError("the weight of a layer to be packed must be finite, got NaN or infinity")
        integers, scales = quantize_weight(weight, num_bits, group_size, method)
        packed = cls._of(integers, scales, linear.bias, num_bits, group_size)  # type: ignore[arg-type]
        return packed.to(weight.device).train(linear.training)

    @classmethod
    def from_quantized(cls, quantized: Any, num_bits: int) -> PackedLinear:
        """The packed form of a Linear of ``torch.ao.nn.quantized`` (or LinearReLU), the same integers and scales.

        Args:
            quantized: the module; its integers must fit in ``num_bits``, as those of an observer of that range do, one
                beyond the largest apart, which conversion leaves where the fake quantizer clamps. Of a dynamic one the
                weights alone are taken over: activations stay float.
            num_bits: 2 to 8.

        Raises:
            WorkflowError: its weight has a zero point other than 0.
            NumBitsError: integers that do not fit, or a width that cannot be packed.
        """
        weight, bias = quantized.weight(), quantized.bias()
        if weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
            scales, zero_points = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
        else:
            scales = torch.full((weight.shape[0],), weight.q_scale())
            zero_points = torch.tensor(weight.q_zero_point())
        if bool((zero_points != 0).any()):
            raise WorkflowError(
                "packed weights must be symmetric, got a weight observer with a zero point other than 0"
            )
        kind = type(quantized)
        integers = _clamped(weight.int_repr(), num_bits)
        packed = cls._of(integers, scales.float()[:, None], bias, num_bits, relu=kind.__name__ == "LinearReLU")
        if "dynamic" not in kind.__module__:
            packed.output_quantizer.settle(float(quantized.scale), int(quantized.zero_point))
        return packed.train(quantized.training)

    @classmethod
    def _of(
        cls,
        integers: Tensor,
        scales: Tensor,
        bias: Tensor | None,
        num_bits: int,
        group_size: int | None = None,
        relu: bool = False,
    ) -> PackedLinear:
        out_features, in_features = integers.shape
        made = cls(
            in_features, out_features, bias=bias is not None, num_bits=num_bits, group_size=group_size, relu=relu
        )
        made.packed, made.scales = pack(integers, num_bits), scales
        if bias is not None:
            made.bias = bias.detach().clone()
        return made

    @property
    def weight(self) -> Tensor:
        """The dequantized weight, ``[out, in]``."""
        integers = unpack(self.packed, self.num_bits, (self.out_features, self.in_features))
        return integers.to(self.scales.dtype) * spread_scales(self.scales, self.in_features, self.group_size)

    @property
    def num_bytes(self) -> int:
        """Stored bytes of the weight: packed integers and scales."""
        return self.packed.numel() + self.scales.numel() * self.scales.element_size()

    def forward(self, input: Tensor) -> Tensor:
        """``input`` ``[..., in]`` through the layer; float for float, torch quantized for torch quantized."""
        if input.is_quantized:
            return self.output_quantizer.as_quantized(self._linear(input.dequantize()))
        quantized: Tensor = self.output_quantizer(self._linear(self.input_quantizer(input)))
        return quantized

    def _linear(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = F.linear(x, self.weight.to(x.dtype), bias)
        return F.relu(y) if self.relu else y

    def start_observing(self) -> None:
        """From now on note the ranges of input and output."""
        self.input_quantizer.start_observing()
        self.output_quantizer.start_observing()

    def stop_observing(self) -> None:
        """From now on quantize input and output to 8 bits over the ranges noted; what was not called stays float."""
        self.input_quantizer.stop_observing()
        self.output_quantizer.stop_observing()

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        granularity = "per channel" if self.group_size is None else f"groups of {self.group_size}"
        text = f"in_features={self.in_features}, out_features={self.out_features}, int{self.num_bits} {granularity}"
        return f"{text}, relu" if self.relu else text


class Uint8Activation(nn.Module):
    """Fake quantization of a tensor to 8 bits, one scale and zero point; nothing before it has a range."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self._range: tuple[float, float] | None = None

    @property
    def is_on(self) -> bool:
        """Whether it has a range."""
        return bool(self.scale > 0)

    def start_observing(self) -> None:
        """Note ranges from now on, and let everything pass."""
        self._range = (0.0, 0.0)

    def stop_observing(self) -> None:
        """Quantize from now on over the range noted, which includes 0."""
        low, high = self._range or (0.0, 0.0)
        self._range = None
        if high > low:
            scale = (high - low) / (_HIGHEST - _LOWEST)
            self.settle(scale, round(-low / scale))

    def settle(self, scale: float, zero_point: int) -> None:
        """Take ``scale`` and ``zero_point``."""
        self.scale.fill_(scale)
        self.zero_point.fill_(zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any shape; float."""
        if self._range is not None:
            low, high = self._range
            self._range = (min(low, float(x.detach().min())), max(high, float(x.detach().max())))
            return x
        if not self.is_on:
            return x
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, _LOWEST, _HIGHEST)

    def as_quantized(self, x: Tensor) -> Tensor:
        """``x`` as a torch quantized tensor (quint8)."""
        with quiet():
            return torch.quantize_per_tensor(x, float(self.scale), int(self.zero_point), torch.quint8)


def pack_converted(model: nn.Module, num_bits: int) -> nn.Module:
    """Swap the Linear layers that torch.ao has converted for packed ones, in place, where ``num_bits`` is below 8."""
    if num_bits == 8:
        return model
    kinds = (require("nnq").Linear, require("nniq").LinearReLU, require("nnqd").Linear, require("nniqd").LinearReLU)
    for name, module in list(model.named_modules()):
        if isinstance(module, kinds):
            model.set_submodule(name, PackedLinear.from_quantized(module, num_bits))
    return model


def is_packable(module: nn.Module) -> bool:
    """Whether `PackedLinear.from_float` takes ``module``: ``nn.Linear`` itself, or transformers' ``Conv1D``."""
    return type(module) is nn.Linear or _is_transposed(module)


def _is_transposed(module: nn.Module) -> bool:
    # By name: transformers is not imported for it.
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")


def _clamped(integers: Tensor, num_bits: int) -> Tensor:
    """``integers`` without the largest magnitude's rounding up: its place is ``quant_max`` and a half."""
    largest = 2 ** (num_bits - 1)
    return torch.where(integers == largest, largest - 1, integers) if num_bits < 8 else integers


def float_rows(linear: nn.Module) -> Tensor:
    """The weight of a layer that can be packed as ``[out, in]``, detached.

    Raises:
        WorkflowError: another kind of module.
    """
    if not is_packable(linear):
        raise WorkflowError(
            f"PackedLinear.from_float takes an nn.Linear or a Conv1D of transformers, got {type(linear).__name__}"
        )
    weight: Any = linear.weight
    rows: Tensor = weight.detach().t() if _is_transposed(linear) else weight.detach()
    return rows
