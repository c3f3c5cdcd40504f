"""Turn-key quantization of a float network, and fine-tuning of a chosen point."""

from qexplore.workflows.base import LayerStrategy, Settings
from qexplore.workflows.batchnorm import BatchNormReport, recalibrate_batchnorm
from qexplore.workflows.calling import load_quantized, quantize_dynamic, quantize_qat, quantize_static
from qexplore.workflows.comparison import ComparisonRow, WorkflowComparison, compare_workflows
from qexplore.workflows.fine_tuning import FineTuning, fine_tune
from qexplore.workflows.float8 import quantize_float8
from qexplore.workflows.packed_linear import PackedLinear
from qexplore.workflows.packing import PackedLayer, PackingReport, pack_linear_weights
from qexplore.workflows.refinement import Refinement, refine
from qexplore.workflows.results import QuantizationResult, WorkflowReport

__all__ = [
    "BatchNormReport",
    "ComparisonRow",
    "FineTuning",
    "LayerStrategy",
    "PackedLayer",
    "PackedLinear",
    "PackingReport",
    "QuantizationResult",
    "Refinement",
    "Settings",
    "WorkflowComparison",
    "WorkflowReport",
    "compare_workflows",
    "fine_tune",
    "load_quantized",
    "pack_linear_weights",
    "quantize_dynamic",
    "quantize_float8",
    "quantize_qat",
    "quantize_static",
    "recalibrate_batchnorm",
    "refine",
]
