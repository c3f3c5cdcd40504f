"""Training of a network that carries fake quantizers: a point fine-tuned, the cheap end of a front refined."""

from qexplore.training.fine_tuning import FineTuning, fine_tune
from qexplore.training.loop import EpochRecord, Loss, MakeOptimizer, train
from qexplore.training.refinement import Refinement, refine

__all__ = [
    "EpochRecord",
    "FineTuning",
    "Loss",
    "MakeOptimizer",
    "Refinement",
    "fine_tune",
    "refine",
    "train",
]
