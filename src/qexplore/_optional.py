"""The one place that imports optional packages and explains how to get a missing one."""

from __future__ import annotations

import importlib
from types import ModuleType

from qexplore.errors import MissingPackageError


def import_optional(name: str, *, extra: str, purpose: str) -> ModuleType:
    """Import the module ``name``.

    Raises:
        MissingPackageError: names the package, what it is needed for, and the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A package that is there but fails on a dependency of its own must not be reported as missing.
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise
        raise MissingPackageError(
            f"{purpose} needs the package '{name.partition('.')[0]}', which is not installed: "
            f"pip install 'qexplore[{extra}]'",
            name=error.name,
        ) from error
