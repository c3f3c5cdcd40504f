"""The same search through workers: what is sent, what comes back, and that nothing depends on who is faster."""

import numpy as np
import pytest
from crews import CrewHere
from networks import batches, digits
from problems import search_loader, tiny_problem, weighted_model

import qexplore as qx
from qexplore.distributed import evaluator as evaluator_module


@pytest.fixture
def here(monkeypatch):
    """`RayWorkers` whose crew is in this process."""

    def put(crew):
        monkeypatch.setattr(evaluator_module, "RayCrew", lambda *_: crew)
        return crew

    return put


def told(exploration):
    """All of it but times."""
    return (
        exploration.front.to_json(),
        [(s.num_evaluations, s.num_passes, s.hypervolume, s.generation) for s in exploration.history],
        [s.front.num_bits.tolist() for s in exploration.history],
        exploration.num_evaluations,
        exploration.num_passes,
        exploration.num_report_passes,
        exploration.judge,
    )


def share_of_right(model, loader):
    return float(sum((model(x).argmax(1) == y).sum() for x, y in loader)) / 400


CASES = {
    "racing, a report set": lambda: (
        tiny_problem(upper=8, min_accuracy=0.85),
        {"report_loader": batches(digits().report)},
    ),
    "screening": lambda: (
        tiny_problem(upper=8, min_accuracy=0.85, loader=[one for _ in range(21) for one in search_loader()]),
        {"max_evaluations": 12},
    ),
    "weights, several costs": lambda: (
        qx.LayerwiseQuantizationProblem(
            weighted_model(), search_loader(), min_accuracy=0.85, costs=("total_bits", "model_bytes")
        ),
        {},
    ),
    "a whole-set metric": lambda: (tiny_problem(qx.whole_set(share_of_right), upper=8, min_accuracy=0.85), {}),
    "two metrics": lambda: (
        tiny_problem((qx.top1_accuracy, qx.negative_log_likelihood), upper=8, min_accuracy=(0.85, 1.0)),
        {},
    ),
    "a plain algorithm": lambda: (tiny_problem(upper=8), {"algorithm": "nsga2-plain", "population_size": 10}),
}


@pytest.mark.parametrize("case", CASES)
def test_workers_give_the_front_and_the_history_of_one_process(case, here):
    def explored(**options):
        problem, given = CASES[case]()
        return qx.explore(problem, **({"max_evaluations": 20, "seed": 1} | given | options))

    crew = here(CrewHere(2, lambda worker, task: 0.1 * len(task) * (1 + worker)))
    assert told(explored(workers=qx.RayWorkers(num_workers=2))) == told(explored())
    assert {worker for worker, _ in crew.given} == {0, 1}


def test_lost_and_slow_workers_change_nothing(here):
    rng = np.random.default_rng(0)

    def fault(worker, task):
        return "killed" if rng.random() < 0.2 else float(rng.exponential(1.0))

    crew = here(CrewHere(2, fault))
    one, other = (
        qx.explore(tiny_problem(upper=8, min_accuracy=0.85), max_evaluations=25, seed=1, workers=workers)
        for workers in (qx.RayWorkers(num_workers=2, most_lost=50), None)
    )
    assert told(one) == told(other)
    assert sum("lost" in event for event in crew.events) > 5
    assert one.workers.events == tuple(crew.events)


def test_a_study_knows_what_workers_measured(here, tmp_path):
    crew = here(CrewHere(2))
    options = {"max_evaluations": 20, "seed": 1, "study": tmp_path / "study.db"}
    first = qx.explore(tiny_problem(upper=8, min_accuracy=0.85), workers=qx.RayWorkers(num_workers=2), **options)
    count = len(crew.given)
    again = qx.explore(tiny_problem(upper=8, min_accuracy=0.85), workers=qx.RayWorkers(num_workers=2), **options)
    alone = qx.explore(tiny_problem(upper=8, min_accuracy=0.85), **options)
    assert told(first) == told(again) == told(alone)
    assert len(crew.given) == count, "all of it was in the study"


def test_a_network_that_changes_while_it_is_explored_is_sent_again(here):
    def explored(**options):
        problem = tiny_problem(upper=8)

        def change(snapshot):
            if snapshot.num_evaluations == 7:
                problem.model.model.fc3.bias.data += 0.5

        return qx.explore(problem, max_evaluations=20, seed=1, callbacks=[change], **options)

    here(CrewHere(2))
    assert told(explored(workers=qx.RayWorkers(num_workers=2))) == told(explored())


def test_who_measured_what_is_told(here):
    here(CrewHere(2))
    found = qx.explore(tiny_problem(upper=8), max_evaluations=20, seed=1, workers=qx.RayWorkers(num_workers=2))
    known = {tuple(row) for row in found.front.num_bits.tolist()}
    assert known <= {*found.workers.measured_by} | {(8, 8, 8)}
    assert all("process" in name for name in found.workers.measured_by.values())


def test_the_problem_remembers_what_workers_measured(here):
    problem = tiny_problem(upper=8)
    here(CrewHere(2))
    found = qx.explore(problem, max_evaluations=20, seed=1, workers=qx.RayWorkers(num_workers=2))
    assert len(problem.evaluations) >= found.num_evaluations


def test_larger_generations_are_another_run_of_a_study_and_keep_the_old_ones_runs(tmp_path):
    options = {"seed": 1, "study": tmp_path / "study.db"}
    for size in (None, 16, None):
        qx.explore(tiny_problem(upper=8), max_evaluations=25, generation_size=size, **options)
    runs = [run.settings.get("generation_size") for run in qx.Study.open(tmp_path / "study.db").runs]
    assert runs == [None, 16]
    found = qx.resume(tmp_path / "study.db", tiny_problem(upper=8), run=2)
    later = [one for one in found.history if one.generation > 1]
    assert max(b.num_evaluations - a.num_evaluations for a, b in zip(later, later[1:], strict=False)) <= 16
