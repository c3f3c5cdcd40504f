"""The wrapped network: points, hooks, calibration."""

from qexplore.model.activations_model import QuantizedActivationsModel
from qexplore.model.bias_correction import BiasCorrectionReport, correct_biases, remove_bias_corrections
from qexplore.model.biases import BiasCorrection
from qexplore.model.calibration import CalibrationReport, PointRange, check_num_batches
from qexplore.model.equalization import EqualizationReport, equalize
from qexplore.model.graph_optimization import FoldedPair, GraphOptimization, optimize_graph
from qexplore.model.graph_table import GraphTable, graph_table
from qexplore.model.hooks import (
    comes_last,
    floating_tensors,
    foreign_hooks,
    point_hooks,
    remove_point_hooks,
)
from qexplore.model.inputs import Loader, Placement, Unpack, call, first_samples, num_samples, unpack_batch
from qexplore.model.layers import bare
from qexplore.model.own_modules import OwnModulesReport, give_own_modules
from qexplore.model.plan import Plan, PlannedPoint
from qexplore.model.points import Candidates, NumBits, QuantizationPoint
from qexplore.model.preparation import FoldReport, fold_batchnorm
from qexplore.model.quantized_model import QuantizedModel
from qexplore.model.quantizer_view import QuantizerView
from qexplore.model.state import bit_sum, content_version, in_eval_mode
from qexplore.model.weights import WeightPoint, WeightQuantization, float_weights, weight_quantizations
from qexplore.model.wrapping import detach

__all__ = [
    "BiasCorrection",
    "BiasCorrectionReport",
    "CalibrationReport",
    "Candidates",
    "EqualizationReport",
    "FoldReport",
    "FoldedPair",
    "GraphOptimization",
    "GraphTable",
    "Loader",
    "NumBits",
    "OwnModulesReport",
    "Placement",
    "Plan",
    "PlannedPoint",
    "PointRange",
    "QuantizationPoint",
    "QuantizedActivationsModel",
    "QuantizedModel",
    "QuantizerView",
    "Unpack",
    "WeightPoint",
    "WeightQuantization",
    "bare",
    "bit_sum",
    "call",
    "check_num_batches",
    "comes_last",
    "content_version",
    "correct_biases",
    "detach",
    "equalize",
    "first_samples",
    "float_weights",
    "floating_tensors",
    "fold_batchnorm",
    "foreign_hooks",
    "give_own_modules",
    "graph_table",
    "in_eval_mode",
    "num_samples",
    "optimize_graph",
    "point_hooks",
    "remove_bias_corrections",
    "remove_point_hooks",
    "unpack_batch",
    "weight_quantizations",
]
