"""Searching choices. pymoo lives only here."""

from qexplore.search.additive import AdditiveFront, additive_front
from qexplore.search.algorithms import Generation, Generations
from qexplore.search.archive import Archive, reference_point
from qexplore.search.choices import choices_text
from qexplore.search.control import ChoicePlan, checked_plan, plan_choices
from qexplore.search.direction import warn_of_direction
from qexplore.search.goals import Cheapest, Goal, MostAccurate, WholeFront
from qexplore.search.intervals import intervals_of
from qexplore.search.judge import Contest, contradiction_words, is_contradicted, judged, judged_words
from qexplore.search.problem import LayerwiseQuantizationProblem
from qexplore.search.sensitivity import Lacking, SensitivityTable, sensitivity
from qexplore.search.settings import ALGORITHMS, JUDGES, SearchSettings
from qexplore.search.shared_data import calibrated_words, reported_words
from qexplore.search.space import SearchSpace
from qexplore.search.target import read_target
from qexplore.search.ties import TIE_WORDS
