"""What a configuration file asks for: its fields, its mistakes, and the problem that it poses.

`Config` is at hand at once, for the command line; what brings torch along loads when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qexplore.config.config import SECTIONS, Config, described

if TYPE_CHECKING:
    from qexplore.config.drafting import Template, template
    from qexplore.config.posing import (
        calibrated,
        choices_of,
        posed,
        problem_arguments,
        report_arguments,
        search_arguments,
        study_of,
    )
    from qexplore.config.reading import ReadConfig, read_config

__all__ = [
    "SECTIONS",
    "Config",
    "ReadConfig",
    "Template",
    "calibrated",
    "choices_of",
    "described",
    "posed",
    "problem_arguments",
    "read_config",
    "report_arguments",
    "search_arguments",
    "study_of",
    "template",
]
_FILES = ("drafting", "posing", "reading")


def __getattr__(name: str) -> Any:
    for file in _FILES if name in __all__ else ():
        module = importlib.import_module(f"qexplore.config.{file}")
        if name in vars(module):
            return vars(module)[name]
    raise AttributeError(f"module 'qexplore.config' has no attribute {name!r}")
