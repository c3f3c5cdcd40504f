"""Whether a network is wrapped, attached and calibrated: asked before work starts."""

from __future__ import annotations

from qexplore.errors import ModelError, QExploreError
from qexplore.model.quantized_model import QuantizedModel


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
        raise error(
            f"{owner} takes a QuantizedModel, got {type(model).__name__}: wrap it{' and calibrate it' * calibrated} "
            "first"
        )
    model.require_attached()
    if calibrated:
        model.require_calibrated()
    return model
