"""Searching widths. pymoo lives only here."""

from qexplore.search.additive import AdditiveFront, additive_front
from qexplore.search.algorithms import ALGORITHMS, PLAIN, Generation, generations, is_pymoo_algorithm
from qexplore.search.archive import Archive, reference_point
from qexplore.search.choices import choices_text
from qexplore.search.control import ChoicePlan, plan_choices
from qexplore.search.goals import Cheapest, Goal, MostAccurate, WholeFront
from qexplore.search.problem import LayerwiseQuantizationProblem, intervals_of
from qexplore.search.sensitivity import SensitivityTable, sensitivity
from qexplore.search.space import SearchSpace

__all__ = [
    "ALGORITHMS",
    "AdditiveFront",
    "Archive",
    "Cheapest",
    "ChoicePlan",
    "Generation",
    "Goal",
    "LayerwiseQuantizationProblem",
    "MostAccurate",
    "PLAIN",
    "SearchSpace",
    "SensitivityTable",
    "WholeFront",
    "additive_front",
    "choices_text",
    "generations",
    "intervals_of",
    "is_pymoo_algorithm",
    "plan_choices",
    "reference_point",
    "sensitivity",
]
