"""Searches over weights and activations, formats, pinned and tied points, under several costs and limits."""

import itertools

import numpy as np
import pytest
from networks import batches, digits
from problems import correct, search_loader, state_of, weighted_model
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.indicators.hv import HV
from pymoo.optimize import minimize
from pymoo.util.ref_dirs import get_reference_directions

import qexplore as qx
from qexplore.cost import build_costs
from qexplore.errors import ProblemError

WEIGHTS, ACTIVATIONS = (2, 3, 4, "E2M1", "MXE2M1", 8), (2, 3, "E3M2", 8, "off")
NAMES = ("input", "relu1", "relu2", "fc1.weight", "fc2.weight", "fc3.weight")
ALLOWED = {"weights": {2, 3, 4, 201, 1201, 8}, "activations": {2, 3, 302, 8, 0}}
MOST_BOPS = 40_000
MACS = np.array([64 * 16, 16 * 12, 12 * 10])


def control(**options):
    """fc3's weight is 4 bits, the other two weights share a choice, and there is a limit."""
    return {
        "choices": {"weights": WEIGHTS, "activations": ACTIVATIONS},
        "pinned": {"fc3.weight": 4},
        "tied": [["fc1.weight", "fc2.weight"]],
        "costs": ("model_bytes", "bops"),
        "limits": {"bops": MOST_BOPS},
        "min_accuracy": 0.6,
        **options,
    }


def problem_of(model=None, **options):
    model = weighted_model() if model is None else model
    return qx.LayerwiseQuantizationProblem(model, search_loader(100), **control(**options))


def explored(problem, *, max_evaluations=36, **options):
    options = {"seed": 1, "progress": False, "judge": "accuracy", **options}
    return qx.explore(problem, max_evaluations=max_evaluations, population_size=10, **options)


def bops(candidates):
    """By hand: every layer's MACs times the bits of its weight and of what it takes; off is 32."""
    table = {0: 32, 201: 4, 302: 6, 1201: 4}  # the scale of an MX block is no factor
    bits = np.vectorize(lambda code: table.get(code, code), otypes=[float])(candidates)
    return (MACS * bits[:, :3] * bits[:, 3:]).sum(axis=1)


def dominated(rows):
    """Of objectives to minimise, shape [N, M], those that another row beats; every pair is compared."""
    no_worse = (rows[:, None] <= rows[None]).all(axis=2)
    better = (rows[:, None] < rows[None]).any(axis=2)
    return (no_worse & better).any(axis=0)


def require_obedient(front, problem):
    assert front.point_names == NAMES
    assert front.cost_names == ("model_bytes", "bops")
    assert len(front) > 3
    for row in front.num_bits.tolist():
        assert set(row[:3]) <= ALLOWED["activations"]
        assert set(row[3:]) <= ALLOWED["weights"]
        assert row[5] == 4
        assert row[3] == row[4]
    assert (front.accuracy >= 0.6).all()
    assert (front.costs[:, 1] <= MOST_BOPS).all()
    assert front.costs[:, 1] == pytest.approx(bops(front.num_bits))
    built = build_costs(("model_bytes", "bops"), problem.model)
    assert front.costs.tolist() == np.stack([cost.cost(front.num_bits) for cost in built], axis=1).tolist()
    counts = [correct(problem.model, row) for row in front.num_bits.tolist()]
    assert (front.accuracy * 400).round().tolist() == counts
    assert not dominated(np.column_stack([-front.accuracy, front.costs])).any()


@pytest.mark.parametrize(
    "algorithm", ["nsga2", "nsga2-plain", pytest.param("nsga3", marks=pytest.mark.slow), "greedy", "random"]
)
def test_every_front_is_true_and_obeys_ties_pins_and_limits(algorithm):
    problem = problem_of()
    before = state_of(problem.model)
    exploration = explored(problem, algorithm=algorithm)
    assert exploration.front.verified
    assert exploration.num_evaluations > 10
    require_obedient(exploration.front, problem)
    for evaluation in problem.evaluations:
        assert evaluation.candidate[3] == evaluation.candidate[4]
        assert evaluation.candidate[5] == 4
    assert state_of(problem.model) == before


def test_nothing_measured_beats_the_front():
    problem = problem_of()
    exploration = explored(problem, racing=False)
    feasible = [evaluation for evaluation in problem.evaluations if problem.is_feasible(evaluation)]
    rows = problem.objectives(feasible)
    best = {tuple(row) for row in rows[~dominated(rows)].tolist()}
    front = exploration.front
    assert set(map(tuple, np.column_stack([-front.accuracy, front.costs]).tolist())) == best
    limits = [problem.constraints([evaluation])[0].tolist() for evaluation in feasible]
    assert all(len(row) == 2 and max(row) <= 0 for row in limits)


def test_a_search_to_the_end_finds_the_whole_front_in_three_objectives():
    choices = {"weights": (2, 4, "E2M1"), "activations": (2, 8), "relu2": (3, "off")}
    problem = problem_of(choices=choices, min_accuracy=None, limits={"bops": 40_000})
    exploration = explored(problem, max_evaluations=100)
    everything = [
        (first, second, third, weight, weight, 4)
        for first, second, third, weight in itertools.product((2, 8), (2, 8), (3, 0), (2, 4, 201))
    ]
    rows = np.array([row for row in everything if bops(np.array([row]))[0] <= 40_000])
    assert 12 < len(rows) < len(everything)
    accuracy = np.array([correct(problem.model, row) / 400 for row in rows.tolist()])
    (model_bytes,) = build_costs(("model_bytes",), problem.model)
    objectives = np.column_stack([-accuracy, model_bytes.cost(rows), bops(rows)])
    expected = {tuple(row) for row in objectives[~dominated(objectives)].round(9).tolist()}
    front = exploration.front
    found = np.column_stack([-front.accuracy, front.costs]).round(9)
    assert set(map(tuple, found.tolist())) == expected
    assert exploration.stopped_by == "exhausted"
    assert len(expected) > 4


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_another_differs():
    def run(seed):
        front = explored(problem_of(), seed=seed, max_evaluations=40).front
        return front.num_bits.tolist(), front.accuracy.tolist(), front.costs.tolist()

    first = run(1)
    assert first == run(1)
    assert run(2) != first


