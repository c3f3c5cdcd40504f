"""Quantizers of a network that is being wrapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from qexplore._choices import choice_code
from qexplore.errors import ModelError, NumBitsError
from qexplore.model.weight_points import WeightPoint, calibrated_rows
from qexplore.model.widths import DEFAULT_NUM_BITS
from qexplore.predicates import Predicate, as_predicate
from qexplore.quant import TensorQuantizer

IsAsymmetric = Callable[[str, Any], Any]
"""What the ``asymmetric`` of a quantizer is, given the name and the module or function; of the input without one."""


def checked_asymmetric(asymmetric: Any) -> IsAsymmetric:
    """The answer for each module; of the input False where a predicate decides.

    Raises:
        ModelError: neither a bool nor "auto" nor a predicate.
    """
    if isinstance(asymmetric, bool) or asymmetric == "auto":
        return partial(_answer, asymmetric)
    if not callable(asymmetric):
        raise ModelError(f'`asymmetric` must be True, False, "auto" or a predicate, got {asymmetric!r}')
    return partial(_asked, as_predicate(asymmetric))


def _answer(asymmetric: Any, name: str, subject: Any) -> Any:
    return asymmetric


def _asked(predicate: Predicate, name: str, subject: Any) -> bool:
    return subject is not None and predicate(name, subject)


def initial_num_bits(init_num_bits: Any, quant_desc: Any) -> Any:
    """The choice to begin with: the argument's or the descriptor's, whichever is not left at the default.

    Raises:
        NumBitsError: both are set, to different choices.
    """
    described = DEFAULT_NUM_BITS if quant_desc is None else quant_desc.num_bits
    if choice_code(described) in (DEFAULT_NUM_BITS, choice_code(init_num_bits)):
        return init_num_bits
    if init_num_bits != DEFAULT_NUM_BITS:
        raise NumBitsError(
            f"`init_num_bits` ({init_num_bits}) and the width of quant_desc ({described}) contradict each other: "
            "leave one of them alone"
        )
    return described


@dataclass(frozen=True)
class Recipe:
    """How quantizers of activations are made: the arguments of `qexplore.QuantizedModel`."""

    quant_desc: Any
    unsigned: Any
    is_asymmetric: IsAsymmetric
    num_bits: Any

    @property
    def collects_histograms(self) -> bool:
        """Whether the descriptor asks for a histogram at every point."""
        return TensorQuantizer(self.quant_desc).collects_histogram

    def quantizers_of(self, modules: Mapping[str, nn.Module | None]) -> dict[str, TensorQuantizer]:
        """A quantizer for the output of each module; for the network's input, which has none."""
        return {name: self.quantizer(name, name, module) for name, module in modules.items()}

    def quantizer(self, point: str, asked_by: str, subject: Any) -> TensorQuantizer:
        """That of a ``point``; the name and the module or function are what ``asymmetric`` may be asked about."""
        return _quantizer(point, self.quant_desc, self.unsigned, self.is_asymmetric(asked_by, subject), self.num_bits)


def weight_quantizer(point: WeightPoint, num_bits: Any) -> TensorQuantizer:
    """The quantizer of a weight's rows, with the largest magnitudes as their range."""
    quantizer = _quantizer(point.name, None, False, False, num_bits)
    rows, shape = calibrated_rows(point)
    quantizer.set_amax(torch.nan_to_num(rows.abs().amax(dim=1), nan=0.0, posinf=0.0).reshape(shape))
    return quantizer


def _quantizer(name: str, quant_desc: Any, unsigned: Any, asymmetric: Any, num_bits: Any) -> TensorQuantizer:
    quantizer = TensorQuantizer(quant_desc, unsigned=unsigned, name=name, asymmetric=asymmetric)
    quantizer.num_bits = num_bits
    return quantizer
