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

from qexplore._version import __version__

if TYPE_CHECKING:
    from qexplore import errors, predicates
    from qexplore._choices import FloatFormat, stored_bits
    from qexplore.cost import CostTable, count_macs, marginal_costs
    from qexplore.errors import QExploreError
    from qexplore.evaluation import DirectEvaluator, Evaluation, LayerAnalysis, analyze
    from qexplore.exploration import Exploration, Snapshot, StopExploration, explore, fit
    from qexplore.export import (
        ExportReport,
        Manifest,
        TensorRTCheck,
        check_tensorrt,
        export_onnx,
        load_manifest,
        save_manifest,
    )
    from qexplore.front import Front, FrontPoint
    from qexplore.metrics import (
        Metric,
        negative_log_likelihood,
        perplexity,
        pixel_accuracy,
        squared_error,
        token_accuracy,
        top1_accuracy,
        topk_accuracy,
        whole_set,
    )
    from qexplore.model import (
        CalibrationReport,
        Plan,
        QuantizationPoint,
        QuantizedActivationsModel,
        QuantizedModel,
        detach,
    )
    from qexplore.preparation import (
        BatchNormReport,
        BiasCorrectionReport,
        EqualizationReport,
        FoldedPair,
        FoldReport,
        GraphOptimization,
        GraphTable,
        OwnModulesReport,
        correct_biases,
        equalize,
        fold_batchnorm,
        give_own_modules,
        graph_table,
        optimize_graph,
        recalibrate_batchnorm,
        remove_bias_corrections,
    )
    from qexplore.quant import QuantDescriptor, TensorQuantizer
    from qexplore.report.fine_tuning import plot_fine_tuning
    from qexplore.report.hypervolume import plot_hypervolume
    from qexplore.report.layers import plot_analysis, plot_sensitivity
    from qexplore.report.num_bits import plot_num_bits
    from qexplore.report.parallel_coordinates import plot_parallel_coordinates
    from qexplore.report.pareto_front import plot_pareto_front
    from qexplore.search import (
        AdditiveFront,
        ChoicePlan,
        LayerwiseQuantizationProblem,
        SensitivityTable,
        additive_front,
        plan_choices,
        sensitivity,
    )
    from qexplore.stacks import (
        PackedLinear,
    )
    from qexplore.training import (
        FineTuning,
        Refinement,
        fine_tune,
        refine,
    )
    from qexplore.workflows import (
        PackedLayer,
        PackingReport,
        QuantizationResult,
        WorkflowComparison,
        compare_workflows,
        load_quantized,
        pack_linear_weights,
        quantize_dynamic,
        quantize_float8,
        quantize_qat,
        quantize_static,
    )

