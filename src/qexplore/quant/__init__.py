"""Quantizer arithmetic: grids of a choice, ranges found on data, and the quantizer that puts tensors on the grids."""

from qexplore.quant.by_data import QuantizerByData, row_of
from qexplore.quant.calibrators import (
    CALIBRATORS,
    COMPARED,
    WEIGHT_CALIBRATORS,
    WHOLE_RANGE,
    amax_table,
    check_options,
    option_names,
    range_table,
    weight_amax_table,
)
from qexplore.quant.fixed import FixedQuantizer, quantize_stacked
from qexplore.quant.formats import IntegerGrid, check_choice, known_codes, known_widths, min_num_bits
from qexplore.quant.histogram import Histogram
from qexplore.quant.kernel import SWITCH, fused_kernel
from qexplore.quant.lifting import LEAST_PLAIN
from qexplore.quant.packing import (
    PACKED_WIDTHS,
    check_group_size,
    check_packed_width,
    num_packed_bytes,
    pack,
    quantize_weight,
    spread_scales,
    unpack,
)
from qexplore.quant.small_floats import decode_floats, encode_floats, float_grid, quantize_float, quantize_mx
from qexplore.quant.step_size import StepSize
from qexplore.quant.tensor_quantizer import TensorQuantizer, are_dead
from qexplore.quant.upstream import QuantDescriptor
