"""Pictures of a front, of the search that found it, and of what quantization does layer by layer; and a page of all."""

# Each picture is a file made in two steps: an immutable record of what is drawn, then the drawing; the drawings in
# plotly are in files of their own. Matplotlib and plotly are imported when a picture is drawn, not before.
import inspect
import sys
from types import ModuleType

from qexplore.report import _plotly_fronts, _plotly_layers, _plotly_searches  # the drawings of the other backend
from qexplore.report._fronts import UniformRecord
from qexplore.report._objectives import ObjectiveRecord
from qexplore.report._progress import SpentRecord
from qexplore.report.fine_tuning import FineTuningRecord, fine_tuning_record, plot_fine_tuning
from qexplore.report.fronts import BaselineRecord, FrontLineRecord, FrontsRecord, fronts_record
from qexplore.report.hypervolume import HypervolumeRecord, hypervolume_record, plot_hypervolume
from qexplore.report.layers import (
    LayerAnalysisRecord,
    SensitivityRecord,
    layer_analysis_record,
    plot_analysis,
    plot_sensitivity,
    sensitivity_record,
)
from qexplore.report.live import LivePlot
from qexplore.report.num_bits import NumBitsRecord, num_bits_record, plot_num_bits
from qexplore.report.page import report
from qexplore.report.pairs import ObjectivesRecord, PairRecord, objectives_record
from qexplore.report.parallel_coordinates import (
    ParallelCoordinatesRecord,
    parallel_coordinates_record,
    plot_parallel_coordinates,
)
from qexplore.report.pareto_front import ParetoFrontRecord, SavingRecord, pareto_front_record, plot_pareto_front
from qexplore.report.timeline import FollowedRecord, TimelineRecord, plot_timeline, timeline_record
from qexplore.report.timelines import RunLineRecord, TimelinesRecord, timelines_record


class _Room(ModuleType):
    """The room is called by the name of what it does: ``qexplore.report(...)`` writes a page."""

    __wrapped__ = staticmethod(report)  # whose signature it has
    __call__ = staticmethod(report)


sys.modules[__name__].__class__ = _Room
__doc__ = f"{__doc__}\n\n{inspect.cleandoc(report.__doc__ or '')}"  # what help says of what is called
