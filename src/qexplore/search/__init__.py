"""Searching widths. pymoo lives only here."""

from qexplore.search.archive import Archive
from qexplore.search.nsga2 import ALGORITHMS, Generation, generations
from qexplore.search.problem import LayerwiseQuantizationProblem, intervals_of
from qexplore.search.space import SearchSpace

__all__ = [
    "ALGORITHMS",
    "Archive",
    "Generation",
    "LayerwiseQuantizationProblem",
    "SearchSpace",
    "generations",
    "intervals_of",
]
