"""The calls that quantize a float network, and the one that loads what they saved."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import nn
from typing_extensions import Unpack as Keywords

from qexplore._arguments import checked_keywords
from qexplore._random import isolated
from qexplore._warnings import warn
from qexplore.errors import DataError, WorkflowError
from qexplore.model import Loader, Unpack
from qexplore.predicates import PredicateLike
from qexplore.stacks import Settings, row_of_file
from qexplore.training import Loss, TrainingKeywords, TrainingOptions, check_loss
from qexplore.workflows.inputs import first_inputs
from qexplore.workflows.results import QuantizationResult
from qexplore.workflows.running import Reporting, Training, float_copy, run_workflow


class ReportingKeywords(TypedDict, total=False):
    """What every report is measured on: keywords of all turn-key calls.

    Attributes:
        report_loader: batches on which accuracy before and after is measured; comes with ``metric``.
        metric: a `qexplore.Metric`, or ``function(output, target) -> scores [B]``.
        unpack: ``unpack(batch) -> (inputs, target)`` for batches of another form, of every loader.
        progress: show bars on stderr; None shows them on a terminal.
    """

    report_loader: Loader | None
    metric: Any
    unpack: Unpack | None
    progress: bool | None


class QuantizationKeywords(ReportingKeywords, total=False):
    """How a network is quantized: keywords of `quantize_dynamic`, `quantize_static` and `quantize_qat`.

    Attributes:
        stack: who does it: ``"fx"`` (the default), ``"eager"``, ``"pt2e"``, ``"onnxruntime"`` or ``"float8"``.
        modules: which modules are quantized; None for all that the stack can.
        weight_granularity: ``"channel"`` (the default) for one scale per output channel, ``"tensor"`` for one per
            weight.
        activations: ``"affine"`` (a zero point; the default) or ``"symmetric"``.
        engine: whose integer kernels: ``"x86"``, ``"fbgemm"``, ``"onednn"``, ``"qnnpack"``; None for this machine's
            default.
        activation_observer: ``"minmax"``, ``"moving_average"``, ``"histogram"``, a class or factory of the stack's own
            observers; None for the stack's default.
        weight_observer: the same for weights.
        linear_num_bits: width of the weights of Linear layers, 2 to 8 (the default); below 8 they are stored packed.
    """

    stack: str
    modules: PredicateLike | None
    weight_granularity: Any
    activations: Any
    engine: Any
    activation_observer: Any
    weight_observer: Any
    linear_num_bits: int


class QATKeywords(QuantizationKeywords, TrainingKeywords, total=False):
    """Keywords of `quantize_qat`: how it is quantized, how its report is measured, and how it is trained."""


def quantize_dynamic(
    network: nn.Module, example_input: Any, **options: Keywords[QuantizationKeywords]
) -> QuantizationResult:
    """Quantize weights now, and activations at run time from the range of each batch; needs no data.

    Args:
        network: a float network, on any device; left as it is.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments of one call.
        options: ``stack``, ``modules``, ``weight_granularity``, ``activations``, ``engine``, ``activation_observer``,
            ``weight_observer``, ``linear_num_bits``, as `qexplore.workflows.QuantizationKeywords` says;
            ``report_loader``, ``metric``, ``unpack``, ``progress``, as `qexplore.workflows.ReportingKeywords` says.

    Returns:
        The quantized network and its report.

    Raises:
        WorkflowError: what this network, engine, machine or torch does not allow; the sentence says what does.
        TraceError: the network cannot be taken apart into a graph.
        ModelError: the network is wrapped (call ``detach()``), carries hooks, or cannot be copied.
        SelectionError: ``modules`` selects nothing.
        DataError: an empty loader, inputs that the network does not take, or a batch with NaN or an infinity.
        MetricError: ``report_loader`` without ``metric``, or the other way round.
        MissingPackageError: the stack's package is not installed.
        TypeError: a keyword that is none of these.
    """
    checked_keywords(quantize_dynamic, options, QuantizationKeywords)
    settings = _settings_of("dynamic", options)
    if example_input is None:
        raise DataError("quantize_dynamic needs example_input, the inputs of one call, got None")
    return _told(run_workflow(network, settings, _reporting_of(options), example=example_input))


def quantize_static(
    network: nn.Module, calibration_loader: Loader, **options: Keywords[QuantizationKeywords]
) -> QuantizationResult:
    """Quantize weights and activations, whose ranges are taken from ``calibration_loader``.

    Args:
        network: a float network, on any device; left as it is.
        calibration_loader: batches that show typical inputs; a few hundred samples do.
        options: ``stack``, ``modules``, ``linear_num_bits``, ``report_loader`` and all others of `quantize_dynamic`.

    Returns:
        The quantized network and its report.

    Raises:
        QExploreError: as `quantize_dynamic` says.
        TypeError: a keyword that is none of these.
    """
    checked_keywords(quantize_static, options, QuantizationKeywords)
    return _static(network, calibration_loader, _settings_of("static", options), options)


def quantize_float8(
    network: nn.Module,
    calibration_loader: Loader,
    *,
    format: Literal["E4M3", "E5M2", "E3M4", "mixed"] = "E4M3",
    modules: PredicateLike | None = None,
    recalibrate: bool = True,
    **options: Keywords[ReportingKeywords],
) -> QuantizationResult:
    """Quantize a float network to 8-bit floats after training: weights, and the tensors that quantized layers read.

    Weights have a scale per output channel, activations one per tensor, both from the largest magnitude seen (arXiv
    2209.05433 and 2309.14592). The arithmetic is emulated in float32: accuracy is what a device with these formats
    would give but for its own summation; time is not.

    Args:
        network: a float network, left as it is.
        calibration_loader: batches of typical inputs, for scales and BatchNorm statistics.
        format: ``"E4M3"``, ``"E5M2"``, ``"E3M4"``, or ``"mixed"``, E4M3 activations with E3M4 weights.
        modules: which layers are quantized, of those with weights; None for all of them.
        recalibrate: measure BatchNorm statistics anew through the quantized network, see `recalibrate_batchnorm`.
        options: ``report_loader``, ``metric``, ``unpack``, ``progress``, as `qexplore.workflows.ReportingKeywords`
            says.

    Returns:
        A `QuantizedModel` and its report. Saved files hold weights as one byte each, with their scales.

    Raises:
        QExploreError: as `quantize_dynamic` says; ``modules`` must select a layer with weights.
        TypeError: a keyword that is none of these.
    """
    checked_keywords(quantize_float8, options, ReportingKeywords)
    settings = Settings("static", "float8", modules, float_format=format, recalibrate=recalibrate)
    return _static(network, calibration_loader, settings, options)


def quantize_qat(
    network: nn.Module,
    train_loader: Loader,
    loss: Loss,
    *,
    freeze_after: float = 0.5,
    **options: Keywords[QATKeywords],
) -> QuantizationResult:
    """Train a copy of ``network`` with fake quantizers inside, then quantize it.

    Training runs where ``network`` lies, or on ``device``; the network is converted and measured on CPU.

    Args:
        network: a float network, on any device; left as it is.
        train_loader: batches of inputs and target.
        loss: ``loss(output, target)``, a tensor of one number.
        freeze_after: share of the steps after which ranges and BatchNorm statistics stay as they are; with 0 they are
            those of the float network on the first batches.
        options: ``epochs`` (1), ``learning_rate``, ``optimizer``, ``device``, ``seed``, ``on_epoch``, as
            `qexplore.training.TrainingOptions` says, but the default rate is 0.0001, which suits a network that is
            trained already; the rest as for `quantize_dynamic`.

    Returns:
        The quantized network and its report.

    Raises:
        QExploreError: as `quantize_dynamic` says; also where training fails, such as by a loss that is not finite. A
            report set or metric that will not do is told before the first step.
        TypeError: a keyword that is none of these.
    """
    checked_keywords(quantize_qat, options, QATKeywords)
    check_loss(loss)
    settings = _settings_of("qat", options)
    training = Training(
        train_loader,
        loss,
        TrainingOptions(**_some(options, TrainingKeywords.__optional_keys__ | {"progress"})),
        freeze_after,
    )
    example = first_inputs(network, train_loader, "train_loader", options.get("unpack"))
    return _told(run_workflow(network, settings, _reporting_of(options), example=example, training=training))


def _static(network: nn.Module, loader: Loader, settings: Settings, options: Any) -> QuantizationResult:
    example = first_inputs(network, loader, "calibration_loader", options.get("unpack"))
    return _told(run_workflow(network, settings, _reporting_of(options), example=example, calibration_loader=loader))


def _told(result: QuantizationResult) -> QuantizationResult:
    """Warn of what is still off, unless ranges are the user's; the report says it too."""
    if result.report.alarms and not result.report.settings.has_own_ranges:
        warn("; ".join(map(str, result.report.alarms)))
    return result


