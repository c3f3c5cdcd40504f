"""Pictures of a front, of the search that found it, and of what quantization does layer by layer.

Each picture is made in two steps: an immutable record of what is drawn, then the drawing. Matplotlib is imported when
a picture is drawn, not before.
"""

from qexplore.report.drawings import plot_hypervolume, plot_pareto_front
from qexplore.report.fine_tuning import FineTuningRecord, fine_tuning_record, plot_fine_tuning
from qexplore.report.layers import (
    LayerAnalysisRecord,
    SensitivityRecord,
    layer_analysis_record,
    plot_analysis,
    plot_sensitivity,
    sensitivity_record,
)
from qexplore.report.num_bits import NumBitsRecord, num_bits_record, plot_num_bits
from qexplore.report.objectives import (
    ObjectiveRecord,
    ObjectivesRecord,
    PairRecord,
    ParallelCoordinatesRecord,
    objectives_record,
    parallel_coordinates_record,
)
from qexplore.report.panels import plot_parallel_coordinates
from qexplore.report.records import (
    HypervolumeRecord,
    ParetoFrontRecord,
    SavingRecord,
    UniformRecord,
    hypervolume_record,
    pareto_front_record,
)

__all__ = [
    "FineTuningRecord",
    "HypervolumeRecord",
    "LayerAnalysisRecord",
    "NumBitsRecord",
    "ObjectiveRecord",
    "ObjectivesRecord",
    "PairRecord",
    "ParallelCoordinatesRecord",
    "ParetoFrontRecord",
    "SavingRecord",
    "SensitivityRecord",
    "UniformRecord",
    "fine_tuning_record",
    "hypervolume_record",
    "layer_analysis_record",
    "num_bits_record",
    "objectives_record",
    "parallel_coordinates_record",
    "pareto_front_record",
    "plot_analysis",
    "plot_fine_tuning",
    "plot_hypervolume",
    "plot_num_bits",
    "plot_parallel_coordinates",
    "plot_pareto_front",
    "plot_sensitivity",
    "sensitivity_record",
]
