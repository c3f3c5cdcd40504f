"""Pictures of a front, of the search that found it, and of what quantization does layer by layer.

Each picture is made in two steps: an immutable record of what is drawn, then the drawing. Matplotlib is imported when
a picture is drawn, not before.
"""

from qexplore.report.drawings import plot_hypervolume, plot_num_bits, plot_pareto_front
from qexplore.report.layers import (
    LayerAnalysisRecord,
    SensitivityRecord,
    layer_analysis_record,
    plot_analysis,
    plot_sensitivity,
    sensitivity_record,
)
from qexplore.report.records import (
    HypervolumeRecord,
    NumBitsRecord,
    ParetoFrontRecord,
    SavingRecord,
    UniformRecord,
    hypervolume_record,
    num_bits_record,
    pareto_front_record,
)

__all__ = [
    "HypervolumeRecord",
    "LayerAnalysisRecord",
    "NumBitsRecord",
    "ParetoFrontRecord",
    "SavingRecord",
    "SensitivityRecord",
    "UniformRecord",
    "hypervolume_record",
    "layer_analysis_record",
    "num_bits_record",
    "pareto_front_record",
    "plot_analysis",
    "plot_hypervolume",
    "plot_num_bits",
    "plot_pareto_front",
    "plot_sensitivity",
    "sensitivity_record",
]
