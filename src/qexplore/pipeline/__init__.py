"""The guided pipeline: one network led from float to quantized.

`Options` is at hand at once, for the command line; what brings torch along loads when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qexplore.pipeline.options import LOSSES, ORDERS, Options

if TYPE_CHECKING:
    from qexplore.pipeline.dialogue import Dialogue, Transcript
    from qexplore.pipeline.loading import NAMES, load_subject
    from qexplore.pipeline.run import PipelineResult, run_pipeline
    from qexplore.pipeline.subject import Subject

__all__ = [
    "LOSSES",
    "NAMES",
    "Dialogue",
    "ORDERS",
    "Options",
    "PipelineResult",
    "Subject",
    "Transcript",
    "load_subject",
    "run_pipeline",
]
_FILES = ("dialogue", "loading", "run", "subject")


def __getattr__(name: str) -> Any:
    for file in _FILES if name in __all__ else ():
        module = importlib.import_module(f"qexplore.pipeline.{file}")
        if name in vars(module):
            return vars(module)[name]
    raise AttributeError(f"module 'qexplore.pipeline' has no attribute {name!r}")
