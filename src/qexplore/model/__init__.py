"""The wrapped network: points, hooks, calibration."""

from qexplore.model.activations_model import QuantizedActivationsModel
from qexplore.model.alone import OneThread, alone
from qexplore.model.arithmetic import (
    PRECISIONS,
    arithmetic,
    arithmetic_text,
    measuring,
    noting,
    settings,
    trained_deterministically,
)
from qexplore.model.attention import FUSED, additive, attention_in_parts
from qexplore.model.autocast import Autocast
from qexplore.model.biases import BiasCorrection, bias_corrections, correct_bias, restore_biases
from qexplore.model.blocks import BlockRuns, Noted
from qexplore.model.calibration import CalibrationReport, PointRange
from qexplore.model.calls import CallNames
from qexplore.model.examples import Example, count_samples
from qexplore.model.fingerprint import Brought, fingerprint_of, layers_of, require_same_model, structure_of, weights_of
from qexplore.model.frames import aside, entered
from qexplore.model.function_names import functions_called
from qexplore.model.hooks import (
    calls_heard_by,
    comes_last,
    foreign_hooks,
    point_hooks,
    read_inside,
    remove_frames,
    remove_point_hooks,
)
from qexplore.model.input_points import ArgumentNames, bare_name, changed_in
from qexplore.model.inputs import (
    Loader,
    Placement,
    Unpack,
    as_arguments,
    call,
    device_text,
    first_samples,
    num_samples,
    unpack_batch,
)
from qexplore.model.keywords import BY_KEYWORD, place_arguments
from qexplore.model.layers import (
    CONVOLUTIONS,
    TRANSPOSED,
    bare,
    grouped,
    is_layer,
    num_groups,
    num_inputs,
    num_outputs,
    num_spatial,
    taken_apart,
    ungrouped,
)
from qexplore.model.left_out import LeftOut
from qexplore.model.marks import NO_MARKS, Marks, num_shared, sample_marks
from qexplore.model.operands import calls_reading, operands_of
from qexplore.model.passes import Pass, first_batch, no_batches, require_iterable, reusable
from qexplore.model.plan import Plan, PlannedPoint
from qexplore.model.point_hook import floating_tensors
from qexplore.model.points import (
    Candidate,
    Candidates,
    Found,
    FoundLeft,
    FoundPoint,
    NumBits,
    PointKind,
    QuantizationPoint,
    Site,
    call_name,
)
from qexplore.model.quantized_model import QuantizedModel
from qexplore.model.quantizer_view import QuantizerView
from qexplore.model.ready import require_wrapped
from qexplore.model.schemes import SCHEMES, Scheme, scheme
from qexplore.model.selectors import KINDS_OF_WORD, PointModules, selector_text
from qexplore.model.state import bit_sum, content_version, in_eval_mode, undone_on_failure, write_count
from qexplore.model.taping import taped
from qexplore.model.tracing import PathTracer, bound_arguments, takes_any_arguments, trace_around, without_tensors
from qexplore.model.unpacking import unpacking
from qexplore.model.weight_points import WeightPoint
from qexplore.model.weight_store import WeightStore
from qexplore.model.weights import (
    WeightQuantization,
    bake_weights,
    float_weight,
    float_weights,
    kept_weights,
    weight_quantizations,
    weight_store,
    with_plain_weights,
)
from qexplore.model.wrapping import detach, unwrap