_HOMES = {
    "AdditiveFront": "search",
    "BatchNormReport": "preparation",
    "BiasCorrectionReport": "preparation",
    "CalibrationReport": "model",
    "ChoicePlan": "search",
    "CostTable": "cost",
    "DirectEvaluator": "evaluation",
    "EqualizationReport": "preparation",
    "Evaluation": "evaluation",
    "Exploration": "exploration",
    "ExportReport": "export",
    "FineTuning": "training",
    "FloatFormat": "_choices",
    "FoldReport": "preparation",
    "FoldedPair": "preparation",
    "Front": "front",
    "FrontPoint": "front",
    "GraphOptimization": "preparation",
    "GraphTable": "preparation",
    "LayerAnalysis": "evaluation",
    "LayerwiseQuantizationProblem": "search",
    "Manifest": "export",
    "Metric": "metrics",
    "OwnModulesReport": "preparation",
    "PackedLayer": "workflows",
    "PackedLinear": "stacks",
    "PackingReport": "workflows",
    "Plan": "model",
    "QExploreError": "errors",
    "QuantDescriptor": "quant",
    "QuantizationPoint": "model",
    "QuantizationResult": "workflows",
    "QuantizedActivationsModel": "model",
    "QuantizedModel": "model",
    "Refinement": "training",
    "SensitivityTable": "search",
    "Snapshot": "exploration",
    "StopExploration": "exploration",
    "TensorQuantizer": "quant",
    "TensorRTCheck": "export",
    "WorkflowComparison": "workflows",
    "additive_front": "search",
    "analyze": "evaluation",
    "check_tensorrt": "export",
    "compare_workflows": "workflows",
    "correct_biases": "preparation",
    "count_macs": "cost",
    "detach": "model",
    "equalize": "preparation",
    "explore": "exploration",
    "export_onnx": "export",
    "fine_tune": "training",
    "fit": "exploration",
    "fold_batchnorm": "preparation",
    "give_own_modules": "preparation",
    "graph_table": "preparation",
    "load_manifest": "export",
    "load_quantized": "workflows",
    "marginal_costs": "cost",
    "negative_log_likelihood": "metrics",
    "optimize_graph": "preparation",
    "pack_linear_weights": "workflows",
    "perplexity": "metrics",
    "pixel_accuracy": "metrics",
    "plan_choices": "search",
    "plot_analysis": "report",
    "plot_fine_tuning": "report",
    "plot_hypervolume": "report",
    "plot_num_bits": "report",
    "plot_parallel_coordinates": "report",
    "plot_pareto_front": "report",
    "plot_sensitivity": "report",
    "quantize_dynamic": "workflows",
    "quantize_float8": "workflows",
    "quantize_qat": "workflows",
    "quantize_static": "workflows",
    "recalibrate_batchnorm": "preparation",
    "refine": "training",
    "remove_bias_corrections": "preparation",
    "save_manifest": "export",
    "sensitivity": "search",
    "squared_error": "metrics",
    "stored_bits": "_choices",
    "token_accuracy": "metrics",
    "top1_accuracy": "metrics",
    "topk_accuracy": "metrics",
    "whole_set": "metrics",
}
_ROOMS = ("errors", "predicates")

__all__ = [
    "AdditiveFront",
    "BatchNormReport",
    "BiasCorrectionReport",
    "CalibrationReport",
    "ChoicePlan",
    "CostTable",
    "DirectEvaluator",
    "EqualizationReport",
    "Evaluation",
    "Exploration",
    "ExportReport",
    "FineTuning",
    "FloatFormat",
    "FoldReport",
    "FoldedPair",
    "Front",
    "FrontPoint",
    "GraphOptimization",
    "GraphTable",
    "LayerAnalysis",
    "LayerwiseQuantizationProblem",
    "Manifest",
    "Metric",
    "OwnModulesReport",
    "PackedLayer",
    "PackedLinear",
    "PackingReport",
    "Plan",
    "QExploreError",
    "QuantDescriptor",
    "QuantizationPoint",
    "QuantizationResult",
    "QuantizedActivationsModel",
    "QuantizedModel",
    "Refinement",
    "SensitivityTable",
    "Snapshot",
    "StopExploration",
    "TensorQuantizer",
    "TensorRTCheck",
    "WorkflowComparison",
    "__version__",
    "additive_front",
    "analyze",
    "check_tensorrt",
    "compare_workflows",
    "correct_biases",
    "count_macs",
    "detach",
    "equalize",
    "errors",
    "explore",
    "export_onnx",
    "fine_tune",
    "fit",
    "fold_batchnorm",
    "give_own_modules",
    "graph_table",
    "load_manifest",
    "load_quantized",
    "marginal_costs",
    "negative_log_likelihood",
    "optimize_graph",
    "pack_linear_weights",
    "perplexity",
    "pixel_accuracy",
    "plan_choices",
    "plot_analysis",
    "plot_fine_tuning",
    "plot_hypervolume",
    "plot_num_bits",
    "plot_parallel_coordinates",
    "plot_pareto_front",
    "plot_sensitivity",
    "predicates",
    "quantize_dynamic",
    "quantize_float8",
    "quantize_qat",
    "quantize_static",
    "recalibrate_batchnorm",
    "refine",
    "remove_bias_corrections",
    "save_manifest",
    "sensitivity",
    "squared_error",
    "stored_bits",
    "token_accuracy",
    "top1_accuracy",
    "topk_accuracy",
    "whole_set",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"qexplore.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'qexplore' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"qexplore.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
