"""Callbacks see frozen snapshots, when the front grows and when a generation ends."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from problems import correct, search_loader, tiny_model, tiny_network, tiny_problem

import qexplore as qx
from qexplore.search import Archive


def explored(callbacks, problem=None, **options):
    problem = problem or tiny_problem(upper=8, min_accuracy=0.8)
    options = {"max_evaluations": 30, "seed": 1, "population_size": 10, "progress": False, **options}
    return qx.explore(problem, callbacks=callbacks, **options)


def test_callbacks_see_each_step_in_the_order_of_the_history():
    first, second = [], []
    exploration = explored([first.append, second.append])
    assert first == second == list(exploration.history)
    assert all(one is other for one, other in zip(first, second, strict=True))


def test_they_are_called_when_the_front_grows_and_at_the_end_of_each_generation():
    problem, added = tiny_problem(upper=8, min_accuracy=0.8), []
    snapshots = []

    def watch(snapshot):
        snapshots.append(snapshot)
        added.append({point.num_bits for point in snapshot.front})

    exploration = explored([watch], problem, racing=False)
    # Replay: the archive of the evaluations in order says when the front grew.
    archive, grew_at = Archive(problem), []
    for number, evaluation in enumerate(_in_order(problem, exploration), start=1):
        if archive.add(evaluation):
            grew_at.append(number)
    ends = [last.num_evaluations for last in _last_of_each_generation(snapshots)]
    assert [snapshot.num_evaluations for snapshot in snapshots] == sorted(grew_at + ends)
    generations = [last.generation for last in _last_of_each_generation(snapshots)]
    assert generations == list(range(1, len(generations) + 1))
    assert ends[0] == 9  # two guesses, and the uniform widths
    assert ends[-1] == exploration.num_evaluations == 25


def _in_order(problem, exploration):
    # The problem's memory holds the widest candidate first, as does NSGA-II's first population.
    return problem.evaluations[: exploration.num_evaluations]


def _last_of_each_generation(snapshots):
    return list({snapshot.generation: snapshot for snapshot in snapshots}.values())


def test_snapshots_are_frozen_and_do_not_change_as_the_search_goes_on():
    kept = []

    def keep(snapshot):
        kept.append((snapshot, snapshot.front.num_bits.copy(), snapshot.front.accuracy.copy()))

    explored([keep])
    for snapshot, num_bits, accuracy in kept:
        assert np.array_equal(snapshot.front.num_bits, num_bits)
        assert np.array_equal(snapshot.front.accuracy, accuracy)
        assert not snapshot.front.verified
    snapshot = kept[-1][0]
    for name in ("num_evaluations", "front", "hypervolume"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(snapshot, name, 0)
    with pytest.raises(ValueError, match="read-only"):
        snapshot.front.accuracy[0] = 1.0


def test_seconds_never_run_backwards_and_the_result_took_longest():
    exploration = explored([])
    seconds = [snapshot.seconds for snapshot in exploration.history]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] <= seconds[-1] <= exploration.seconds


def test_a_callback_does_not_disturb_the_search():
    def busy(snapshot):
        torch.rand(7)
        np.random.default_rng(0).random()
        if len(snapshot.front):
            model.num_bits = snapshot.front[0].num_bits
        model(search_loader()[0][0])

    model = tiny_model()
    disturbed = explored([busy], tiny_problem(model=model, upper=8, min_accuracy=0.8))
    alone = explored([])
    assert np.array_equal(disturbed.front.num_bits, alone.front.num_bits)
    assert [s.hypervolume for s in disturbed.history] == [s.hypervolume for s in alone.history]


def test_a_callback_that_changes_the_network_ends_no_search():
    def fine_tune(snapshot):
        model.model.fc3.weight.mul_(1.001)

    model = tiny_model()
    problem = tiny_problem(model=model, upper=8)
    exploration = explored([fine_tune], problem, racing=False)
    assert exploration.num_evaluations >= 20  # a table of sensitivities is measured anew
    for point in exploration.front:  # verified on the network as it is now
        assert point.accuracy == correct(model, point.num_bits) / 400


def test_a_callback_that_changes_the_network_and_raises_leaves_no_old_score_behind(tmp_path):
    def spoil(snapshot):
        model.model.fc3.weight.mul_(-1.0)
        raise RuntimeError("of the callback")

    model = tiny_model()
    problem = tiny_problem(model=model, upper=8)
    with pytest.raises(RuntimeError, match="of the callback"):
        explored([spoil], problem, study=tmp_path / "a.db")
    assert problem.float_accuracy == correct(model, (0, 0, 0)) / 400


def test_a_network_that_keeps_a_count_of_its_calls_is_explored():
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_network()
            self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64))

        def forward(self, x):
            self.num_calls += 1
            return self.inner(x)

    counting = explored([], tiny_problem(model=tiny_model(Counting()), upper=8, min_accuracy=0.8), racing=False)
    assert "changes its own buffers" in counting.engine
    direct = explored([], tiny_problem(upper=8, min_accuracy=0.8, engine="direct"), racing=False)
    assert np.array_equal(counting.front.num_bits, direct.front.num_bits)


def test_an_exploration_within_a_callback_is_an_exploration_like_any_other():
    inner = []

    def nested(snapshot):
        if not inner:
            inner.append(explored([], max_evaluations=15))

    outer = explored([nested], max_evaluations=15)
    assert np.array_equal(inner[0].front.num_bits, outer.front.num_bits)
    assert np.array_equal(inner[0].front.accuracy, outer.front.accuracy)


def test_a_callback_whose_entering_gives_nothing_is_called_itself():
    class Log:
        def __enter__(self):
            self.rows = []

        def __exit__(self, *_):
            self.is_left = True

        def __call__(self, snapshot):
            self.rows.append(snapshot)

    @contextlib.contextmanager
    def writing():
        yield written.append

    log, written = Log(), []
    exploration = explored([log, writing()], tiny_problem())
    assert log.is_left and tuple(log.rows) == tuple(written) == exploration.history


@pytest.mark.parametrize("fails_when", ["called", "entered"])
def test_an_error_that_another_callback_would_swallow_is_raised(fails_when):
    class Swallowing:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return True

        def __call__(self, snapshot):
            pass

    class Failing(Swallowing):
        def __enter__(self):
            if fails_when == "entered":
                raise RuntimeError("of a callback")

        def __exit__(self, *_):
            return False

        def __call__(self, snapshot):
            raise RuntimeError("of a callback")

    with pytest.raises(RuntimeError, match="of a callback"):
        explored([Swallowing(), Failing()], tiny_problem())
