"""What a problem consists of, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qexplore._table import Tabular
from qexplore.cost import Bops
from qexplore.evaluation import Clipping, clipping_text
from qexplore.front import FurtherMetric
from qexplore.model import Plan
from qexplore.search.control import ChoicePlan
from qexplore.search.shared_data import calibrated_words

if TYPE_CHECKING:
    from qexplore.search.problem import LayerwiseQuantizationProblem


@dataclass(frozen=True)
class Description(Tabular):
    """What will be searched, and how candidates are evaluated; ``print`` shows it.

    Attributes:
        plan: the quantization points, and which share of the network a search has at them.
        choices: what each of them may have, and which rule says so.
        costs: names of what is kept small.
        metric_name: what is searched beside them.
        better: which way it is better: ``"higher"`` or ``"lower"``.
        min_accuracy: the worst acceptable score; None accepts all.
        further: the metrics after the first, with their minima.
        limits: the most of costs, by name.
        engine: how candidates are evaluated, or why one after the other.
        early_stop: ``"on"``, or why candidates are always run to their end.
        gaps: what costs and limits lack, by the cost's name: operations that could not be counted, idle weights.
        not_passed: points that no sample passes when a candidate is measured.
        clipping: what ranges cut off of the float network's tensors on the search set, where they cut something off.
        arithmetic: what it is measured in: ``"full float32, deterministic"``, or the settings of torch that it follows,
            and the operations that may differ from run to run.
        divergence: what tells how far a candidate's outputs are from the float network's, or why nothing does.
        shared_data: which samples of the search set were calibrated on too; empty where few or none were.
        output: which of several outputs of the network is judged; empty where none was chosen.
    """

    plan: Plan
    choices: ChoicePlan
    costs: tuple[str, ...]
    metric_name: str
    min_accuracy: float | None
    further: tuple[FurtherMetric, ...]
    limits: Mapping[str, float]
    engine: str
    early_stop: str
    gaps: Mapping[str, str] = field(default_factory=dict)
    not_passed: tuple[str, ...] = ()
    clipping: tuple[Clipping, ...] = ()
    arithmetic: str = ""
    divergence: str = ""
    output: str = ""
    better: str = "higher"
    shared_data: str = ""

    @classmethod
    def of(cls, problem: LayerwiseQuantizationProblem) -> Description:
        """What ``problem`` consists of."""
        costs, direct, evaluator = (*problem.costs, *problem.limits.costs), problem.direct, problem.evaluator
        told = problem.divergence
        return cls(
            problem.model.describe(choices=problem.plan),
            problem.plan,
            tuple(cost.name for cost in problem.costs),
            problem.metric.name,
            problem.min_accuracy,
            problem.further.described,
            problem.limits.by_name,
            evaluator.description,
            evaluator.early_stop,
            {cost.name: cost.gap for cost in costs if isinstance(cost, Bops) and cost.gap},
            direct.not_passed,
            problem.clipping,
            direct.arithmetic,
            f"none: {evaluator.divergence_gap}" if told is None or evaluator.divergence_gap else told.name,
            str(getattr(problem.metric, "output", None) or ""),
            problem.metric.better,
            calibrated_words(direct),
        )

    def __str__(self) -> str:
        first = self.metric_name, self.better, self.min_accuracy
        minima = [first, *((one.name, one.better, one.min_accuracy) for one in self.further)]
        scores = [
            f"{name} {'at least' if better == 'higher' else 'at most'} {bound:g}"
            for name, better, bound in minima
            if bound is not None
        ]
        required = ", ".join([*scores, *(f"{name} at most {upper:g}" for name, upper in self.limits.items())])
        idle = f"never passed, so free: {', '.join(self.not_passed)}\n" if self.not_passed else ""
        clipped = f"{clipping_text(self.clipping)}\n".lstrip("\n")
        lacking = "".join(f"{name} lacks something: {gap}\n" for name, gap in self.gaps.items())
        told = f"\ndivergence from the float network: {self.divergence}" if self.divergence else ""
        arithmetic = f"\narithmetic: {self.arithmetic}" if self.arithmetic else ""
        shared = f"\n{self.shared_data}" if self.shared_data else ""
        judged = f" of output {self.output}" if self.output else ""
        return (
            f"{self.plan}\n\n{self.choices}\n\nsearched: {self.metric_name}{judged} "
            f"({self.better} is better) against {', '.join(self.costs)}\n"
            f"required: {required or 'nothing'}\n{lacking}{idle}{clipped}"
            f"engine: {self.engine}\nearly stop: {self.early_stop}{told}{arithmetic}{shared}"
        )
