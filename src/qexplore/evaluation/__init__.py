"""Measuring candidates: what an evaluation is, and the evaluator that is obviously right."""

from qexplore.evaluation.base import Evaluation, Evaluator
from qexplore.evaluation.direct import DirectEvaluator

__all__ = ["DirectEvaluator", "Evaluation", "Evaluator"]
