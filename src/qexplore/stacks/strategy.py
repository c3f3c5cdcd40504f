"""How a layer is quantized, read back from converted modules of torch.ao and what they give, never from settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from qexplore.stacks import reasons
from qexplore.stacks.base import Settings
from qexplore.stacks.layer import Granularity, LayerStrategy, Stored
from qexplore.stacks.packed_linear import PackedLinear
from qexplore.stacks.plain import has_own_forward
from qexplore.stacks.torch_ao import RECURRENT, activation_range, dynamic_recurrent, wrong_kernel

_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric)
_FIXED_RANGE = (nn.Softmax, nn.Sigmoid, nn.Tanh, nn.Hardsigmoid)
_PLAIN_RECURRENT = (nn.RNN, nn.RNNCell)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

WEIGHTED = frozenset({"linear", *(f"conv{kind}{dims}d" for kind in ("", "_transpose") for dims in (1, 2, 3))})
"""Names of functions that take weights."""

_CHANGES_SHAPE = {"flatten", "reshape", "view", "permute", "transpose", "contiguous", "unsqueeze", "squeeze", "expand"}
_TAKES_PARTS = {"getitem", "getattr", "size", "dim", "chunk", "split", "repeat"}
MOVES_ONLY = _CHANGES_SHAPE | _TAKES_PARTS | {"quantize_per_tensor", "quantize_per_channel", "dequantize"}
"""Functions that move values and do not change them: no layers."""


def values_of(model: fx.GraphModule, example: tuple[Any, ...]) -> dict[fx.Node, Any]:
    """What every node of ``model`` gives on ``example``."""
    interpreter = fx.Interpreter(model, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*example)
    return interpreter.env


def describe_weights(module: nn.Module) -> Stored | None:
    """How the weights of ``module`` are stored; None where they are float, or there are none."""
    if isinstance(module, PackedLinear):
        group_size = module.group_size
        granularity: Granularity = "group" if group_size else "channel"
        return Stored("weights", module.num_bits, granularity, group_size=group_size, packed=True)
    return describe_tensors(_quantized_weights(module))


def describe_tensors(tensors: list[Tensor]) -> Stored | None:
    """How the weights ``tensors`` of one layer are stored; None where there are none."""
    if not tensors:
        return None
    return Stored(
        "weights",
        num_bits=max([_width(tensor) for tensor in tensors]),
        granularity="channel" if tensors[0].qscheme() in _PER_CHANNEL else "tensor",
        signed=tensors[0].dtype != torch.quint8,
        symmetric=all(map(_is_centred, tensors)),
    )


def describe_activations(output: Any) -> Stored | None:
    """How a tensor that a layer gave on the engine in force is stored; None for float."""
    if not isinstance(output, Tensor) or not output.is_quantized:
        return None
    signed = output.dtype != torch.quint8
    middle = 0 if signed else sum(activation_range(None)) // 2
    # An affine range that is centred by chance is symmetric too.
    centred = output.q_zero_point() - middle in ((0,) if signed else (0, 1))
    return Stored("activations", 8, signed=signed, symmetric=centred)


def packed_strategy(network: nn.Module, skipped: Mapping[str, str] | None = None) -> tuple[LayerStrategy, ...]:
    """How the layers of a network with packed ones are quantized, read back from its modules.

    Args:
        network: with `PackedLinear` inside.
        skipped: reasons why some layers stay float; all others but packed ones are said to have no packed form.
    """
    rows = []
    for name, module in network.named_modules():
        if isinstance(module, PackedLinear):
            weights, activations = describe_weights(module), None
            if module.output_quantizer.is_on:
                activations = Stored("activations", 8, signed=False, symmetric=False)
            reason = reasons.PACKED if activations else reasons.PACKED_WITHOUT_DATA
            rows.append(LayerStrategy.present(name, "Linear", weights, activations, reason))
        elif next(module.parameters(recurse=False), None) is not None:
            reason = (skipped or {}).get(name, reasons.NOT_LINEAR)
            rows.append(LayerStrategy.present(name, type(module).__name__, None, None, reason))
    return tuple(rows)


def reason_for_integers(
    module: nn.Module | None, weights: Stored | None, activations: Stored | None, settings: Settings
) -> str:
    """Why ``module`` is quantized the way that ``weights`` and ``activations`` say; empty where both are float."""
    if not weights and not activations:
        return ""
    if weights and weights.packed:
        return reasons.STORED_SMALL if activations else reasons.STORED_SMALL_IN_FLOAT
    if weights and not activations:
        return reasons.AT_RUN_TIME
    if weights:
        return reasons.in_kernel(str(settings.engine), weights, reasons.RANGE[settings.method])
    if isinstance(module, nn.Softmax) and settings.engine != "qnnpack":
        return reasons.SOFTMAX
    if isinstance(module, _FIXED_RANGE):
        return reasons.KNOWN_RANGE
    return reasons.NO_WEIGHTS.format(range=reasons.RANGE[settings.method])


def reason_for_float(name: str, module: nn.Module | None, settings: Settings) -> str:
    """Why the layer ``name``, ``module`` of the float network (None for a function), stays float."""
    if name in settings.left_float:
        return settings.left_float[name]
    if is_left_out(name, module, settings):
        return reasons.NOT_SELECTED.format(modules=settings.modules)
    if has_own_forward(module):
        return reasons.OWN_FORWARD
    if module is not None and next(module.children(), None) is not None:
        return reasons.TAKEN_AS_A_WHOLE
    if isinstance(module, _PLAIN_RECURRENT):
        return reasons.NO_KERNEL
    if settings.method == "dynamic" and not isinstance(module, (nn.Linear, *RECURRENT)):
        return reasons.DYNAMIC
    if isinstance(module, (nn.Linear, *RECURRENT)) and type(module) not in (nn.Linear, *RECURRENT):
        return reasons.PARAMETRIZED if parametrize.is_parametrized(module) else reasons.OWN_CLASS
    own = reason_for_kind(module, settings)
    if own:
        return own
    if isinstance(module, (nn.Flatten, nn.Unflatten, nn.Unfold)):
        return reasons.ONLY_MOVES
    return reasons.NO_KERNEL_HERE.format(kernel=settings.engine)


def is_left_out(name: str, module: nn.Module | None, settings: Settings) -> bool:
    """Whether ``module``, ``name`` in the float network (None for a function), is not among what is to be quantized."""
    if name in settings.left_float:
        return True
    return module is not None and settings.modules is not None and not settings.modules(name, module)


def reason_for_kind(module: nn.Module | None, settings: Settings) -> str:
    """Why ``module`` stays float in static quantization and training whatever it reads; empty where it need not."""
    if settings.method == "dynamic":
        return ""
    if isinstance(module, RECURRENT):
        return reasons.RECURRENT
    if isinstance(module, EMBEDDINGS):
        return reasons.EMBEDDING
    return no_form(module) or wrong_kernel(module, settings.engine)


def no_form(module: Any) -> str:
    """Why a layer whose class torch has kernels for has none as it is set; empty where it has one."""
    if getattr(module, "padding_mode", "zeros") not in ("zeros", "reflect"):
        return reasons.NO_KERNEL_FOR.format(setting=f"padding_mode={module.padding_mode!r}")
    if isinstance(getattr(module, "padding", 0), str):
        return reasons.NO_KERNEL_FOR.format(setting=f"padding={module.padding!r}")
    is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    if is_norm and (module.weight is None or module.running_mean is None):
        setting = "affine=False" if module.weight is None else "track_running_stats=False"
        return reasons.NO_KERNEL_FOR.format(setting=setting)
    return ""


def _quantized_weights(module: Any) -> list[Tensor]:
    if isinstance(module, dynamic_recurrent()):
        return list(module.get_weight().values())  # type: ignore[operator]
    weight = getattr(module, "weight", None)
    tensor = weight() if callable(weight) else weight
    return [tensor] if isinstance(tensor, Tensor) and tensor.is_quantized else []


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
