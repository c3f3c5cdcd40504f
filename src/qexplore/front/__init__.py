"""The front: frozen arrays to pick from and compare, with a file format of its own."""

from qexplore.front.file import write_text
from qexplore.front.front import BitsSaved, Front, FrontPoint
from qexplore.front.text import by_stored_bits, choices_cells, cost_text, score_text

__all__ = [
    "BitsSaved",
    "Front",
    "FrontPoint",
    "by_stored_bits",
    "choices_cells",
    "cost_text",
    "score_text",
    "write_text",
]
