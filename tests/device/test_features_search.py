"""A search, and what is made of one, goes the same way on an accelerator as on the CPU.

Early stop is off where whole histories are compared: when it stops a candidate depends on the size of the batches, and
those are larger on an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from networks import batches, digits, trained
from problems import search_loader, tiny_model, tiny_network, tiny_problem, weighted_model
from pymoo.algorithms.moo.spea2 import SPEA2
from torch import Tensor, nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates, report
from qexplore.pipeline import Options, Subject, Transcript, run_pipeline
from qexplore.search import ALGORITHMS

CPU = torch.device("cpu")
REPORT = batches(digits().report)
TARGET = {
    "name": "npu",
    "weights": [4, 8],
    "activations": [4, 8],
    "limits": {"model_bytes": 1000, "total_bits": 200},
}


class OfTokens(nn.Module):
    """A class for an image whose 64 pixels are read as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(17, 6)
        self.fc1 = nn.Linear(6, 8)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(8, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.relu(self.fc1(self.embedding(tokens))).mean(1))


def explored(problem: Any, *, max_evaluations: int = 20, **options: Any) -> qx.Exploration:
    options = {"seed": 1, "population_size": 10, "progress": False, **options}
    return qx.explore(problem, max_evaluations=max_evaluations, **options)


def of_front(front: Any) -> Any:
    assert front.verified
    return front.num_bits.tolist(), front.accuracy.tolist(), front.costs.tolist()


def steps(snapshots: Any) -> Any:
    return [(step.generation, step.num_evaluations, step.num_passes, step.hypervolume) for step in snapshots]


def tiny(at: torch.device) -> Any:
    return tiny_model(tiny_network().to(at))


def posed(at: torch.device, **options: Any) -> Any:
    return tiny_problem(model=tiny(at), **{"upper": 6, "min_accuracy": 0.5, **options})


def by(algorithm: Any, at: torch.device) -> Any:
    found = explored(posed(at), algorithm=algorithm(), racing=False, report_loader=REPORT)
    return of_front(found.front), steps(found.history), found.front.report_accuracy.tolist()


def limited(at: torch.device) -> Any:
    problem = posed(at, costs=("total_bits", "activation_bytes"), limits={"activation_bytes": 70})
    return of_front(explored(problem, racing=False).front), problem.limits.costs[0].name


def for_a_target(at: torch.device) -> Any:
    model = weighted_model(tiny_network().to(at))
    problem = qx.LayerwiseQuantizationProblem(model, search_loader(), target=TARGET, min_accuracy=0.5)
    return of_front(explored(problem, racing=False).front), str(problem.describe()).split("engine")[0]


def of_several_metrics(at: torch.device) -> Any:
    metrics = [qx.top1_accuracy, qx.negative_log_likelihood]
    problem = posed(at, metric=metrics, min_accuracy=[0.5, None], max_drop=[None, 0.5])
    return of_front(explored(problem, racing=False).front)


def pinned_and_tied(at: torch.device) -> Any:
    problem = posed(at, pinned={"input": 8}, tied=[["relu1", "relu2"]])
    return of_front(explored(problem, racing=False).front)


def with_early_stop(at: torch.device) -> Any:
    return of_front(explored(posed(at)).front)[1:]  # of two with the same score and cost the first one stays


def with_screening(at: torch.device) -> Any:
    problem = posed(at, loader=search_loader() * 21)
    rows = np.array([(2, 2, 2), (6, 6, 6), (3, 3, 3), (2, 2, 4)])
    found = list(problem.measure(rows, must_beat=np.array([0.9, 0.9, 0.0, 0.99]), screened=True))
    assert "chance" in found[0].reason
    assert [one.state for one in found] == ["stopped", "complete", "complete", "stopped"]
    return [
        (one.num_samples, str(one.score), one.bound, one.reason) for one in found if one.is_complete or one is found[0]
    ]


