"""What ``package.module:name`` names: objects of the user's own code, found from the working directory too."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from qexplore.errors import QExploreError

REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""The form of a whole reference."""


def referred(name: str, error: type[QExploreError]) -> Any:
    """The object that ``name`` refers to.

    Raises:
        QExploreError: of the kind ``error``: no such module, with the nearest in the working directory; one that fails;
            or no such name in it, with the nearest there is.
    """
    module_name, _, attribute = name.partition(":")
    module = _imported(module_name, error)
    if not hasattr(module, attribute):
        near = did_you_mean(attribute, [one for one in vars(module) if not one.startswith("_")])
        raise error(f"'{module_name}' has no function '{attribute}'{near}")
    return getattr(module, attribute)


def _imported(name: str, error: type[QExploreError]) -> ModuleType:
    try:
        with working_directory_first():
            return importlib.import_module(name)
    except ModuleNotFoundError as reason:
        if reason.name is None or not f"{name}.".startswith(f"{reason.name}."):
            raise error(f"importing '{name}' failed: {reason}") from reason
        raise error(
            f"there is no module '{name}', neither installed nor in {Path.cwd()}: name a factory as "
            f"package.module:factory{did_you_mean(name, _modules_here())}"
        ) from reason
    except Exception as reason:
        raise error(f"importing '{name}' failed: {type(reason).__name__}: {reason}") from reason


def _modules_here() -> list[str]:
    return [path.stem for path in Path.cwd().iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]


def did_you_mean(word: str, known: list[str]) -> str:
    """The nearest of ``known`` as the end of a sentence; nothing where none is near.

    >>> did_you_mean("min_acuracy", ["seed", "min_accuracy"])
    ", did you mean 'min_accuracy'?"
    """
    by_small_letters = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word.lower(), by_small_letters, 1)
    return f", did you mean '{by_small_letters[near[0]]}'?" if near else ""


@contextmanager
def working_directory_first() -> Iterator[None]:
    """Find modules there in a block: a console script's path begins with the folder of the script."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
