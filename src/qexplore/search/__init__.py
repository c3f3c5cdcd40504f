"""Searching choices. pymoo lives only here."""

from qexplore.search.additive import AdditiveFront, additive_front
from qexplore.search.algorithms import Generation, Generations
from qexplore.search.archive import Archive, reference_point
from qexplore.search.choices import choices_text
from qexplore.search.control import ChoicePlan, plan_choices
from qexplore.search.goals import Cheapest, Goal, MostAccurate, WholeFront
from qexplore.search.problem import LayerwiseQuantizationProblem, intervals_of
from qexplore.search.sensitivity import SensitivityTable, sensitivity
from qexplore.search.settings import ALGORITHMS, SearchSettings
from qexplore.search.space import SearchSpace

__all__ = [
    "ALGORITHMS",
    "AdditiveFront",
    "Archive",
    "Cheapest",
    "ChoicePlan",
    "Generation",
    "Generations",
    "Goal",
    "LayerwiseQuantizationProblem",
    "MostAccurate",
    "SearchSettings",
    "SearchSpace",
    "SensitivityTable",
    "WholeFront",
    "additive_front",
    "choices_text",
    "intervals_of",
    "plan_choices",
    "reference_point",
    "sensitivity",
]
