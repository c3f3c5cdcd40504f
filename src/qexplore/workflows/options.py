"""The keywords that the turn-key calls share, told once."""

from __future__ import annotations

from typing import Any, TypedDict

from qexplore._arguments import checked_keywords
from qexplore.model import Loader, Unpack
from qexplore.predicates import PredicateLike
from qexplore.stacks import Settings
from qexplore.training import TrainingKeywords
from qexplore.workflows.running import Reporting


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
        weight_granularity: ``"channel"`` for one scale per output channel, ``"tensor"`` for one per weight.
        activations: ``"affine"`` (a zero point) or ``"symmetric"``.
        engine: whose integer kernels: ``"x86"``, ``"fbgemm"``, ``"onednn"``, ``"qnnpack"``; None for this machine's
            default.
        activation_observer: ``"minmax"``, ``"moving_average"``, ``"histogram"``, a class or factory of the stack's own
            observers; None for the stack's default.
        weight_observer: the same for weights.
        linear_num_bits: width of the weights of Linear layers, 2 to 8; below 8 they are stored packed.
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


def settings_of(call: str, method: Any, options: Any) -> Settings:
    """What the keywords ``options`` of ``call`` ask of a stack.

    Raises:
        TypeError: a keyword that the call does not take.
        WorkflowError: see `Settings`.
    """
    known = QATKeywords if method == "qat" else QuantizationKeywords
    checked_keywords(call, options, known.__optional_keys__)
    of_settings = QuantizationKeywords.__optional_keys__ - ReportingKeywords.__optional_keys__
    return Settings(method, **_some(options, of_settings))


def reporting_of(options: Any) -> Reporting:
    """What the keywords ``options`` say of the report.

    Raises:
        MetricError: ``report_loader`` without ``metric``, or the other way round.
    """
    return Reporting(**_some(options, ReportingKeywords.__optional_keys__))


def training_of(options: Any) -> dict[str, Any]:
    """Those of the keywords ``options`` that say how to train."""
    return _some(options, TrainingKeywords.__optional_keys__ | {"progress"})


def _some(options: Any, names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}
