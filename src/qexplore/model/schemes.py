"""What runtimes quantize, as predicates: a table with a row for each, and where its facts come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from qexplore._arguments import checked_name
from qexplore._choices import choice_code
from qexplore._table import Tabular, text_table
from qexplore.errors import SelectionError
from qexplore.predicates import (
    Predicate,
    PredicateLike,
    by_function,
    by_operand,
    by_type,
    select_modules,
    weighted,
)

_LAYERS = by_type(nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase) & ~by_type(
    nn.modules.linear.NonDynamicallyQuantizableLinear  # of attention, which reads its weight and never calls it
)
_AVERAGES = by_type(
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
_LAYER_CALLS = by_operand(
    *(F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)
_PRODUCTS = _LAYER_CALLS | by_operand(torch.matmul, torch.einsum, torch.addmm, torch.addbmm, torch.mv, torch.dot)
_POOLING_CALLS = by_operand(F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d)
_AVERAGE_CALLS = _POOLING_CALLS | by_operand(torch.mean)
_SUMS = by_operand(torch.add, torch.sub)


def _is_transposed_in_groups(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups > 1


_XNNPACK_LAYERS = by_type(nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear) & ~(
    by_type(nn.modules.linear.NonDynamicallyQuantizableLinear)
    | Predicate(_is_transposed_in_groups, "transposed convolutions in groups")
)
_XNNPACK_CALLS = by_operand(F.linear, F.conv1d, F.conv2d, F.conv_transpose1d, F.conv_transpose2d)


@dataclass(frozen=True)
class Scheme(Tabular):
    """What one runtime computes in integers, as arguments of `qexplore.QuantizedModel` and of the problem.

    It is data: print it, and make another with ``dataclasses.replace(scheme, functions=...)``.

    Attributes:
        name: of the runtime.
        inputs: modules whose inputs are quantized; None for none, as of those below.
        functions: calls whose operands or results are quantized.
        weights: modules whose weights are.
        activations: modules whose outputs are.
        quantize_input: whether the network's inputs have points of their own, beside what modules read.
        unsigned: as `qexplore.QuantizedModel` takes it.
        asymmetric: likewise.
        weight_granularity: likewise.
        one_range: functions that the runtime runs in the range of what they are given, such as a concatenation or a
            pooling by maximum: what layers and calls read before and behind them shares a point, with one range and one
            width. None where they may differ.
        choices: that the runtime has; the problem's ``choices`` where that is given none.
        tied: points that it has in integers together or not at all; the problem's ``tied`` likewise.
        sources: where the facts come from.
    """

    name: str
    inputs: PredicateLike | None
    functions: PredicateLike | None
    weights: PredicateLike | None
    activations: PredicateLike | None = None
    quantize_input: bool = False
    unsigned: Any = "auto"
    asymmetric: Any = False
    weight_granularity: Any = "channel"
    one_range: PredicateLike | None = None
    choices: tuple[Any, ...] = (8, "off")
    tied: tuple[str, ...] = ("weights_with_activations",)
    sources: tuple[str, ...] = ()

    @property
    def codes(self) -> frozenset[int]:
        """Its choices as codes, those of all rules together."""
        groups = self.choices.values() if isinstance(self.choices, Mapping) else (self.choices,)
        return frozenset(code for group in groups for one in group if (code := choice_code(one)) is not None)

    @property
    def searched(self) -> str:
        """A sentence on what a search may choose from under it."""
        tied = f", tied: {', '.join(map(str, self.tied))}" if self.tied else ""
        return (
            f"scheme '{self.name}': a search takes its choices, {', '.join(map(str, self.choices))}{tied}, unless it "
            "is given others"
        )

    def __str__(self) -> str:
        rows = [(one.name, str(getattr(self, one.name))) for one in fields(self) if one.name not in ("name", "sources")]
        table = text_table((f"scheme '{self.name}'", ""), rows)
        return "\n".join([table, "", *(f"after {source}" for source in self.sources)]) if self.sources else table


_ALL = Scheme(
    "all-int8",
    inputs=_LAYERS | _AVERAGES,
    functions=_PRODUCTS | _AVERAGE_CALLS | _SUMS | by_operand(torch.mul, torch.cat, torch.stack),
    weights=weighted,
    choices=(2, 3, 4, 5, 6, 7, 8),
    tied=(),
)
_SCHEMES: Mapping[str, Scheme] = {
    "all-int8": _ALL,
    "tensorrt": Scheme(
        "tensorrt",
        inputs=_LAYERS & ~by_type(nn.RNNBase, nn.RNNCellBase, nn.Bilinear),
        functions=_PRODUCTS | _SUMS,
        weights=weighted & ~by_type(nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.Embedding, nn.EmbeddingBag),
        unsigned=False,
        sources=(
            "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-with-quantized-types.html",
        ),
    ),
    "onnxruntime": Scheme(
        "onnxruntime",
        inputs=(_LAYERS & ~by_type(nn.RNNBase, nn.RNNCellBase, nn.Bilinear)) | _AVERAGES,
        functions=_PRODUCTS | _POOLING_CALLS | by_operand(torch.add, torch.mul, torch.cat),
        weights=weighted & ~by_type(nn.RNNBase, nn.RNNCellBase, nn.Bilinear),
        asymmetric="auto",
        sources=("https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",),
    ),
    "xnnpack": Scheme(
        "xnnpack",
        inputs=_XNNPACK_LAYERS | by_type(nn.AdaptiveAvgPool2d),
        functions=_XNNPACK_CALLS | by_operand(F.adaptive_avg_pool2d, torch.add, torch.mul, torch.cat),
        weights=_XNNPACK_LAYERS,
        unsigned=False,
        asymmetric=True,
        one_range=by_function(
            *(torch.cat, F.relu, F.relu6, F.hardtanh, F.max_pool2d, torch.mean, F.adaptive_avg_pool2d),
            *(torch.permute, torch.transpose, torch.squeeze, torch.Tensor.view, torch.reshape, torch.flatten),
            torch.Tensor.__getitem__,
        ),
        sources=(
            "https://github.com/pytorch/executorch/blob/main/backends/xnnpack/quantizer/xnnpack_quantizer.py",
            "https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-partitioner.html",
        ),
    ),
}


SCHEMES = tuple(_SCHEMES)
"""Their names."""


def scheme(name: str) -> Scheme:
    """What a runtime quantizes, for ``QuantizedModel(network, scheme=...)``.

    Args:
        name: ``"tensorrt"``, ``"onnxruntime"``, ``"xnnpack"``, or ``"all-int8"`` for hardware that has integers alone:
            every operand of a product, a sum, a concatenation or an average.

    Raises:
        SelectionError: another name.
    """
    checked_name("`scheme`", name, _SCHEMES, SelectionError)
    return _SCHEMES[name]


def checked_scheme(given: Any, asked: Mapping[str, Any]) -> Scheme | None:
    """The scheme that is ``given``, by itself or by its name; None for none.

    Raises:
        SelectionError: no scheme, or predicates are ``asked`` for beside it.
    """
    if given is None:
        return None
    beside = [f"`{kind}`" for kind, one in asked.items() if one is not None]
    if beside:
        raise SelectionError(
            f"`scheme` must be given without {' and '.join(beside)}, which it holds itself: change it, "
            "dataclasses.replace(qx.scheme('tensorrt'), inputs=...)"
        )
    if not isinstance(given, (str, Scheme)):
        raise SelectionError(f"`scheme` must be the name of one or what qx.scheme gives, got {given!r}")
    return given if isinstance(given, Scheme) else scheme(given)


@dataclass(frozen=True)
class Options:
    """The arguments of `qexplore.QuantizedModel` that a scheme has an opinion on."""

    asked: Mapping[str, PredicateLike | None]
    unsigned: Any
    asymmetric: Any
    granularity: Any
    quantize_input: Any

    def under(self, chosen: Scheme | None, network: nn.Module) -> Options:
        """These, the scheme's where an argument is left alone.

        Predicates over modules that select none in ``network`` are left out; calls are seen in data alone.

        Raises:
            SelectionError: there is nothing for it.
        """
        if chosen is None:
            return self
        over = {"activations": chosen.activations, "inputs": chosen.inputs, "weights": chosen.weights}
        found = {kind: _selected(network, one) for kind, one in over.items()}
        asked = {
            kind: over[kind] if names - ({""} if kind == "inputs" else set()) else None for kind, names in found.items()
        }
        reads_itself = "" in found["inputs"]  # the network is one layer
        if chosen.functions is None and not any(found.values()):
            raise SelectionError(
                f"the scheme '{chosen.name}' must select something, but none of its predicates over modules does in "
                f"{type(network).__name__}, and it holds none over calls: give it one"
            )
        return Options(
            {**asked, "functions": chosen.functions},
            chosen.unsigned if self.unsigned == "auto" else self.unsigned,
            self.asymmetric or chosen.asymmetric,
            chosen.weight_granularity if self.granularity == "channel" else self.granularity,
            (chosen.quantize_input or reads_itself) if self.quantize_input is None else self.quantize_input,
        )


def _selected(network: nn.Module, predicate: PredicateLike | None) -> set[str]:
    try:
        return set() if predicate is None else set(select_modules(network, predicate))
    except SelectionError:
        return set()
