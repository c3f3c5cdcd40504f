"""qexplore: how few bits can a trained network run on?

Wrap a network, calibrate, pose the problem, explore, and pick a point of the front::

    import qexplore as qx
    from qexplore import predicates

    model = qx.QuantizedActivationsModel(network, predicates.by_type(nn.ReLU))
    model.calibrate(calibration_loader)
    problem = qx.LayerwiseQuantizationProblem(model, search_loader, qx.top1_accuracy, min_accuracy=0.88)
    exploration = qx.explore(problem, max_evaluations=450, seed=1)
    model.num_bits = exploration.front.cheapest(min_accuracy=0.9).num_bits

Rooms that bring heavy packages along load when a name of theirs is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qexplore._version import __version__ as __version__

_NAMES_BY_ROOM = {
    "_choices": "FloatFormat stored_bits",
    "_coverage": "Coverage CoveredShare",
    "_warnings": "UncalibratedWarning",
    "cost": "CostTable count_macs marginal_costs",
    "distributed": "RayWorkers WorkersReport",
    "errors": "QExploreError",
    "evaluation": "DirectEvaluator Evaluation LayerAnalysis analyze",
    "exploration": "Exploration Snapshot StopExploration explore fit log_to log_to_mlflow log_to_tensorboard resume",
    "export": "ExportReport Manifest TensorRTCheck check_tensorrt export_onnx load_manifest save_manifest",
    "front": "Front FrontDifference FrontPoint FurtherMetric",
    "metrics": (
        "Metric negative_log_likelihood over_labels perplexity pixel_accuracy squared_error token_accuracy "
        "top1_accuracy topk_accuracy whole_set"
    ),
    "model": (
        "CalibrationReport LeftOut Plan QuantizationPoint QuantizedActivationsModel QuantizedModel Scheme detach scheme"
    ),
    "preparation": (
        "BatchNormReport BiasCorrectionReport EqualizationReport FoldReport FoldedPair GraphOptimization "
        "GraphTable OwnModulesReport correct_biases equalize fold_batchnorm give_own_modules graph_table "
        "optimize_graph recalibrate_batchnorm remove_bias_corrections unroll_recurrent"
    ),
    "quant": "QuantDescriptor TensorQuantizer",
    "report": (
        "LivePlot plot_analysis plot_fine_tuning plot_hypervolume plot_num_bits plot_parallel_coordinates "
        "plot_pareto_front plot_sensitivity plot_timeline report"
    ),
    "search": (
        "AdditiveFront ChoicePlan LayerwiseQuantizationProblem SensitivityTable additive_front plan_choices sensitivity"
    ),
    "stacks": "PackedLinear",
    "study": "EvaluationTable Study StudyRun merge",
    "training": "FineTuning Refinement fine_tune refine",
    "workflows": (
        "PackedLayer PackingReport QuantizationResult Settings WorkflowComparison compare_workflows load_quantized "
        "pack_linear_weights quantize_dynamic quantize_float8 quantize_qat quantize_static"
    ),
}
_HOMES = {name: room for room, names in _NAMES_BY_ROOM.items() for name in names.split()}
_ROOMS = ("errors", "predicates")

__all__ = sorted([*_HOMES, *_ROOMS, "__version__"])

if TYPE_CHECKING:  # the same once more for what cannot read the mapping; "as" says that a name is public
    from qexplore import errors as errors
    from qexplore import predicates as predicates
    from qexplore._choices import FloatFormat as FloatFormat
    from qexplore._choices import stored_bits as stored_bits
    from qexplore._coverage import Coverage as Coverage
    from qexplore._coverage import CoveredShare as CoveredShare
    from qexplore._warnings import UncalibratedWarning as UncalibratedWarning
    from qexplore.cost import CostTable as CostTable
    from qexplore.cost import count_macs as count_macs
    from qexplore.cost import marginal_costs as marginal_costs
    from qexplore.distributed import RayWorkers as RayWorkers
    from qexplore.distributed import WorkersReport as WorkersReport
    from qexplore.errors import QExploreError as QExploreError
    from qexplore.evaluation import DirectEvaluator as DirectEvaluator
    from qexplore.evaluation import Evaluation as Evaluation
    from qexplore.evaluation import LayerAnalysis as LayerAnalysis
    from qexplore.evaluation import analyze as analyze
    from qexplore.exploration import Exploration as Exploration
    from qexplore.exploration import Snapshot as Snapshot
    from qexplore.exploration import StopExploration as StopExploration
    from qexplore.exploration import explore as explore
    from qexplore.exploration import fit as fit
    from qexplore.exploration import log_to as log_to
    from qexplore.exploration import log_to_mlflow as log_to_mlflow
    from qexplore.exploration import log_to_tensorboard as log_to_tensorboard
    from qexplore.exploration import resume as resume
    from qexplore.export import ExportReport as ExportReport
    from qexplore.export import Manifest as Manifest
    from qexplore.export import TensorRTCheck as TensorRTCheck
    from qexplore.export import check_tensorrt as check_tensorrt
    from qexplore.export import export_onnx as export_onnx
    from qexplore.export import load_manifest as load_manifest
    from qexplore.export import save_manifest as save_manifest
    from qexplore.front import Front as Front
    from qexplore.front import FrontDifference as FrontDifference
    from qexplore.front import FrontPoint as FrontPoint
    from qexplore.front import FurtherMetric as FurtherMetric
    from qexplore.metrics import Metric as Metric
    from qexplore.metrics import negative_log_likelihood as negative_log_likelihood
    from qexplore.metrics import over_labels as over_labels
    from qexplore.metrics import perplexity as perplexity
    from qexplore.metrics import pixel_accuracy as pixel_accuracy
    from qexplore.metrics import squared_error as squared_error
    from qexplore.metrics import token_accuracy as token_accuracy
    from qexplore.metrics import top1_accuracy as top1_accuracy
    from qexplore.metrics import topk_accuracy as topk_accuracy
    from qexplore.metrics import whole_set as whole_set
    from qexplore.model import CalibrationReport as CalibrationReport
    from qexplore.model import LeftOut as LeftOut
    from qexplore.model import Plan as Plan
    from qexplore.model import QuantizationPoint as QuantizationPoint
    from qexplore.model import QuantizedActivationsModel as QuantizedActivationsModel
    from qexplore.model import QuantizedModel as QuantizedModel
    from qexplore.model import Scheme as Scheme
    from qexplore.model import detach as detach
    from qexplore.model import scheme as scheme
    from qexplore.preparation import BatchNormReport as BatchNormReport
    from qexplore.preparation import BiasCorrectionReport as BiasCorrectionReport
    from qexplore.preparation import EqualizationReport as EqualizationReport
    from qexplore.preparation import FoldedPair as FoldedPair
    from qexplore.preparation import FoldReport as FoldReport
    from qexplore.preparation import GraphOptimization as GraphOptimization
    from qexplore.preparation import GraphTable as GraphTable
    from qexplore.preparation import OwnModulesReport as OwnModulesReport
    from qexplore.preparation import correct_biases as correct_biases
    from qexplore.preparation import equalize as equalize
    from qexplore.preparation import fold_batchnorm as fold_batchnorm
    from qexplore.preparation import give_own_modules as give_own_modules
    from qexplore.preparation import graph_table as graph_table
    from qexplore.preparation import optimize_graph as optimize_graph
    from qexplore.preparation import recalibrate_batchnorm as recalibrate_batchnorm
    from qexplore.preparation import remove_bias_corrections as remove_bias_corrections
    from qexplore.preparation import unroll_recurrent as unroll_recurrent
    from qexplore.quant import QuantDescriptor as QuantDescriptor
    from qexplore.quant import TensorQuantizer as TensorQuantizer
    from qexplore.report import LivePlot as LivePlot
    from qexplore.report import plot_analysis as plot_analysis
    from qexplore.report import plot_fine_tuning as plot_fine_tuning
    from qexplore.report import plot_hypervolume as plot_hypervolume
    from qexplore.report import plot_num_bits as plot_num_bits
    from qexplore.report import plot_parallel_coordinates as plot_parallel_coordinates
    from qexplore.report import plot_pareto_front as plot_pareto_front
    from qexplore.report import plot_sensitivity as plot_sensitivity
    from qexplore.report import plot_timeline as plot_timeline
    from qexplore.report import report as report
    from qexplore.search import AdditiveFront as AdditiveFront
    from qexplore.search import ChoicePlan as ChoicePlan
    from qexplore.search import LayerwiseQuantizationProblem as LayerwiseQuantizationProblem
    from qexplore.search import SensitivityTable as SensitivityTable
    from qexplore.search import additive_front as additive_front
    from qexplore.search import plan_choices as plan_choices
    from qexplore.search import sensitivity as sensitivity
    from qexplore.stacks import PackedLinear as PackedLinear
    from qexplore.study import EvaluationTable as EvaluationTable
    from qexplore.study import Study as Study
    from qexplore.study import StudyRun as StudyRun
    from qexplore.study import merge as merge
    from qexplore.training import FineTuning as FineTuning
    from qexplore.training import Refinement as Refinement
    from qexplore.training import fine_tune as fine_tune
    from qexplore.training import refine as refine
    from qexplore.workflows import PackedLayer as PackedLayer
    from qexplore.workflows import PackingReport as PackingReport
    from qexplore.workflows import QuantizationResult as QuantizationResult
    from qexplore.workflows import Settings as Settings
    from qexplore.workflows import WorkflowComparison as WorkflowComparison
    from qexplore.workflows import compare_workflows as compare_workflows
    from qexplore.workflows import load_quantized as load_quantized
    from qexplore.workflows import pack_linear_weights as pack_linear_weights
    from qexplore.workflows import quantize_dynamic as quantize_dynamic
    from qexplore.workflows import quantize_float8 as quantize_float8
    from qexplore.workflows import quantize_qat as quantize_qat
    from qexplore.workflows import quantize_static as quantize_static


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"qexplore.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'qexplore' has no attribute {name!r}")
    room = importlib.import_module(f"qexplore.{_HOMES[name]}")
    value = room if name == _HOMES[name] else getattr(room, name)  # a room may be called itself
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
