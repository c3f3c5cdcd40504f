"""Whether the sets of data, each of which is to judge what another has chosen, hold the same samples."""

from __future__ import annotations

from qexplore.evaluation import DirectEvaluator
from qexplore.model import NO_MARKS, Marks, num_shared

_LEAST = 0.05
"""The share of a set that is worth a word; a few samples stand twice in many collections."""


def calibrated_words(searching: DirectEvaluator) -> str:
    """A sentence on samples of the search set that were calibrated on; empty where few or none were."""
    shared = _shared(_marks(searching), searching.model.calibrated_on)
    return f"{_begun(shared)} of the search set were calibrated on too." if shared else ""


def reported_words(reporting: DirectEvaluator, searching: DirectEvaluator) -> str:
    """A sentence on samples of the report set that something was chosen by; empty where nothing, or few, were."""
    whole_set = reporting.data is None and reporting.loader is searching.loader
    searched = "all samples" if whole_set else _shared(_marks(reporting), _marks(searching))
    calibrated = _shared(_marks(reporting), reporting.model.calibrated_on)
    parts = [f"{searched} of the report set were searched on too"] if searched else []
    parts += [f"{calibrated} of {'it' if parts else 'the report set'} were calibrated on"] if calibrated else []
    return f"{_begun(', and '.join(parts))}: its figures are not held out." if parts else ""


def _begun(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _marks(evaluator: DirectEvaluator) -> Marks:
    """Of its samples; none for a whole-set metric, which reads the loader itself."""
    return NO_MARKS if evaluator.data is None else evaluator.data.marks


def _shared(samples: Marks, others: Marks) -> str:
    """How many of ``samples`` are among ``others``, in words; empty where too few are."""
    count = num_shared(samples, others)
    if not count or count < _LEAST * len(samples):
        return ""
    return f"all {count:,} samples" if count == len(samples) else f"{count:,} of {len(samples):,} samples"
