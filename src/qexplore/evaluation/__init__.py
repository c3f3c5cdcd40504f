"""Measuring candidates: what an evaluation is, the evaluator that is obviously right, and the fast one."""

from qexplore.evaluation.base import Evaluation, Evaluator
from qexplore.evaluation.direct import DirectEvaluator
from qexplore.evaluation.prefix import PrefixEvaluator
from qexplore.evaluation.racing import why_not
from qexplore.evaluation.screening import Screen

__all__ = ["DirectEvaluator", "Evaluation", "Evaluator", "PrefixEvaluator", "Screen", "why_not"]
