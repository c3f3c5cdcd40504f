"""The sensitivity table, against evaluations by hand."""

import csv
import io

import numpy as np
import pytest
import torch
from problems import search_loader, tiny_model, tiny_network, tiny_problem

import qexplore as qx
from qexplore import predicates
from qexplore._choices import FloatFormat
from qexplore.errors import EvaluationError, MetricError, ProblemError
from qexplore.metrics import kl_divergence
from qexplore.search.sensitivity import quick_table


def by_hand(problem, point, width, divergence):
    """Mean divergence over the search set with one point quantized."""
    widths = [0] * problem.space.num_points
    model, values = problem.model, []
    for x, _ in search_loader():
        with torch.no_grad(), model.using(widths):
            reference = model(x)
        widths[point] = width
        with torch.no_grad(), model.using(widths):
            values.append(divergence(model(x), reference))
    return float(torch.cat(values).mean())


def test_every_width_of_every_point_is_measured_alone():
    problem = tiny_problem(lower=[2, 3, 2], upper=[4, 5, 3])
    table = qx.sensitivity(problem, num_samples=400)
    assert table.point_names == ("input", "relu1", "relu2")
    assert table.num_bits == ((2, 3, 4), (3, 4, 5), (2, 3))
    assert table.num_samples == 400
    for point, (widths, values) in enumerate(zip(table.num_bits, table.values, strict=True)):
        for width, value in zip(widths, values, strict=True):
            assert value == pytest.approx(by_hand(problem, point, width, kl_divergence), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("engine", ["prefix", "direct"])
def test_accuracy_is_what_the_problems_metric_loses(engine):
    problem = tiny_problem(engine=engine)
    table = qx.sensitivity(problem, "accuracy")
    for point, row in enumerate(table.values):
        for width, value in zip(table.num_bits[point], row, strict=True):
            candidate = np.zeros((1, 3), dtype=np.int64)
            candidate[0, point] = width
            score = next(problem.direct.evaluate(candidate)).score
            assert value == pytest.approx(problem.float_accuracy - score, abs=1e-6)


def test_where_lower_is_better_a_loss_is_still_positive():
    table = qx.sensitivity(tiny_problem(qx.negative_log_likelihood), "accuracy")
    assert max(max(row) for row in table.values) > 0.05


def test_a_whole_set_metric_is_measured_directly():
    calls = []

    def accuracy(model, loader):
        calls.append(1)
        hits = [(model(x).argmax(1) == y).float() for x, y in loader]
        return float(torch.cat(hits).mean())

    problem = tiny_problem(qx.whole_set(accuracy))
    table, same = qx.sensitivity(problem, "accuracy"), qx.sensitivity(tiny_problem(), "accuracy")
    assert np.allclose(table.values, same.values, atol=1e-6)
    with pytest.raises(EvaluationError, match="reads the set itself"):
        qx.sensitivity(problem, "kl")


@pytest.mark.parametrize("metric", ["mse", "sqnr", lambda output, reference: (output - reference).abs().amax(1)])
def test_other_measures_fall_with_the_width_too(metric):
    table = qx.sensitivity(tiny_problem(upper=8), metric, num_samples=100)
    for row in table.values:
        assert row[0] > row[3] > row[6] >= 0


def test_points_are_ranked_from_the_one_that_suffers_most():
    table = qx.SensitivityTable(
        ("a", "b", "c"), ((2, 3), (3, 4), (2, 4)), ((1.0, 0.9), (5.0, 0.1), (2.0, 0.2)), "m", "", 1
    )
    assert table.rank() == ("b", "c", "a")
    assert table.rank(4) == ("a", "c", "b")


@pytest.mark.parametrize("choice", ["E2M1", "e2m1", (2, 1), FloatFormat(2, 1)])
def test_points_are_ranked_at_a_format_too(choice):
    formats = ((4, 201, 403), (201, 0), (8,))
    table = qx.SensitivityTable(("a", "b", "c"), formats, ((1.0, 3.0, 0.5), (2.0, 0.0), (2.5,)), "m", "", 1)
    assert table.rank(choice) == ("a", "c", "b")
    assert table.rank(4) == ("c", "b", "a")
    assert table.rank("off") == ("c", "a", "b")


@pytest.mark.parametrize("choice", ["E9M9", 4.5, 99, -1, (1, 2), [3]])
def test_ranks_at_no_choice_are_refused(choice):
    table = qx.SensitivityTable(("a",), ((2, 3),), ((1.0, 0.9),), "m", "", 1)
    with pytest.raises(ProblemError, match="`num_bits` of rank must be an int"):
        table.rank(choice)


def test_what_is_no_problem_is_refused():
    with pytest.raises(ProblemError, match="`problem` must be a LayerwiseQuantizationProblem, got Tiny: make one of"):
        qx.sensitivity(tiny_network())


def test_the_table_is_text_and_csv(tmp_path):
    table = qx.SensitivityTable(
        ("a,b", "c"), ((2, 3), (3, 4)), ((1.5, 0.25), (np.inf, 0.125)), "KL divergence", "nats", 7
    )
    written = table.to_csv(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == written
    assert list(csv.reader(io.StringIO(written))) == [
        ["point", "2", "3", "4"],
        ["a,b", "1.5", "0.25", ""],
        ["c", "", "inf", "0.125"],
    ]
    assert "KL divergence in nats" in str(table)
    assert "7 samples" in str(table)


@pytest.mark.parametrize("metric", ["fisher", 3, None])
def test_an_unknown_measure_is_refused(metric):
    with pytest.raises(ProblemError, match="must be one of 'kl', 'mse', 'sqnr', 'accuracy' or a function"):
        qx.sensitivity(tiny_problem(), metric)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "many"])
