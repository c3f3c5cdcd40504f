"""The evaluators whose promises are shown here. A new one is one line in EVALUATORS."""

import problems
import pytest
from crews import CrewHere, spread_here
from problems import (
    prefix_evaluator,
    search_loader,
    tiny_model,
    tiny_network,
)

import qexplore as qx
from qexplore.metrics import as_metric


def by_workers(*arguments, **options):
    """Two workers in this process, with evaluators from the bytes that Ray would send."""
    evaluator = prefix_evaluator(*arguments, **options)
    return spread_here(CrewHere(2), {"search": evaluator, "direct": evaluator.direct})["search"]


EVALUATORS = {
    "direct": qx.DirectEvaluator,
    "prefix": prefix_evaluator,
    "workers": by_workers,
}


@pytest.fixture(scope="module")
def trained_there(place):
    return tiny_network().to(place)


SLOW = {"workers"}
SKIPPED_BY_WORKERS = {
    "test_the_model_comes_back_as_it_was_after_an_error_in_the_middle": "the metric counts its calls in this process",
    "test_a_weight_that_cannot_be_read_makes_no_wrong_answer": "a worker whose float network has no score is refused",
}


@pytest.fixture(
    params=[pytest.param(one, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, one in EVALUATORS.items()]
)
def build(request, trained_there, monkeypatch):
    """``build(model, loader, metric, **options)``, defaults being the tiny model on the search split."""

    monkeypatch.setattr(problems, "_trained_tiny", lambda: trained_there)
    if request.param is by_workers and request.node.originalname in SKIPPED_BY_WORKERS:
        pytest.skip(SKIPPED_BY_WORKERS[request.node.originalname])

    def make(model=None, loader=None, metric=qx.top1_accuracy, **options):
        return request.param(
            model or tiny_model(), search_loader() if loader is None else loader, as_metric(metric), **options
        )

    return make
