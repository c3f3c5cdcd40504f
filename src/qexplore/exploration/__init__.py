"""Exploring: a search, its callbacks, its progress, and the verified front it ends with."""

from qexplore.exploration.fit import fit
from qexplore.exploration.logs import log_to, log_to_mlflow, log_to_tensorboard
from qexplore.exploration.records import Exploration, Snapshot, StopExploration
from qexplore.exploration.resuming import resume
from qexplore.exploration.run import explore
