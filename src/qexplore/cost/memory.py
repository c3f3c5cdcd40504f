"""Bytes: of the parameters, of all activations, and of the activations that are alive at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qexplore._choices import FLOAT_FORMATS, stored_bits
from qexplore.cost.base import Costs, SeparableCost
from qexplore.cost.bits import WeightedBits
from qexplore.cost.moments import Moments
from qexplore.model import Candidates, QuantizationPoint, QuantizedModel

_SCALE_BITS = 32
_BLOCK_CODES = [known.code for known in FLOAT_FORMATS if known.block]


class ModelBits(SeparableCost):
    """Bits of all parameters: weights at points as they are stored, with their scales; others in their own dtype.

    A scale takes 32 bits; those of an MX format are within its stored bits, and a weight that is off has none. Buffers
    are left out: a deployed network has its BatchNorm statistics folded into weights and biases.
    """

    name = "model_bits"
    unit = "bits"

    def __init__(self, model: QuantizedModel) -> None:
        self._elements: Costs = np.zeros(len(model.points))
        self._scales: Costs = np.zeros(len(model.points))
        for point in model.points:
            if point.kind == "weight":
                self._elements[point.index] = point.num_elements or 0
                self._scales[point.index] = point.num_scales
        quantized = {id(parameter) for point in model.weight_points for parameter in point.parameters}
        others = [parameter for parameter in model.model.parameters() if id(parameter) not in quantized]
        self.constant = float(sum(8 * other.numel() * other.element_size() for other in others))

    def parts(self, candidates: Candidates) -> Costs:
        """What each point adds, shape ``[N, L]``."""
        has_scales: NDArray[np.bool_] = (candidates != 0) & ~np.isin(candidates, _BLOCK_CODES)
        bits: Costs = stored_bits(candidates) * self._elements + _SCALE_BITS * has_scales * self._scales
        return bits


class ModelBytes(ModelBits):
    """An eighth of `ModelBits`: values are packed, parts of bytes are not rounded up."""

    name = "model_bytes"
    unit = "bytes"

    def __init__(self, model: QuantizedModel) -> None:
        super().__init__(model)
        self.constant /= 8

    def parts(self, candidates: Candidates) -> Costs:
        """What each point adds, shape ``[N, L]``."""
        return super().parts(candidates) / 8


class ActivationBytes(WeightedBits):
    """Bytes of all activations of one sample, the input included, as if none were ever freed."""

    name = "activation_bytes"
    unit = "bytes"

    def __init__(self, points: Sequence[QuantizationPoint]) -> None:
        super().__init__(points)
        is_activation = np.array([point.kind != "weight" for point in points], dtype=bool)
        self._factors = np.where(is_activation, self._factors, 0.0) / 8


class PeakActivationBytes:
    """Most bytes of activations alive at one moment of a forward of one sample; see `Moments`."""

    name = "peak_activation_bytes"
    unit = "bytes"

    def __init__(self, moments: Moments) -> None:
        self._moments = moments

    def cost(self, candidates: Candidates) -> Costs:
        """Costs, shape ``[N]``, of ``candidates``, codes of shape ``[N, L]``."""
        return self._moments.peak(stored_bits(candidates))
