"""The front: frozen arrays to pick from and compare, with a file format of its own."""

from qexplore.front.arrays import FurtherMetric
from qexplore.front.difference import FrontDifference, LayerDifference, PointDifference
from qexplore.front.file import write_text
from qexplore.front.front import Front
from qexplore.front.notes import float_misses, front_notes, missing_words, num_report_violations, optimism_gap
from qexplore.front.picking import nondominated
from qexplore.front.point import BitsSaved, FrontPoint
from qexplore.front.savings import claim_words
from qexplore.front.words import (
    OFF,
    by_stored_bits,
    choice_words,
    choices_cells,
    cost_text,
    difference_text,
    score_text,
    uniform_labels,
)
