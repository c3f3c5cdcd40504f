"""How much of the output quantized weights cost, all else in float."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from qexplore.metrics import Noise
from qexplore.model import QuantizedModel
from qexplore.preparation.connections import outputs_of

COMPARED_WIDTHS = (8, 6, 4)


def weights_at(model: QuantizedModel, num_bits: int) -> list[int]:
    """The vector with every weight at ``num_bits`` and all else off."""
    return [num_bits if point.kind == "weight" else 0 for point in model.points]


def output_sqnr(model: QuantizedModel, num_bits: int, inputs: Any, expected: Sequence[Tensor]) -> float:
    """Signal to quantization noise of the network's output in dB, weights at ``num_bits``; nan without a signal.

    Args:
        model: the wrapped network.
        num_bits: of all weights.
        inputs: what it runs on.
        expected: floating tensors of the float network's output.
    """
    with model.using(weights_at(model, num_bits)):
        given = outputs_of(model.model, inputs)
    noise = Noise()
    noise.add(expected, given)
    return noise.sqnr
