"""Whether a network is wrapped, attached and calibrated: asked before work starts."""

from __future__ import annotations

from torch import nn

from qexplore.errors import ModelError, QExploreError
from qexplore.model.hooks import point_hooks
from qexplore.model.quantized_model import QuantizedModel
from qexplore.model.weights import weight_quantizations


def require_wrapped(
    owner: str, model: object, error: type[QExploreError] = ModelError, *, calibrated: bool = True
) -> QuantizedModel:
    """``model``, which is wrapped, on its network and, unless ``calibrated`` is False, calibrated.

    Args:
        owner: what needs it, with which the message begins.
        model: what was given.
        error: raised where it is no wrapped network.
        calibrated: whether every point must have a range.

    Raises:
        ModelError: it is detached from its network.
        CalibrationError: it has points without a range.
    """
    if not isinstance(model, QuantizedModel):
        raise error(f"{owner} takes a QuantizedModel, got {type(model).__name__}: {_way_out(model, calibrated)}")
    model.require_attached()
    if calibrated:
        model.require_calibrated()
    return model


def _way_out(model: object, calibrated: bool) -> str:
    if isinstance(getattr(model, "model", None), QuantizedModel):
        return "give its `model`, which is one"
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    if any(isinstance(one, QuantizedModel) for one in modules):
        return "it holds a QuantizedModel, give that alone"
    if (
        modules
        and isinstance(model, nn.Module)
        and (point_hooks(model) or any(True for _ in weight_quantizations(model)))
    ):
        return "it is the network inside of one, give the QuantizedModel itself"
    return f"wrap it{' and calibrate it' * calibrated} first"
