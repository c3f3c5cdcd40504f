"""What pictures of three and more objectives share: the objectives, their colours, and the knee in words.

Shape letters: K front members, M objectives, the score first and then the costs in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qexplore._direction import Directed
from qexplore.front import Front, score_text
from qexplore.report._wording import amount_text, cost_axis, cost_unit, cost_words

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable

NBSP = "\N{NO-BREAK SPACE}"
LEGEND_CHARACTERS = 110  # beside each other over the whole picture


@dataclass(frozen=True)
class ObjectiveRecord(Directed):
    """One objective: its name in words, the unit they leave out, its label on an axis, its direction, its K values.

    `is_score` says that it is measured, not a cost.
    """

    words: str
    unit: str
    axis: str
    higher_is_better: bool
    values: tuple[float, ...]
    is_score: bool = False


def objectives_of(front: Front) -> tuple[ObjectiveRecord, ...]:
    """The score, then each cost."""
    costs = zip(front.cost_names, front.costs.T.tolist(), strict=True)
    return _score(front.metric_name, front, front.accuracy), *(
        ObjectiveRecord(cost_words(name), cost_unit(name), cost_axis(name), False, tuple(cost)) for name, cost in costs
    )


def further_of(front: Front) -> tuple[ObjectiveRecord, ...]:
    """The scores by further metrics that are known of every member."""
    if front.further_scores is None:
        return ()
    columns = zip(front.further, front.further_scores.T, strict=True)
    return tuple(_score(metric.name, metric, scores) for metric, scores in columns if np.isfinite(scores).all())


def _score(name: str, metric: Directed, scores: NDArray[np.float64]) -> ObjectiveRecord:
    return ObjectiveRecord(name, "", name, metric.higher_is_better, tuple(scores.tolist()), is_score=True)


def score_colours(score: ObjectiveRecord) -> ScalarMappable:
    """Viridis without its palest end, dark where the score is bad."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    shades = colormaps["viridis"](np.linspace(0.0, 0.92, 256))
    low, high = min(score.values), max(score.values)
    least = 1e-6 * max(abs(high), 1.0)  # a scale needs a length
    return ScalarMappable(
        Normalize(low, max(high, low + least)), ListedColormap(shades if score.better == "higher" else shades[::-1])
    )


def with_unit(objective: ObjectiveRecord) -> str:
    """An objective in words, with the unit that they leave out."""
    return f"{objective.words} ({objective.unit})" if objective.unit else objective.words


def with_direction(objective: ObjectiveRecord) -> str:
    """An objective on its axis."""
    return f"{objective.axis} ({objective.better} is better)"


def member_text(objectives: Sequence[ObjectiveRecord], place: int) -> str:
    """All objectives of one member, line by line."""
    return "\n".join(f"{one.words} {_amount(one, one.values[place])}" for one in objectives)


def knee_text(objectives: Sequence[ObjectiveRecord], knee: int) -> str:
    """The knee in a legend."""
    return f"knee: {', '.join(f'{one.words} {_amount(one, one.values[knee])}' for one in objectives)}"


def _amount(objective: ObjectiveRecord, value: float) -> str:
    if objective.is_score:
        return score_text(value)
    return f"{amount_text(value)} {objective.unit}".rstrip().replace(" ", NBSP)
