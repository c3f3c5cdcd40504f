"""The wrapped network: points, hooks, calibration."""

from qexplore.model.calibration import CalibrationReport, PointRange, check_num_batches
from qexplore.model.hooks import (
    comes_last,
    detach,
    floating_tensors,
    foreign_hooks,
    point_hooks,
    remove_point_hooks,
)
from qexplore.model.inputs import Loader, Placement, Unpack, call, unpack_batch
from qexplore.model.observation import Plan, PlannedPoint
from qexplore.model.points import Candidates, NumBits, QuantizationPoint
from qexplore.model.quantized_model import QuantizedActivationsModel
from qexplore.model.quantizer_view import QuantizerView
from qexplore.model.state import bit_sum, content_version, in_eval_mode

__all__ = [
    "CalibrationReport",
    "Candidates",
    "Loader",
    "NumBits",
    "Placement",
    "Plan",
    "PlannedPoint",
    "PointRange",
    "QuantizationPoint",
    "QuantizedActivationsModel",
    "QuantizerView",
    "Unpack",
    "bit_sum",
    "call",
    "check_num_batches",
    "comes_last",
    "content_version",
    "detach",
    "floating_tensors",
    "foreign_hooks",
    "in_eval_mode",
    "point_hooks",
    "remove_point_hooks",
    "unpack_batch",
]