def test_a_number_of_samples_is_a_positive_int(count):
    with pytest.raises(ProblemError, match="`num_samples` must be a positive int or None"):
        qx.sensitivity(tiny_problem(), num_samples=count)


def test_a_measure_that_gives_no_score_a_sample_is_named():
    with pytest.raises(MetricError, match="one score per sample"):
        qx.sensitivity(tiny_problem(), lambda output, reference: output.sum())


def test_a_quantizer_that_was_disabled_by_hand_stays_off():
    model = tiny_model()
    model.activation_fake_quantizers["relu1"].disable()
    table = qx.sensitivity(tiny_problem(model=model))
    assert table.num_bits[1] == (0,)
    assert table.values[1] == (0.0,)


def test_a_search_knows_what_its_table_cost_and_does_without_where_there_is_none():
    table, passes = quick_table(tiny_problem(upper=8))
    assert passes == pytest.approx(21 * table.num_samples / 400)
    alike, nothing = quick_table(tiny_problem(qx.whole_set(lambda model, loader: 0.5), upper=8))
    assert nothing == 0
    assert len(set(alike.values)) == 1
    assert alike.values[0][0] == 4 * alike.values[0][1]


class Regression(torch.nn.Module):
    """Ends in a ReLU, so that some samples come out near zero or zero."""

    def __init__(self, columns=1):
        super().__init__()
        self.fc1, self.relu, self.fc2 = torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, columns)

    def forward(self, x):
        return torch.relu(self.fc2(self.relu(self.fc1(x))))


def regression(size=200, columns=1, classes=False, **options):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = qx.QuantizedActivationsModel(Regression(columns), predicates.by_type(torch.nn.ReLU))
    x = torch.randn(200, 4, generator=generator)
    model.calibrate([x])
    y = torch.zeros(200, dtype=torch.int64) if classes else model(x).detach()
    data = list(zip(x.split(size), y.split(size), strict=True))
    metric = qx.Metric(lambda output, target: -output.abs().mean(1)) if classes else qx.squared_error
    return qx.LayerwiseQuantizationProblem(model, data, metric, **options)


@pytest.mark.parametrize("engine", ["prefix", "direct"])
@pytest.mark.parametrize("size", [1, 7, 200])
def test_sqnr_is_noise_power_over_signal_power_of_the_set(engine, size):
    problem = regression(size, engine=engine, num_bits_upper_limit=4)
    table = qx.sensitivity(problem, "sqnr", num_samples=200)
    x = torch.cat([x for x, _ in problem.direct.data])
    with torch.no_grad(), problem.model.using([0, 0]):
        reference = problem.model(x).numpy().astype(np.float64)
    for point, (widths, values) in enumerate(zip(table.num_bits, table.values, strict=True)):
        for width, value in zip(widths, values, strict=True):
            with torch.no_grad(), problem.model.using([width * (place == point) for place in range(2)]):
                noise = problem.model(x).numpy() - reference
            assert value == pytest.approx(np.square(noise).sum() / np.square(reference).sum(), rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"columns": 3}, {"classes": True}])
def test_outputs_that_are_no_logits_are_measured_by_their_noise(options):
    table = qx.sensitivity(regression(**options))
    assert table.metric_name == "noise to signal"
    assert min(row[0] for row in table.values) > 0
    if options.get("columns", 1) == 1:
        with pytest.raises(MetricError, match='two classes or more.*metric="sqnr"'):
            qx.sensitivity(regression(**options), "kl")


def test_logits_are_measured_by_their_divergence_unless_asked_otherwise():
    assert qx.sensitivity(tiny_problem()).metric_name == "KL divergence"
