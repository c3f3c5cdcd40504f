"""The wrapper that quantizes activations alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from qexplore.model.point_hook import Outputs
from qexplore.model.quantized_model import QuantizedModel
from qexplore.model.widths import DEFAULT_NUM_BITS
from qexplore.predicates import PredicateLike


class QuantizedActivationsModel(QuantizedModel):
    """A float network with a fake quantizer on its input and on the output of every selected module.

    `QuantizedModel` without weights: ``predicate`` is its ``activations``; the other arguments are its own.
    """

    def __init__(
        self,
        model: nn.Module,
        predicate: PredicateLike,
        *,
        unsigned: Any = "auto",
        asymmetric: Any = False,
        init_num_bits: Any = DEFAULT_NUM_BITS,
        quant_desc: Any = None,
        quantize_input: bool | Sequence[str] = True,
        outputs: Outputs = "tensor",
    ) -> None:
        super().__init__(
            model,
            predicate,
            unsigned=unsigned,
            asymmetric=asymmetric,
            init_num_bits=init_num_bits,
            quant_desc=quant_desc,
            quantize_input=quantize_input,
            outputs=outputs,
        )