def with_callbacks(at: torch.device) -> Any:
    seen: list[Any] = []

    def stopping(snapshot: Any) -> None:
        seen.append(snapshot)
        if snapshot.num_evaluations >= 6:
            raise qx.StopExploration

    found = explored(posed(at), racing=False, callbacks=[stopping])
    assert seen == list(found.history)
    return steps(seen), of_front(found.front)


def of_tokens(at: torch.device) -> Any:
    images = [((x * 16).long().flatten(1), y) for x, y in search_loader(200)]
    model = qx.QuantizedModel(OfTokens().to(at), predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate([images[0][0]])
    problem = qx.LayerwiseQuantizationProblem(model, images, qx.negative_log_likelihood, choices=range(2, 9))
    assert problem.evaluator.description.startswith("prefix")
    return str(model.points), of_front(explored(problem, max_evaluations=12, racing=False).front)


def pictures(at: torch.device) -> Any:
    found = explored(posed(at), racing=False, report_loader=REPORT)
    records = [
        report.pareto_front_record(found),
        report.num_bits_record(found),
        report.parallel_coordinates_record(found),
        report.layer_analysis_record(qx.analyze(tiny(at), search_loader(), num_bits=4)),
        report.sensitivity_record(qx.sensitivity(posed(at))),
    ]
    for figure in (report.plot_pareto_front(found), report.plot_hypervolume(found), report.plot_num_bits(found)):
        pyplot.close(figure)
    return list(map(str, records))


def fitted(at: torch.device) -> Any:
    found = qx.fit(tiny(at), search_loader(), max_drop=0.05, max_evaluations=20)
    return found.num_bits, found.accuracy


def through_the_pipeline(at: torch.device) -> Any:
    data = {"calibration": batches(digits().calibration), "held_out": REPORT, "train": batches(digits().train)[:2]}
    network, talk = trained("small_cnn").to(at), Transcript()
    subject = Subject(name="cnn", network=network, metric=qx.top1_accuracy, task_loss=F.cross_entropy, **data)
    found = run_pipeline(subject, talk, Options(epochs=1, evaluations=8, explore=True, qat=False))
    assert {parameter.device for parameter in network.parameters()} == {at}
    assert found.exploration is not None
    return [question for question, _ in talk.questions], found.quantized.accuracy, of_front(found.exploration.front)


FEATURES: dict[str, Callable[[torch.device], Any]] = {
    **{name: partial(by, lambda name=name: name) for name in ALGORITHMS},
    "an object of pymoo": partial(by, lambda: SPEA2(pop_size=10)),
    "limits": limited,
    "a target": for_a_target,
    "several metrics": of_several_metrics,
    "pinned and tied": pinned_and_tied,
    "early stop": with_early_stop,
    "screening": with_screening,
    "callbacks": with_callbacks,
    "tokens": of_tokens,
    "pictures": pictures,
    "fit": fitted,
    "pipeline": through_the_pipeline,
}


ALIKE = {*ALGORITHMS, "an object of pymoo", "pipeline", "a target", "tokens"} - {"nsga2"}
"""What goes the way of another one, or is looked at elsewhere: tried with the slow tests."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in FEATURES])
def test_it_goes_the_same_way_as_on_the_cpu(accelerator: torch.device, name: str) -> None:
    torch.manual_seed(0)
    expected = FEATURES[name](CPU)
    torch.manual_seed(0)
    assert FEATURES[name](accelerator) == expected


def test_a_stopped_candidate_costs_by_the_batches_of_the_device(accelerator: torch.device) -> None:
    """One batch there, so that nothing is stopped: the search goes as it does on the CPU without early stop."""
    without, there = explored(posed(CPU), racing=False), explored(posed(accelerator))
    assert steps(there.history) == steps(without.history)
    stopped = explored(posed(CPU))
    assert stopped.num_evaluations > there.num_evaluations
    assert stopped.num_passes <= 20
    assert np.array_equal(stopped.front.accuracy, there.front.accuracy)
