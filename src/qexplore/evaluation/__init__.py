"""Measuring: what an evaluation is, the evaluator that is obviously right, the fast one, and a look at each layer."""

from qexplore.evaluation.analysis import LayerAnalysis, LayerRecord, analyze
from qexplore.evaluation.base import Evaluation, Evaluator, EvaluatorAround, Order, Told, checked_candidates
from qexplore.evaluation.clipping import Clipping, clipping_text
from qexplore.evaluation.direct import DirectEvaluator
from qexplore.evaluation.divergence import usual_divergences
from qexplore.evaluation.interval import mean_difference, paired_interval, t_quantile
from qexplore.evaluation.prefix import PrefixEvaluator
from qexplore.evaluation.racing import SampleOrder, why_not
from qexplore.evaluation.scoring import apply_metric, batch_scores, summary
from qexplore.evaluation.screening import Screen
