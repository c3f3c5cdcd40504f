"""How well a network does: scores per sample, or one number for a whole set."""

from qexplore.metrics.base import Metric, Scores, WholeSetMetric, as_metric, loss, whole_set
from qexplore.metrics.divergences import kl_divergence, mean_squared_divergence, noise_to_signal
from qexplore.metrics.scores import (
    negative_log_likelihood,
    perplexity,
    pixel_accuracy,
    squared_error,
    token_accuracy,
    top1_accuracy,
    topk_accuracy,
)
