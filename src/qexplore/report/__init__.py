"""Pictures of a front and of the search that found it.

Each picture is made in two steps: an immutable record of what is drawn, then the drawing. Matplotlib is imported when
a picture is drawn, not before.
"""

from qexplore.report.drawings import plot_hypervolume, plot_num_bits, plot_pareto_front
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
    "NumBitsRecord",
    "ParetoFrontRecord",
    "SavingRecord",
    "UniformRecord",
    "hypervolume_record",
    "num_bits_record",
    "pareto_front_record",
    "plot_hypervolume",
    "plot_num_bits",
    "plot_pareto_front",
]
