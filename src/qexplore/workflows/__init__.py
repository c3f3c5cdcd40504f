"""Turn-key quantization of a float network, and fine-tuning of a chosen point."""

from qexplore.workflows.base import LayerStrategy, Settings
from qexplore.workflows.calling import load_quantized, quantize_dynamic, quantize_qat, quantize_static
from qexplore.workflows.packed_linear import PackedLinear
from qexplore.workflows.packing import PackedLayer, PackingReport, pack_linear_weights
from qexplore.workflows.results import QuantizationResult, WorkflowReport

__all__ = [
    "LayerStrategy",
    "PackedLayer",
    "PackedLinear",
    "PackingReport",
    "QuantizationResult",
    "Settings",
    "WorkflowReport",
    "load_quantized",
    "pack_linear_weights",
    "quantize_dynamic",
    "quantize_qat",
    "quantize_static",
]
