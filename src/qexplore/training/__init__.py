"""Training of a network that carries fake quantizers: a point fine-tuned, the cheap end of a front refined."""

from qexplore.training.fine_tuning import FineTuning, fine_tune
from qexplore.training.loop import check_share, train
from qexplore.training.options import EpochRecord, Loss, TrainingKeywords, TrainingOptions, check_loss
from qexplore.training.refinement import Refinement, refine
