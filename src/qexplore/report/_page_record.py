"""What the page of a report shows, as plain records: texts, numbers and None, which a JSON file can hold.

Shape letters: N candidates (the front's K first), L quantization points, W choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qexplore._direction import Directed
from qexplore.report._fronts import Interval

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ScoreColumn(Directed):
    """A metric on a set: N values with their intervals, None where not known, and the lines of reference."""

    name: str
    set_name: str
    higher_is_better: bool
    values: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]
    float_score: float | None
    min_score: float | None


@dataclass(frozen=True)
class CostColumn:
    """A cost: N values, and what each choice adds at each point where that is known, by its code."""

    name: str
    words: str
    axis: str
    unit: str
    values: tuple[float, ...]
    parts: tuple[Mapping[int, float], ...] | None


@dataclass(frozen=True)
class ChoiceRecord:
    """A choice: its code, how it is shown, what it stores, its colour as "#rrggbb"."""

    code: int
    name: str
    bits: float
    colour: str


@dataclass(frozen=True)
class CandidatesRecord:
    """N candidates: what each is ("front", "uniform" or "measured"), its label, its codes by point."""

    kinds: tuple[str, ...]
    labels: tuple[str, ...]
    num_bits: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ProgressRecord:
    """Hypervolume of the front over passes and seconds, and what it is measured in and against."""

    passes: tuple[float, ...]
    seconds: tuple[float, ...]
    hypervolume: tuple[float, ...]
    units: str
    reference: str


@dataclass(frozen=True)
class SensitivityGrid:
    """Sensitivities `values[l][w]` of L points, in their order, at W choices; None where there is none or no number."""

    what: str
    codes: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]
    texts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class AnalysisGrid:
    """Quantization errors of L points, in their order: dB and shares, None where there is no number."""

    point_names: tuple[str, ...]
    labels: tuple[str, ...]
    sqnr: tuple[float | None, ...]
    sqnr_accumulated: tuple[float | None, ...]
    clipped: tuple[float | None, ...]
    range_used: tuple[float | None, ...]
    output_sqnr: float | None


@dataclass(frozen=True)
class FailureRecord:
    """A candidate that could not be measured, and why."""

    num_bits: str
    reason: str


@dataclass(frozen=True)
class ApplyRecord:
    """How a point is applied: Python and a command.

    In both {index} stands for its place on the front, {key} for its key among `keys`, one for each place, which stays
    true when the run goes on, and {file} for the front as the page's button downloads it.
    """

    python: str
    command: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunPage:
    """All that the page shows of one run.

    `state` is "running", "interrupted" or "ended", empty where nothing of the kind is known. `notices` are what a
    reader has to know before the rest. `shown` is the place in `scores` of the column that claims are stated in;
    `savings` are by the name of a cost, and `claim` says what they keep. `front` is the text that `Front.to_json`
    gives, `by_row` names its fields with a row a point. `file` is what names of downloaded files begin with; no other
    run of the page has it.
    """

    name: str
    state: str
    notices: tuple[str, ...]
    summary: Facts
    scores: tuple[ScoreColumn, ...]
    shown: int
    costs: tuple[CostColumn, ...]
    candidates: CandidatesRecord
    num_front: int
    knee: int | None
    verified: bool
    claim: str
    savings: Facts
    point_names: tuple[str, ...]
    short_names: tuple[str, ...]
    choices: tuple[ChoiceRecord, ...]
    progress: ProgressRecord | None
    sensitivity: SensitivityGrid | None
    analysis: AnalysisGrid | None
    failures: tuple[FailureRecord, ...]
    facts: tuple[tuple[str, Facts], ...]
    apply: ApplyRecord
    front: str
    by_row: tuple[str, ...]
    file: str = "front"


@dataclass(frozen=True)
class PageRecord:
    """The whole page: its title, who wrote it, the runs, and why there is none, where that is so.

    `unlike` says which runs are not of the same points, networks, sets or costs as the first, and how.
    """

    title: str
    written_by: str
    runs: tuple[RunPage, ...]
    nothing: str = ""
    unlike: tuple[str, ...] = ()
