"""How a layer is quantized, in words, read back from converted modules and what they give, never from settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qexplore.stacks.base import LayerStrategy, Settings
from qexplore.stacks.packed_linear import PackedLinear
from qexplore.stacks.torch_ao import activation_range, has, require, wrong_kernel

_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric)
_FIXED_RANGE = (nn.Softmax, nn.Sigmoid, nn.Tanh, nn.Hardsigmoid)
_DYNAMIC = (nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_FOLDED = (nn.modules.batchnorm._BatchNorm,)
_ONLY_IN_TRAINING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)

_CHANGES_SHAPE = {"flatten", "reshape", "view", "permute", "transpose", "contiguous", "unsqueeze", "squeeze", "expand"}
_TAKES_PARTS = {"getitem", "getattr", "size", "dim", "chunk", "split", "repeat"}
MOVES_ONLY = _CHANGES_SHAPE | _TAKES_PARTS | {"quantize_per_tensor", "dequantize"}
"""Functions that move values and do not change them: no layers."""


def describe_weights(module: nn.Module) -> str:
    """Such as ``"int8 per channel"`` or ``"int4 per channel, packed"``; empty where the weights are float, or none."""
    if isinstance(module, PackedLinear):
        granularity = "per channel" if module.group_size is None else f"in groups of {module.group_size}"
        return f"int{module.num_bits} {granularity}, packed"
    tensors = _quantized_weights(module)
    if not tensors:
        return ""
    width = max([_width(tensor) for tensor in tensors])
    granularity = "per channel" if tensors[0].qscheme() in _PER_CHANNEL else "per tensor"
    symmetric = all(map(_is_centred, tensors))
    sign = "uint" if tensors[0].dtype == torch.quint8 else "int"
    return f"{sign}{width} {granularity}" + ("" if symmetric else ", affine")


def describe_activations(output: Any) -> str:
    """Such as ``"uint8 per tensor, affine"``, of a tensor that a layer gave on the engine in force; empty for float."""
    if not isinstance(output, Tensor) or not output.is_quantized:
        return ""
    sign = "uint" if output.dtype == torch.quint8 else "int"
    middle = sum(activation_range(None)) // 2 if sign == "uint" else 0
    # An affine range that is centred by chance is symmetric too.
    centred = output.q_zero_point() - middle in ((0, 1) if sign == "uint" else (0,))
    return f"{sign}8 per tensor, {'symmetric' if centred else 'affine'}"


def reason_for_integers(module: nn.Module | None, weights: str, activations: str, settings: Settings) -> str:
    """Why a layer is quantized the way that ``weights`` and ``activations`` say."""
    ranges = "learned in training" if settings.method == "qat" else "from calibration"
    if weights.endswith("packed"):
        after = "" if activations else "; input and output float"
        return f"stored small, computed in float{after}"
    if weights and not activations:
        return "weights rounded once; the input's range is taken at run time"
    if weights:
        scales = (
            "a scale a channel, as their ranges differ" if "per channel" in weights else "one scale for all channels"
        )
        return f"{settings.engine} kernel; {scales}; output range {ranges}"
    if isinstance(module, nn.Softmax) and settings.engine != "qnnpack":
        return "output range 0 to 1 is known; between its integers torch computes it in float"
    if isinstance(module, _FIXED_RANGE):
        return "no weights; the output's range is known"
    return f"no weights: integers in, integers out; range {ranges}, or its input's"


def reason_for_float(name: str, module: nn.Module | None, settings: Settings) -> str:
    """Why the layer ``name``, ``module`` of the float network (None for a function), stays float."""
    if module is not None and settings.modules is not None and not settings.modules(name, module):
        return f"not selected by modules={settings.modules}"
    if module is not None and next(module.children(), None) is not None:
        return "taken as a whole, with the layers inside it"
    if settings.method == "dynamic" and not isinstance(module, _DYNAMIC):
        return "dynamic quantization has integer kernels for Linear and recurrent layers only"
    own = reason_for_kind(module, settings)
    if own:
        return own
    if isinstance(module, (nn.Flatten, nn.Unflatten, nn.Unfold)):
        return "only moves values, which the stack does in float here"
    return f"no integer kernel of {settings.engine} for it here"


def reason_for_kind(module: nn.Module | None, settings: Settings) -> str:
    """Why ``module`` stays float in static quantization and training whatever it reads; empty where it need not."""
    if settings.method == "dynamic":
        return ""
    if isinstance(module, _DYNAMIC[1:]):
        return "recurrent layers have integer kernels in dynamic quantization only"
    if isinstance(module, EMBEDDINGS):
        return "an embedding looks rows up and computes nothing: left float"
    return wrong_kernel(module, settings.engine)


def reason_for_absence(module: nn.Module, before: str) -> str:
    """Why ``module`` of the float network is none of its own in the quantized one; ``before`` is what precedes it."""
    if isinstance(module, _ONLY_IN_TRAINING):
        return "does nothing outside training: left out"
    verb = "folded" if isinstance(module, _FOLDED) else "fused"
    return f"{verb} into '{before}'" if before else f"{verb} into its neighbour"


def is_absent(row: LayerStrategy) -> bool:
    """Whether the layer is none of its own in the quantized network, as `reason_for_absence` says."""
    return row.reason.startswith(("folded into", "fused into", "does nothing outside training"))


def _quantized_weights(module: Any) -> list[Tensor]:
    if has("nnqd") and isinstance(module, _recurrent_kinds()):
        return list(module.get_weight().values())  # type: ignore[attr-defined]
    weight = getattr(module, "weight", None)
    tensor = weight() if callable(weight) else weight
    return [tensor] if isinstance(tensor, Tensor) and tensor.is_quantized else []


def _recurrent_kinds() -> tuple[type, ...]:
    dynamic = require("nnqd")
    return (dynamic.LSTM, dynamic.GRU, dynamic.LSTMCell, dynamic.GRUCell, dynamic.RNNCell)


def _width(weight: Tensor) -> int:
    """Bits that the integers present need, two at least."""
    integers = weight.int_repr()
    low, high = int(integers.min()), int(integers.max())
    if weight.dtype == torch.quint8:
        return max(2, high.bit_length())
    # An observer of 4 bits scales the largest magnitude to 7.5, which conversion rounds to 8, where training clamps it.
    return next(bits for bits in range(2, 9) if low >= -(2 ** (bits - 1)) and high <= 2 ** (bits - 1))


def _is_centred(weight: Tensor) -> bool:
    points = weight.q_per_channel_zero_points() if weight.qscheme() in _PER_CHANNEL else weight.q_zero_point()
    return not bool(torch.as_tensor(points).any())
