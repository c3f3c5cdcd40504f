"""Points that have no range yet: refused where one is needed, warned of where a network runs without."""

from __future__ import annotations

from collections.abc import Mapping

from qexplore._choices import has_range
from qexplore._warnings import UncalibratedWarning, warn
from qexplore.errors import CalibrationError
from qexplore.quant import TensorQuantizer

_MOST_NAMED = 5


def require_ranges(quantizers: Mapping[str, TensorQuantizer]) -> None:
    """Raise `CalibrationError`, which names them, when points have no range."""
    missing = [name for name, quantizer in quantizers.items() if not quantizer.is_calibrated]
    if missing:
        raise CalibrationError(
            f"every point must be calibrated, but these have no `amax`: {', '.join(missing)}. Call "
            "model.calibrate(loader) first"
        )


def have_been_told(quantizers: Mapping[str, TensorQuantizer]) -> bool:
    """Whether all points have a range, or it has been said, now, that some run without one."""
    missing = [name for name, quantizer in quantizers.items() if not quantizer.is_calibrated]
    running = [name for name in missing if _takes_what_passes(quantizers[name])]
    if running:
        more = f" and {len(running) - _MOST_NAMED} more" if len(running) > _MOST_NAMED else ""
        named = f"{', '.join(map(repr, running[:_MOST_NAMED]))}{more}"
        warn(
            f"the model was called, but {len(running)} of its {len(quantizers)} points have no range ({named}) and "
            "take the largest magnitude of each tensor that passes: outputs depend on the batch, and are not those "
            "that a search measures at these widths. Call model.calibrate(loader), or "
            "qexplore.load_manifest(path).apply(model), which brings ranges and widths. "
            "Where that is meant: warnings.simplefilter('ignore', qexplore.UncalibratedWarning)",
            UncalibratedWarning,
        )
    return bool(running) or not missing


def _takes_what_passes(quantizer: TensorQuantizer) -> bool:
    return quantizer.is_active and any(quantizer.stages) and has_range(quantizer.code)
