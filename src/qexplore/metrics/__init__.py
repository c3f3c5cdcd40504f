"""How well a network does: scores per sample, or one number for a whole set."""

from qexplore.metrics.base import NOT_COUNTED, Metric, Scores, WholeSetMetric, as_metric, judging, loss, whole_set
from qexplore.metrics.divergences import (
    Distribution,
    Noise,
    OfProbabilities,
    between_outputs,
    gives_probabilities,
    kl_divergence,
    kl_of_probabilities,
    mean_squared_divergence,
    noise_to_signal,
)
from qexplore.metrics.output import Output, floating_outputs, in_metric, logits_of, outputs_text
from qexplore.metrics.probabilities import FEWEST_ROWS
from qexplore.metrics.scores import (
    IGNORED_TOKEN,
    known_labels,
    metric_named,
    negative_log_likelihood,
    over_labels,
    perplexity,
    pixel_accuracy,
    squared_error,
    token_accuracy,
    top1_accuracy,
    topk_accuracy,
)
