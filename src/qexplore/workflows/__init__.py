"""Turn-key quantization of a float network, by any stack; all of them compared; linear layers packed."""

from qexplore.stacks import Settings
from qexplore.workflows.calling import (
    QuantizationKeywords,
    ReportingKeywords,
    load_quantized,
    quantize_dynamic,
    quantize_float8,
    quantize_qat,
    quantize_static,
)
from qexplore.workflows.comparison import ComparisonRow, WorkflowComparison, compare_workflows
from qexplore.workflows.measuring import measure_accuracy
from qexplore.workflows.packed_training import train_packed
from qexplore.workflows.packing import PackedLayer, PackingReport, pack_linear_weights
from qexplore.workflows.results import QuantizationResult, WorkflowReport
