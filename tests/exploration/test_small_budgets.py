"""What a search does with few passes or few seconds: a smaller table, and everything measured is in the front."""

import time

import numpy as np
import pytest
import torch
from problems import search_loader, tiny_problem, true_front
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.search.sensitivity import quick_table


@pytest.mark.parametrize(
    ("most_passes", "count", "text"),
    [
        (3.0, 57, None),  # as ever: as many samples as can be afforded
        (0.45, 8, None),
        (0.3, 5, "which has 5 samples of every choice (all 21 choices on 8 samples take 0.42 passes)"),
        (0.1, 4, "4 samples of 3 of each point's choices, the others estimated"),
        (0.06, 4, "4 samples of 2 of each point's choices"),
        (0.03, 4, "4 samples of 1 of each point's choices"),
        (0.001, 0, "a sensitivity table, so that all points are taken to suffer alike (all 21 choices"),
    ],
)
def test_a_table_gets_smaller_with_what_it_may_cost_and_says_what_it_lacks(most_passes, count, text):
    problem = tiny_problem(upper=8)
    table, passes = quick_table(problem, most_passes)
    assert passes <= most_passes
    assert table.num_samples == count
    assert [len(row) for row in table.values] == [7, 7, 7]
    if text is None:
        assert table.lacking is None
        return
    assert text in table.lacking.text and text in str(table)
    assert table.lacking.num_passes == pytest.approx(21 * 8 / 400)
    falling = np.diff(np.log(np.array(table.values)), axis=1)
    assert (falling.mean(axis=0) < 0).all()  # of few samples a point alone may do otherwise
    if "of 1 of" in text:
        assert falling == pytest.approx(-np.log(4))


def test_estimated_choices_lie_between_measured_ones_and_off_costs_nothing():
    problem = tiny_problem(choices=(2, 3, 4, 8, "E4M3", "off"), lower=None, upper=None)
    table, _ = quick_table(problem, 10 * 4 / 400)
    assert "3 of each" in table.lacking.text
    whole = qx.sensitivity(problem, num_samples=table.num_samples).values
    for row, known in zip(table.values, whole, strict=True):
        assert (row[0], row[-1]) == (known[0], 0.0)
        assert row[4] == known[4]  # the widest that is quantized
    assert (np.diff(np.mean(table.values, axis=0)[:3]) < 0).all()  # of few samples a point alone may do otherwise


def test_a_search_says_what_table_it_did_without_and_what_budget_has_it():
    def run(budget):
        problem = tiny_problem(upper=8, loader=[(x[:20], y[:20]) for x, y in search_loader()])
        return qx.explore(problem, max_evaluations=budget, seed=1, progress=False)

    short = run(16)
    assert "left out: a part of the sensitivity table" in str(short)
    enough = int(short.left_out.split("max_evaluations=")[1].split()[0])
    assert enough == 7 + 17  # 21 choices on 8 of 20 samples take 8.4 passes, half of what the uniform widths leave
    assert run(enough).left_out == "" and run(enough - 1).left_out
    alike = qx.explore(tiny_problem(qx.whole_set(lambda model, loader: 0.5)), max_evaluations=9, seed=1, progress=False)
    assert "reads the set itself" in alike.left_out and "max_evaluations" not in alike.left_out


def test_points_whose_width_changes_nothing_get_their_narrowest():
    torch.manual_seed(0)
    layers = []
    for place in range(12):
        layer = nn.Linear(12, 12, bias=False)
        if place % 2:
            layer.weight = nn.Parameter(torch.eye(12)[torch.randperm(12)])  # zeros and ones: every width has them
        layers += [layer, nn.Tanh()]
    network = nn.Sequential(*layers).eval().requires_grad_(False)
    x = torch.randn(60, 12)
    data = [(x, network(x).argmax(1))]
    model = qx.QuantizedModel(network, None, predicates.weighted)
    model.calibrate(data, weight_method="max")
    problem = qx.LayerwiseQuantizationProblem(model, data)
    found = qx.explore(problem, max_evaluations=28, seed=1, judge="accuracy", progress=False)
    assert found.left_out
    assert (found.front.num_bits[:, 1::2] == 2).all()


