"""What becomes of each point of a model in a file."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from qexplore._choices import FLOAT_FORMATS, choice_name
from qexplore.errors import ExportError
from qexplore.export.encoding import Encoding, OpsetTooLow, Unwritable, encoding_of
from qexplore.export.weights import StoredWeight, stored_weight
from qexplore.model import QuantizedModel
from qexplore.quant import TensorQuantizer, known_widths

_SHOWN = 20
"""Points that an error lists."""


@dataclass(frozen=True)
class ExportPlan:
    """Points by what becomes of them, each by name.

    Attributes:
        activations: quantized in the file; the input too.
        weights: stored quantized.
        unwritable: on, but without a form in the file.
    """

    activations: dict[str, Encoding]
    weights: dict[str, StoredWeight]
    unwritable: dict[str, Unwritable]

    @property
    def written(self) -> dict[str, Encoding]:
        """Encodings of activations and weights."""
        return self.activations | {name: stored.encoding for name, stored in self.weights.items()}


def plan_export(model: QuantizedModel, opset: int) -> ExportPlan:
    """Settle the form of every point of a calibrated ``model`` at its present ``num_bits``."""
    weights = {point.name: point for point in model.weight_points}
    plan = ExportPlan({}, {}, {})
    active = {name: quantizer for name, quantizer in model.fake_quantizers.items() if quantizer.is_active}
    for name, quantizer in active.items():
        found = stored_weight(weights[name], quantizer, opset) if name in weights else _activation(quantizer, opset)
        if isinstance(found, StoredWeight):
            plan.weights[name] = found
        elif isinstance(found, Encoding):
            plan.activations[name] = found
        else:
            plan.unwritable[name] = found
    return plan


def _activation(quantizer: TensorQuantizer, opset: int) -> Encoding | Unwritable:
    encoding = encoding_of(quantizer, opset)
    if isinstance(encoding, Encoding) and encoding.scale.size > 1:
        return Unwritable("an activation has one range, but this one has a range for each channel")
    return encoding


def refuse_unknown(model: QuantizedModel, allow: Collection[str]) -> None:
    """Raise unless every entry of ``allow`` matches a point of ``model`` or is a format or a width.

    Raises:
        ExportError: names the entry, and what there is.
    """
    formats, points = [str(known) for known in FLOAT_FORMATS], list(model.fake_quantizers)
    choices = {*formats, *map(str, known_widths(unsigned=True))}
    for entry in allow:
        is_text = isinstance(entry, str)
        if not is_text or not (entry.upper() in choices or any(fnmatchcase(name, entry) for name in points)):
            more = f" and {len(points) - _SHOWN} more" if len(points) > _SHOWN else ""
            raise ExportError(
                f"`allow` must hold points, by name or glob, or formats, got {entry!r}: the points are "
                f"{', '.join(map(repr, points[:_SHOWN]))}{more}; the formats {', '.join(formats)}"
            )


def refuse_unwritable(model: QuantizedModel, plan: ExportPlan, allow: Collection[str], opset: int) -> None:
    """Raise unless every point without a form in the file is allowed to stay float there.

    Raises:
        ExportError: names the points, the reasons and the ways out.
    """
    low = {name: why for name, why in plan.unwritable.items() if isinstance(why, OpsetTooLow)}
    if low:
        needed = max(why.opset for why in low.values())
        raise ExportError(
            f"`opset` must be at least {needed} for the choices of this model, got {opset}: {_listed(low.items())}"
        )
    choices = {name: choice_name(model.fake_quantizers[name].code) for name in plan.unwritable}
    refused = {
        name: why
        for name, why in plan.unwritable.items()
        if not any(fnmatchcase(name, entry) or entry.upper() == choices[name] for entry in allow)
    }
    if refused:
        raise ExportError(
            f"these points have no form in an ONNX file that onnxruntime runs: {_listed(refused.items())}. Choose "
            "others for them, or let them be written in float with allow=, by point name, glob or format (weights are "
            "rounded all the same)"
        )


def _listed(reasons: Iterable[tuple[str, Unwritable]]) -> str:
    return "; ".join(f"'{name}' ({why.reason})" for name, why in reasons)
