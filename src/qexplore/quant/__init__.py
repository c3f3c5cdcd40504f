"""Quantizer arithmetic: grids of a width, and the quantizer that puts tensors on them."""

from qexplore.quant.fixed import FixedQuantizer, quantize_stacked
from qexplore.quant.formats import MAX_NUM_BITS, OFF_BITS, IntegerGrid, check_num_bits, min_num_bits
from qexplore.quant.tensor_quantizer import QuantDescriptor, TensorQuantizer

__all__ = [
    "MAX_NUM_BITS",
    "OFF_BITS",
    "FixedQuantizer",
    "IntegerGrid",
    "QuantDescriptor",
    "TensorQuantizer",
    "check_num_bits",
    "min_num_bits",
    "quantize_stacked",
]
