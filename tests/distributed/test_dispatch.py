"""Who gets what, and what happens to the task of a worker that is lost or slow."""

from collections import Counter

import numpy as np
import pytest
from crews import CrewHere

from qexplore.distributed import Answer, Dispatcher, Task


class Scripted(CrewHere):
    """Answers with the candidates themselves."""

    def _answer(self, worker, task):
        return Answer(tuple(map(tuple, task.candidates.tolist())), 0.1 * len(task))


def tasks_of(*sizes, question="evaluate"):
    starts = np.cumsum((0, *sizes))
    rows = np.arange(sum(sizes))[:, None]
    return [Task("search", question, tuple(range(a, b)), rows[a:b]) for a, b in zip(starts, starts[1:], strict=False)]


def places(found):
    return sorted(place for task, _ in found for place in task.places)


def test_every_task_is_answered_once_in_the_order_in_which_answers_come():
    crew = Scripted(2, lambda worker, task: 1.0 if worker else 0.3)
    found = list(Dispatcher(crew, 3).answered(tasks_of(4, 2, 2, 1)))
    assert places(found) == list(range(9))
    assert [task.places[0] for task, _ in found] == [0, 6, 8, 4]


def test_the_task_of_a_lost_worker_is_given_again():
    left = ["the machine is gone"]
    crew = Scripted(2, lambda worker, task: left.pop() if left else 0.1)
    found = list(Dispatcher(crew, 3).answered(tasks_of(3, 3)))
    assert places(found) == list(range(6))
    assert Counter(task.places for _, task in crew.given) == {(0, 1, 2): 2, (3, 4, 5): 1}
    assert crew.events == ["a worker was lost, and its 3 candidates were given to another: the machine is gone"]


@pytest.mark.parametrize("most_lost", [1, 3])
def test_one_candidate_that_takes_workers_along_fails_alone_and_says_why(most_lost):
    crew = Scripted(2, lambda worker, task: "out of memory" if 2 in task.places else 0.1)
    found = list(Dispatcher(crew, most_lost).answered(tasks_of(4, 4)))
    assert places(found) == list(range(8))
    [failed] = [answer.values[0] for task, answer in found if task.places == (2,)]
    assert failed.state == "failed"
    assert failed.candidate == (2,)
    words = "1 worker was" if most_lost == 1 else "3 workers were"
    assert failed.reason == f"{words} lost with it, the last time: out of memory"
    assert sum(2 in task.places for _, task in crew.given) == most_lost + (most_lost == 1)


def test_a_look_that_takes_workers_along_is_an_error_of_that_candidate():
    crew = Scripted(1, lambda worker, task: "killed")
    [(_, answer)] = Dispatcher(crew, 2).answered(tasks_of(1, question="scores_on_subset"))
    assert "candidate (0,) fails: 2 workers were lost" in str(answer.error)


def test_a_slow_worker_s_task_is_given_to_another_and_the_first_answer_taken():
    crew = Scripted(2, lambda worker, task: 1000.0 if worker == 0 else 0.2)
    found = list(Dispatcher(crew, 3).answered(tasks_of(2, 2, 2)))
    assert places(found) == list(range(6))
    assert crew.now() < 10
    assert [worker for worker, task in crew.given if task.places == (0, 1)] == [0, 1]
    assert "late" in crew.events[0]


def test_a_second_worker_that_is_lost_with_a_late_task_leaves_it_to_the_first():
    def fault(worker, task):
        return 60.0 if worker == 0 else "gone" if 0 in task.places and crew.now() < 50 else 0.2

    crew = Scripted(2, fault)
    assert places(Dispatcher(crew, 3).answered(tasks_of(2, 2))) == list(range(4))


def test_answers_to_a_call_that_was_given_up_are_not_taken_for_those_of_the_next():
    crew = Scripted(2, lambda worker, task: 5.0 if len(crew.given) == 1 else 0.1)
    dispatcher = Dispatcher(crew, 3)
    calls = dispatcher.answered(tasks_of(2, 2, 2))
    next(calls)
    calls.close()
    second = tasks_of(2, 2, 2)
    found = list(dispatcher.answered(second))
    assert {id(task) for task, _ in found} <= {id(task) for task in second}
    assert places(found) == list(range(6))


def test_nothing_to_do_is_done_at_once():
    assert list(Dispatcher(Scripted(2), 3).answered([])) == []


def test_a_call_inside_another_takes_none_of_its_answers():
    crew = Scripted(2)
    dispatcher = Dispatcher(crew, 3)
    found, inner = [], []
    for one in dispatcher.answered(tasks_of(2, 2, 2, 2)):
        found.append(one)
        inner.append(places(dispatcher.answered(tasks_of(1, 1))))
    assert places(found) == list(range(8))
    assert inner == [[0, 1]] * 4
