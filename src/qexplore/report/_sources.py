"""What pictures are made of: explorations, fronts, studies, and the files of fronts and studies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qexplore.errors import ReportError
from qexplore.front import Front
from qexplore.study import Study

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from qexplore.exploration import Exploration

    Source = Exploration | Front | Study | str | os.PathLike[str]

_FRONT_FILE = ".json"
_WANTED = "an Exploration, a Front, a Study, or the path of a file of one"


def resolved(owner: str, source: Source) -> Exploration | Front:
    """`source`, or the front of the study that it is, or that its path names, where a front's ends in ".json".

    ReportError when it is something else; the error of the file when that cannot be read.
    """
    if isinstance(source, Study):
        return source.front()
    if isinstance(source, (str, os.PathLike)):
        if Path(source).suffix.lower() == _FRONT_FILE:
            return Front.load(source)
        with Study.open(source) as study:
            return study.front()
    if isinstance(source, Front) or isinstance(getattr(source, "front", None), Front):
        return source
    raise ReportError(f"{owner}: needs {_WANTED}, got {type(source).__name__}.")


def are_several(source: Source | Sequence[Source]) -> TypeIs[Sequence[Source]]:
    """Whether it is a sequence of sources; a front, which is one of points, is a single one."""
    return isinstance(source, Sequence) and not isinstance(source, (str, Front))


def label_of(source: Source, place: int) -> str:
    """What a source is called where nobody named it; ``place`` counts from 0."""
    if isinstance(source, (str, os.PathLike)):
        return Path(source).stem
    if isinstance(source, Study):
        return source.path.stem
    if isinstance(source, Front):
        return f"front {place + 1}"
    return f"{source.algorithm}, seed {source.seed}"


def labels_of(owner: str, sources: Sequence[Source], labels: Sequence[str] | None) -> list[str]:
    """One each; made from the sources, where nobody gives them, so that each is a search of its own.

    ReportError unless ``labels`` are a text for each.
    """
    if labels is not None:
        if isinstance(labels, str) or len(labels) != len(sources) or not all(isinstance(one, str) for one in labels):
            raise ReportError(
                f"{owner}: labels must be a text for each of {len(sources)} fronts, got {labels!r}. Fronts with the "
                "same label are drawn as runs of one search."
            )
        return list(labels)
    told: list[str] = []
    for place, source in enumerate(sources):
        label = label_of(source, place)
        told.append(label if label not in told else f"{label} ({place + 1})")
    return told