def _settings_of(method: Any, options: Any) -> Settings:
    of_settings = QuantizationKeywords.__optional_keys__ - ReportingKeywords.__optional_keys__
    return Settings(method, **_some(options, of_settings))


def _reporting_of(options: Any) -> Reporting:
    return Reporting(**_some(options, ReportingKeywords.__optional_keys__))


def _some(options: Any, names: Set[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def load_quantized(path: str | Path, network: nn.Module | None = None) -> nn.Module:
    """The quantized network that ``result.save(path)`` wrote; its outputs equal the saved one's bit for bit.

    Args:
        path: the file.
        network: the float network that was quantized, of which the structure is taken; its weights do not matter. Files
            of the stacks ``"pt2e"`` and ``"onnxruntime"`` hold the structure themselves.

    Raises:
        WorkflowError: no such file, not a file of a quantized network, or ``network`` missing or of another structure.
        ModelError: ``network`` cannot be copied, or is wrapped.
    """
    path = Path(path)
    row = row_of_file(path)
    if row.needs_network and network is None:
        raise WorkflowError(
            f"'{path}' was written by the stack \"{row.name}\" and holds integers and scales alone: give the "
            "float network that they belong to, load_quantized(path, network)"
        )
    with isolated(torch.device("cpu")):
        return row.home.load(path, None if network is None else float_copy(network))
