"""What long runs have found so far: each part is written as it is done, and a rerun goes on from the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class Results:
    """Findings by what they are of.

    The file holds for one state of the package: what is in it is not run again, whatever has changed since. It is
    written by one process at a time; two would write over each other's.

    Args:
        path: a JSON file, there already or not; None keeps everything in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._found: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}

    def get(self, of: Iterable[object], run: Callable[..., Any], *args: object) -> Any:
        """``run(*args)``, as JSON gives it back: from the file where that has it, else run and written.

        ``of`` are the words that stand before ``args`` in the file, of all that the finding depends on besides.
        """
        name = ", ".join(map(str, (*of, *args)))
        if name not in self._found:
            self._found[name] = json.loads(json.dumps(run(*args)))
            self._write()
        return self._found[name]

    def _write(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            half = self._path.with_name(self._path.name + ".part")  # a cut while writing loses nothing
            half.write_text(json.dumps(self._found))
            half.replace(self._path)
