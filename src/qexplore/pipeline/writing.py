"""What the pipeline leaves behind in its output folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from qexplore.errors import MissingPackageError, ModelError, WorkflowError
from qexplore.pipeline.exploring import Explored
from qexplore.report import plot_pareto_front


def make_folder(folder: Path) -> None:
    """Make the output folder.

    Raises:
        WorkflowError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkflowError(f"the output folder '{folder}' cannot be made: {error.strerror or error}") from error


def write_texts(texts: dict[str, str | None], folder: Path) -> list[str]:
    """Write those of ``texts``, by the names of their files, that there are; returns the names."""
    written = {name: text for name, text in texts.items() if text is not None}
    for name, text in written.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    return list(written)


def write_explored(found: Explored, folder: Path, say: Callable[[str], None]) -> list[str]:
    """Write the front, its picture, and the model at the cheapest point; returns the names of the files.

    Args:
        found: by the search.
        folder: where to.
        say: told what could not be written.
    """
    front = found.exploration.front
    front.save(folder / "front.json")
    if not len(front):
        say("The front is empty: there is no picture and no model of it.")
        return ["front.json"]
    written = ["front.json"]
    try:
        plot_pareto_front(found.exploration, folder / "front.png")
        written.append("front.png")
    except MissingPackageError as error:
        say(f"No picture of the front: {error}")
    try:
        torch.save(found.model, folder / "explored.pt")
        written.append("explored.pt")
    except ModelError as error:
        (folder / "explored.pt").unlink(missing_ok=True)
        say(f"No model at the front's cheapest point: {error}")
    return written