class Branching(nn.Module):
    """Cannot be traced: what it does hangs on values, or on the number of samples."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[module for _ in range(3) for module in (nn.Linear(8, 8), nn.ReLU())])
        self.only = None

    def forward(self, x, mask):
        if mask.sum() > 0:
            x = x * mask
        if self.only and len(x) != self.only:
            raise RuntimeError(f"takes {self.only} samples")
        return self.layers(x)


def branching_problem(sizes=(40,), only=None, engine="auto", hold_bytes=None, odd=False):
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.head = Branching(), nn.Linear(8, 4)

        def forward(self, x, mask, shift=0.0):
            return self.head(self.part(x + shift, mask))

    network = Network().eval().requires_grad_(False)
    data = []
    for size in sizes:
        inputs = torch.randn(size, 8), torch.ones(size, 8).bool(), *([torch.tensor(1.0)] if odd else [])
        data.append((inputs, network(*inputs).argmax(1)))
    model = qx.QuantizedModel(network, predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate(data)
    network.part.only = only
    return qx.LayerwiseQuantizationProblem(
        model, data, num_bits_lower_limit=2, num_bits_upper_limit=8, engine=engine, hold_bytes=hold_bytes
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sizes": (10,) * 4},
        {"sizes": (7, 13, 20)},
        {"odd": True},  # a number among the inputs: nobody cuts such batches
        {"odd": True, "engine": "direct", "sizes": (30, 5, 5)},
        {"only": 40},
        {"only": 10, "sizes": (10,) * 4},
        {"engine": "direct"},
        {"engine": "direct", "hold_bytes": 0, "sizes": (30, 5, 5)},
        {"hold_bytes": 0, "sizes": (20, 20)},
    ],
    ids=str,
)
@pytest.mark.parametrize("algorithm", ["nsga2", pytest.param("greedy", marks=pytest.mark.slow)])
def test_passes_are_kept_to_whatever_batches_are_run_whole(options, algorithm, monkeypatch):
    problem = branching_problem(**options)
    ran = []
    asked = problem.scores_on_subset

    def watched(candidates, *arguments, **keywords):
        scores = asked(candidates, *arguments, **keywords)
        ran.append(scores.size / problem.num_samples)
        return scores

    monkeypatch.setattr(problem, "scores_on_subset", watched)
    for budget in (12, 30):
        ran.clear()
        found = qx.explore(problem, max_evaluations=budget, seed=1, algorithm=algorithm, progress=False)
        assert sum(ran) <= (budget - 7) * 3 / 4  # the table takes half of what is left, looks a part of the rest
        assert found.num_passes <= budget
        assert found.num_evaluations >= 7
        assert bool(ran) or "left out" in str(found)


def test_a_batch_that_is_too_dear_whole_is_cut_and_one_that_is_not_stays_whole():
    problem = branching_problem()
    total = sum(map(len, problem.space.choices))
    assert problem.evaluator.subset_size(8) == 40 and problem.direct.subset_size(8) == 8
    table, passes = quick_table(problem, total * 8 / 40)
    assert (table.num_samples, table.lacking, passes) == (8, None, pytest.approx(total * 8 / 40))
    table, passes = quick_table(problem, total)
    assert (table.num_samples, table.lacking, passes) == (40, None, total)


@pytest.mark.parametrize(
    "options", [pytest.param({"odd": True}, marks=pytest.mark.slow), {"odd": True, "sizes": (3,) * 9}]
)
def test_the_budget_that_is_named_has_the_whole_table_of_whole_batches(options):
    short = qx.explore(branching_problem(**options), max_evaluations=12, seed=1, progress=False)
    enough = int(short.left_out.split("max_evaluations=")[1].split()[0])
    for budget, has_it in ((enough - 1, False), (enough, True)):
        found = qx.explore(branching_problem(**options), max_evaluations=budget, seed=1, progress=False)
        assert (found.left_out == "") == has_it
        assert found.history[-1].num_passes <= budget


def test_a_part_of_a_batch_that_takes_as_long_as_a_pass_is_in_the_table_by_its_time(monkeypatch):
    problem, now = branching_problem(engine="direct"), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    network = problem.model.model
    network.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 1.0))
    start, limit = now[0], 60.0
    found = qx.explore(problem, max_seconds=limit, max_evaluations=500, seed=1, progress=False)
    assert found.stopped_by == "max_seconds"
    assert found.history[-1].seconds <= limit + 1
    assert now[0] - start <= limit + 3
    assert "max_seconds have it" in found.left_out and "max_evaluations" not in found.left_out


class Clock:
    """A clock that goes on by a second for each time that a metric is asked, and stands still otherwise."""

    __name__ = "clock"

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def __call__(self, output, target):
        self.now += 1.0
        return qx.top1_accuracy(output, target)


@pytest.mark.parametrize(
    ("engine", "seconds_each", "algorithm"),
    [("direct", 1, "nsga2"), ("direct", 1, "greedy"), ("direct", 1, "random"), ("prefix", 13, "nsga2")],
)
@pytest.mark.parametrize("count", [4, 19])
def test_seconds_are_kept_to_and_everything_measured_is_in_the_front(
    count, engine, seconds_each, algorithm, monkeypatch
):
    clock = Clock(monkeypatch)
    problem = tiny_problem(clock, upper=8, engine=engine)
    start, limit = clock.now, (count + 0.5) * seconds_each
    found = qx.explore(problem, max_seconds=limit, seed=1, algorithm=algorithm, judge="accuracy", progress=False)
    assert found.stopped_by == "max_seconds"
    assert found.history[-1].seconds <= limit + seconds_each
    assert clock.now - start <= limit + (2 if count > 7 else 1 + len(found.front)) * seconds_each
    beside = 7 if algorithm == "random" and count > 7 else 0  # uniform widths stand beside a search that had its time
    measured = problem.evaluations[beside:]
    assert found.num_evaluations == len(measured)
    feasible = [(known.score, sum(known.candidate)) for known in measured if known.is_complete]
    assert {(point.accuracy, point.total_bits) for point in found.front} == true_front(feasible)


def test_a_clock_that_is_up_at_once_leaves_the_widest_candidate_and_one_that_is_not_leaves_all_uniform_widths():
    problem = tiny_problem(upper=8)
    found = qx.explore(problem, max_seconds=1e-6, seed=1, algorithm="nsga2-plain", progress=False)
    assert (found.stopped_by, found.num_evaluations, len(found.front)) == ("max_seconds", 1, 1)
    assert found.front[0].num_bits == (8, 8, 8)


def test_an_algorithm_at_its_end_and_a_space_at_its_end_are_told_apart():
    ladder = qx.explore(tiny_problem(upper=8), max_evaluations=400, seed=1, algorithm="greedy", progress=False)
    assert (ladder.stopped_by, ladder.num_evaluations < 343) == ("nothing new", True)
    space = qx.explore(tiny_problem(), max_evaluations=400, seed=1, progress=False, racing=False)
    assert (space.stopped_by, space.num_evaluations) == ("exhausted", 27)