def test_the_hypervolume_is_pymoos_over_three_axes_and_only_grows():
    exploration = explored(problem_of(), report_loader=batches(digits().report))
    front = exploration.front
    assert len(front.report_accuracy) == len(front)
    accuracy, *costs = exploration.reference_point
    assert len(costs) == 2
    volume = HV(ref_point=np.array([-accuracy, *costs]))(np.column_stack([-front.accuracy, front.costs]))
    assert exploration.history[-1].hypervolume == pytest.approx(volume)
    assert all(a.hypervolume <= b.hypervolume * (1 + 1e-9) for a, b in itertools.pairwise(exploration.history))


def test_candidates_of_ones_own_may_hold_formats_and_are_measured_first():
    own = [[8, 3, "off", "E2M1", "E2M1", 4], [3, "E3M2", 8, "MXE2M1", (2, 1, 32), 4]]
    problem = problem_of()
    explored(problem, max_evaluations=12, initial=own, racing=False)
    measured = [evaluation.candidate for evaluation in problem.evaluations]
    assert {(8, 3, 0, 201, 201, 4), (3, 302, 8, 1201, 1201, 4)} <= set(measured[:14])


@pytest.mark.parametrize(
    ("initial", "sentence"),
    [
        ([[8, 3, 0, 201, 1201, 4]], "must give tied points one choice"),
        ([[8, 3, 0, 201, 201, 8]], "must keep to the search's choices, but candidate .* has 8"),
        ([[8, 3, 0, 201, 4]], "must be candidates of 6 choices each"),
        ([[8, 3, "E9M9", 4, 4, 4]], "must hold whole numbers or formats, got 'E9M9'"),
    ],
)
def test_candidates_of_ones_own_that_break_the_rules_are_refused(initial, sentence):
    with pytest.raises(ProblemError, match=sentence):
        explored(problem_of(), initial=initial)


def test_a_limit_that_nothing_meets_is_refused_up_front():
    with pytest.raises(ProblemError, match="bops"):
        problem_of(limits={"bops": 100})


@pytest.mark.parametrize(
    "algorithm",
    [NSGA2(pop_size=12), NSGA3(ref_dirs=get_reference_directions("das-dennis", 3, n_partitions=3))],
    ids=["nsga2", "nsga3"],
)
def test_pymoos_own_algorithms_search_places_in_the_choices(algorithm):
    problem = problem_of()
    assert not problem.space.has_widths
    # Genes: three activations, the tied pair, the pinned weight.
    assert (problem.n_var, problem.n_obj, problem.n_ieq_constr) == (5, 3, 2)
    assert (problem.xl.tolist(), problem.xu.tolist()) == ([0] * 5, [4, 4, 4, 5, 0])
    result = minimize(problem, algorithm, ("n_gen", 5), seed=1)
    candidates = problem.space.decode(result.X)
    assert result.F.shape == (len(candidates), 3)
    assert -result.F[:, 0] * 400 == pytest.approx([correct(problem.model, row) for row in candidates.tolist()])
    assert result.F[:, 2] == pytest.approx(bops(candidates))
    assert (result.G <= 0).all()
    assert not dominated(result.F).any()
    front = problem.front()
    require_obedient(front, problem)
    best = set(map(tuple, np.column_stack([-front.accuracy, front.costs]).round(9).tolist()))
    assert {tuple(row) for row in result.F.round(9).tolist()} <= best


def test_a_chosen_point_is_set_on_the_model_with_its_formats():
    problem = problem_of()
    front = explored(problem).front
    for point in front:
        problem.model.num_bits = point.num_bits
        assert problem.model.num_bits.tolist() == list(point.num_bits)
        assert set(point.widths) == set(NAMES)
        problem.model.num_bits = point.widths
        assert problem.model.num_bits.tolist() == list(point.num_bits)


@pytest.mark.parametrize("granularity", ["tensor", 16])
def test_weights_alone_are_searched_without_any_activation(granularity):
    model = qx.QuantizedModel(weighted_model().detach(), weights=qx.predicates.weighted, weight_granularity=granularity)
    model.calibrate(batches(digits().calibration)[:1])
    problem = qx.LayerwiseQuantizationProblem(
        model, search_loader(100), choices=(2, 3, "E2M1", 8), costs=("model_bits", "total_bits"), min_accuracy=0.5
    )
    front = explored(problem, max_evaluations=40).front
    assert front.verified
    assert front.point_names == NAMES[3:]
    for point in front:
        assert round(point.accuracy * 400) == correct(model, point.num_bits)
    elements = np.array([1024, 192, 120])
    bits = np.where(front.num_bits == 201, 4, front.num_bits)
    # A point's cost grows with its weight's bits by as many bits as it has values; scales and biases are the same.
    overhead = front.costs[:, 0] - (bits * elements).sum(axis=1)
    assert np.ptp(overhead) == pytest.approx(0, abs=1e-6)
