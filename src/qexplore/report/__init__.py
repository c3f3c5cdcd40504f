"""Pictures of a front, of the search that found it, and of what quantization does layer by layer.

Each picture is a file made in two steps: an immutable record of what is drawn, then the drawing. Whatever a file here
calls ``plot_...``, ``..._record`` or ``...Record`` is found here too. Matplotlib is imported when a picture is drawn,
not before.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any


def _shown() -> Iterator[tuple[str, Any]]:
    """Names and things of the files of this room that pictures are made of."""
    for file in pkgutil.iter_modules(__path__, f"{__name__}."):
        for name, value in vars(importlib.import_module(file.name)).items():
            is_of_a_picture = name.startswith("plot_") or name.lower().endswith("record")
            if is_of_a_picture and value.__module__ == file.name:
                yield name, value


_SHOWN = dict(_shown())
globals().update(_SHOWN)
__all__ = sorted(_SHOWN)
