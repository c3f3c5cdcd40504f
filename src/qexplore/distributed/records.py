"""What workers did: who measured what, how busy they were, what was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields

from qexplore._table import Framed, Rows, text_table
from qexplore.model import Candidate


@dataclass(frozen=True)
class WorkerRecord:
    """One worker.

    Attributes:
        name: its machine and process.
        device: what it measured on.
        state: ``"ready"``, ``"starting"``, or ``"lost"`` or ``"ended"`` with the reason.
        num_candidates: answers that it gave, looks at a part of the set and at the report set included.
        busy_seconds: that it measured.
        setup_seconds: until it had unpacked or built its evaluators.
        seconds: that it was there, ready.
        sent_bytes: network, ranges and data that went to it.
    """

    name: str
    device: str
    state: str
    num_candidates: int
    busy_seconds: float
    setup_seconds: float
    seconds: float
    sent_bytes: int


@dataclass(frozen=True)
class WorkersReport(Framed):
    """Who measured what; ``print`` shows a row for each worker, ``to_frame()`` gives them.

    Attributes:
        workers: in the order in which they were started; one that took a lost one's place is one more.
        measured_by: the name of the worker for each candidate that the search measured on workers; what came from
            memory or a study is not in it.
        events: what happened, in order: workers lost, tasks given again.
        asked_seconds: in which there was something to measure; else the search was thinking.
        differing: what workers differed in that took part all the same; the result depends on who measured what then.
    """

    workers: tuple[WorkerRecord, ...]
    measured_by: Mapping[Candidate, str] = field(repr=False)
    events: tuple[str, ...]
    asked_seconds: float
    differing: tuple[str, ...] = ()

    @property
    def idle_share(self) -> float:
        """Part of the time that workers were there in which they had nothing to do, thinking of the search included."""
        there = sum(one.seconds for one in self.workers)
        return max(0.0, 1.0 - sum(one.busy_seconds for one in self.workers) / there) if there else 0.0

    @property
    def num_ready(self) -> int:
        """Workers that are there."""
        return sum(one.state == "ready" for one in self.workers)

    @property
    def num_lost(self) -> int:
        """Workers that went away."""
        return sum(one.state.startswith("lost") for one in self.workers)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that say what limits a result, of differing workers; none where all were alike."""
        if not self.differing:
            return ()
        return (f"Workers differed, so the search depends on who measured what: {'; '.join(self.differing)}.",)

    @property
    def summary(self) -> str:
        """How many there are, how many were lost, and the share of time in which they had nothing to do."""
        if not self.workers:
            return "none started, for there was nothing to measure"
        lost = f", {self.num_lost} lost on the way" if self.num_lost else ""
        return f"{self.num_ready} that measured {len(self.measured_by)} candidates{lost}, idle {self.idle_share:.0%}"

    def _frame_rows(self) -> Rows:
        return [one.name for one in fields(WorkerRecord)], [astuple(one) for one in self.workers]

    def __str__(self) -> str:
        if not self.workers:
            return "\n".join([f"workers: {self.summary}", *self.events])
        heads = ("worker", "device", "state", "candidates", "answers", "busy s", "there s", "set-up s", "sent MB")
        measured = Counter(self.measured_by.values())
        rows = [
            (
                one.name,
                one.device,
                one.state,
                str(measured[one.name]),
                str(one.num_candidates),
                f"{one.busy_seconds:.1f}",
                f"{one.seconds:.1f}",
                f"{one.setup_seconds:.1f}",
                f"{one.sent_bytes / 1e6:.1f}",
            )
            for one in self.workers
        ]
        table = text_table(heads, rows, numeric=range(3, len(heads)))
        answers = (
            "answers: candidates of the search, and looks at parts of the set, sensitivities and measurements again"
        )
        return "\n".join([table, answers, f"idle: {self.idle_share:.0%}", *self.events])
