"""Whether a network is wrapped, attached and calibrated: asked before work starts."""

from __future__ import annotations

from typing import Any

from qexplore.errors import WorkflowError
from qexplore.model.quantized_model import QuantizedModel


def require_wrapped(owner: str, model: Any) -> None:
    """Raise unless ``model`` can be trained at a point.

    Raises:
        WorkflowError: it is no wrapped model.
        ModelError: it is detached from its network.
        CalibrationError: it has points without a range.
    """
    if not isinstance(model, QuantizedModel):
        raise WorkflowError(
            f"{owner} takes a QuantizedModel, got {type(model).__name__}: wrap the network and calibrate it first"
        )
    model.require_attached()
    model.require_calibrated()
