"""Workers of a pretended Ray: started, compared, lost, replaced; and what is said where they cannot be had."""

import os
import sys
import threading
from dataclasses import replace

import pytest
import torch
from networks import batches, digits
from problems import tiny_model, tiny_network, tiny_problem

import qexplore as qx
from qexplore.distributed import WorkerRecord, WorkersReport, cluster, ray_crew, ray_workers, shipping
from qexplore.errors import MissingPackageError, WorkersError

pytest.importorskip("ray")
from pretended_ray import PretendedRay, RayActorError


@pytest.fixture
def ray(monkeypatch):
    """A `PretendedRay` in the place of Ray."""
    pretended = PretendedRay()
    for module in (cluster, ray_crew, ray_workers, shipping):
        monkeypatch.setattr(module, "ray_module", lambda: pretended)
    return pretended


def explored(problem=None, workers=None, **options):
    problem = problem or tiny_problem(upper=8)
    return qx.explore(problem, max_evaluations=12, seed=1, workers=workers or qx.RayWorkers(2), **options)


def fronts(*explorations):
    return {one.front.to_json() for one in explorations}


def alone():
    return qx.explore(tiny_problem(upper=8), max_evaluations=12, seed=1)


def present_with(**facts):
    """A worker of which these facts are other ones."""

    def change(name, answer):
        if name != "begin":
            return answer
        [present] = answer.values
        return replace(answer, values=(replace(present, facts=present.facts | facts),))

    return change


def lost_at(count, message="The actor died unexpectedly."):
    """A worker that is lost with so many answers given."""
    answers = iter(range(count))

    def change(name, answer):
        if next(answers, None) is None:
            raise RayActorError(f"{message}\nclass_name: Measurer\n" + 40 * "state-dump\n")
        return answer

    return change


def rays_own():
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}


def test_ray_is_started_on_this_machine_and_ended_afterwards(ray, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = rays_own()
    found = explored()
    assert fronts(found) == fronts(alone())
    assert [one["address"] for one in ray.inits] == ["local"]
    assert ray.inits[0]["num_cpus"] == 2
    assert not ray.is_up
    assert rays_own() == before


def test_a_ray_that_runs_already_is_left_running(ray):
    ray.is_up = True
    explored()
    assert ray.is_up
    assert ray.killed == [0, 1]


def test_the_environment_s_cluster_is_taken_where_none_is_named(ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "there")
    explored()
    assert ray.inits == [{"address": "there", "log_to_driver": False, "logging_level": "ERROR"}]


def test_as_many_workers_as_the_cluster_has_room_for(ray):
    ray.is_up, ray.cpus = True, 3
    assert len(explored(workers=qx.RayWorkers()).workers.workers) == 3


def test_a_lost_worker_is_replaced_and_its_candidates_measured_by_another(ray):
    ray.changes = {0: lost_at(3), 2: lost_at(0)}
    found = explored()
    assert fronts(found) == fronts(alone())
    states = [one.state for one in found.workers.workers]
    assert found.workers.workers[2].name == "never ready"
    assert states == ["lost: The actor died unexpectedly.", "ready", "lost: The actor died unexpectedly.", "ready"]
    assert all("\n" not in event for event in found.workers.events)
    assert "workers: 2 that measured" in str(found)
    assert "2 lost on the way, idle" in str(found)
    assert found.notes == alone().notes


def test_workers_that_never_come_to_be_ready_are_an_error_after_some(ray):
    ray.changes = {place: lost_at(0, "No module named 'qexplore'") for place in range(30)}
    with pytest.raises(WorkersError, match="20 workers in a row could not be started, the last: No module named"):
        explored()


def test_no_room_for_a_worker_is_said_with_what_there_is(ray):
    ray.cpus, ray.resources = 0, {"CPU": 2.0}
    with pytest.raises(WorkersError) as raised:
        explored(workers=qx.RayWorkers(2, start_seconds=5))
    assert "ready within 5 s (start_seconds), got none: each needs {'CPU': 1.0}" in str(raised.value)
    assert "the cluster has {'CPU': 2.0" in str(raised.value)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"gpu": 1}, "no node has 1 'gpu'; the most on a node is {'CPU': 2.0, 'GPU': 4.0, .* Did you mean 'GPU'[?]"),
        ({"CPU": 64}, "no node has 64 'CPU'; the most on a node is {'CPU': 2.0"),
        ({"CPU": 64, "fast": 0.5}, "no node has 64 'CPU' or 0.5 'fast'; .*add such a node"),
    ],
)
@pytest.mark.parametrize("is_up", [False, True])
def test_what_no_node_has_is_refused_at_once(ray, resources, words, is_up):
    ray.resources, ray.is_up = {"GPU": 4.0}, is_up
    with pytest.raises(WorkersError, match=words):
        explored(workers=qx.RayWorkers(2, resources=resources, start_seconds=0.1))
    assert ray.num_started == 0


def test_what_no_node_has_is_waited_for_where_the_cluster_autoscales(ray):
    ray.is_up = True
    ray.status = b'{"autoscaler_report": {"active_nodes": {"head-group": 1}}}'
    found = explored(workers=qx.RayWorkers(2, resources={"fast": 1}))
    assert "no node has {'CPU': 1.0, 'fast': 1} yet: the cluster is left to start one" in found.workers.events[0]
    ray.status = b'{"autoscaler_report": {"active_nodes": {"node_0a1b": 1}}}'
    with pytest.raises(WorkersError, match="no node has 1 'fast'"):
        explored(workers=qx.RayWorkers(2, resources={"fast": 1}, start_seconds=0.1))


@pytest.mark.parametrize("options", [{}, {"factory": "here:tiny"}])
def test_a_gpu_that_is_asked_for_and_not_used_is_refused(ray, monkeypatch, options):
    monkeypatch.setattr(shipping, "importlib", _Importing({"tiny": lambda: tiny_problem(upper=8)}))
    ray.resources = {"GPU": 1.0}
    with pytest.raises(WorkersError, match="the network must be on the GPU that `resources` gives .* got one on cpu"):
        explored(workers=qx.RayWorkers(2, resources={"GPU": 0.5}, **options))


def test_a_study_that_has_all_answers_starts_no_ray(ray, tmp_path):
    first = explored(study=tmp_path / "study.db")
    ray.inits.clear()
    again = explored(study=tmp_path / "study.db")
    assert fronts(again) == fronts(first)
    assert ray.inits == []
    assert "workers: none started, for there was nothing to measure" in str(again)
    assert str(again.workers) == "workers: none started, for there was nothing to measure"


def test_the_table_s_candidates_are_those_of_the_search():
    workers = [WorkerRecord(name, "cpu", "ready", 20, *4 * [1.0]) for name in ("one", "other")]
    report = WorkersReport(tuple(workers), {(2,): "one", (3,): "one", (4,): "other"}, (), 1.0)
    rows = [line.split() for line in str(report).splitlines()]
    assert [row[3:5] for row in rows if row[0] in ("one", "other")] == [["2", "20"], ["1", "20"]]
    assert "answers: candidates of the search, and looks at parts" in str(report)


def test_no_cluster_at_the_address_is_said_with_the_way_out(ray):
    with pytest.raises(WorkersError, match="got 'nowhere': ConnectionError: nobody answers. Start one there, or leave"):
        explored(workers=qx.RayWorkers(2, address="nowhere"))


def test_a_way_out_is_one_that_was_not_gone_already(ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(WorkersError, match="^RAY_ADDRESS must .* got 'nowhere': .* unset RAY_ADDRESS for Ray on this"):
        explored()
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(WorkersError, match="must start on this machine, got OSError: no space. Mend that, or give"):
        explored()


@pytest.mark.parametrize("facts", [{"torch": "1.0"}, {"device": "cuda (other)"}, {"float network by 'direct'": "0123"}])
def test_a_worker_that_measures_otherwise_is_refused(ray, facts):
    ray.changes = {1: present_with(**facts)}
    [(name, value)] = facts.items()
    with pytest.raises(WorkersError) as raised:
        explored()
    assert f"{name} is {value} there and " in str(raised.value)
    assert 'on_mixed="verify"' in str(raised.value)


def test_a_mixed_cluster_searches_and_leaves_the_last_word_to_workers_like_this_process(ray):
    ray.changes = {1: present_with(torch="1.0")}
    found = explored(workers=qx.RayWorkers(2, on_mixed="verify"))
    assert found.front.verified
    assert "Workers differed, so the search depends on who measured what: " in found.notes[0]
    assert "differs, so the last word is left to others: torch is 1.0" in found.workers.events[0]
    assert all(one.num_candidates for one in found.workers.workers)
    ray.changes = {place: present_with(torch="1.0") for place in range(9)}
    assert explored(workers=qx.RayWorkers(2, on_mixed="verify")).front.verified, "by this process"


def test_workers_that_all_prove_to_differ_at_the_last_word_leave_it_to_this_process(ray, tmp_path):
    study, options = tmp_path / "study.db", {"report_loader": batches(digits().report)}
    explored(study=study)
    ray.changes = {place: present_with(torch="1.0") for place in range(9)}
    found = explored(study=study, workers=qx.RayWorkers(2, on_mixed="verify"), **options)
    expected = qx.explore(tiny_problem(upper=8), max_evaluations=12, seed=1, **options)
    assert fronts(found) == fronts(expected)
    assert [one.num_candidates for one in found.workers.workers] == [0, 0]


def test_what_a_worker_cannot_take_in_is_said_and_not_what_comes_of_it(ray, monkeypatch):
    from qexplore.distributed import measurer

    unpacked = measurer.unpacked

    def fails_later(packet, model):
        if model is not None:
            raise ModuleNotFoundError("No module named 'mine'")
        return unpacked(packet, model)

    monkeypatch.setattr(measurer, "unpacked", fails_later)
    monkeypatch.setattr(shipping, "importlib", _Importing({"tiny": lambda: tiny_problem(upper=8)}))
    with pytest.raises(WorkersError, match="ModuleNotFoundError: No module named 'mine'"):
        explored(workers=qx.RayWorkers(2, factory="here:tiny"), report_loader=batches(digits().report))


def test_another_qexplore_is_refused_whatever_was_asked(ray):
    ray.changes = {1: present_with(qexplore="0.0.1")}
    with pytest.raises(WorkersError, match="install the same version everywhere") as raised:
        explored(workers=qx.RayWorkers(2, on_mixed="verify"))
    assert "on_mixed" not in str(raised.value)


def built_otherwise():
    network = tiny_network()
    with torch.no_grad():
        network.fc3.bias += 0.5
    return tiny_problem(model=tiny_model(network), upper=8)


def built_wrongly():
    return tiny_model()


class Locked(torch.nn.Module):
    """Cannot be pickled."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_network()
        self.inner.fc1.cache = {"lock": threading.Lock()}

    def forward(self, x):
        return self.inner(x)


def locked_problem():
    return tiny_problem(model=tiny_model(Locked()), upper=8)


def test_what_cannot_be_pickled_is_refused_with_the_attribute_that_stops_it(ray):
    with pytest.raises(WorkersError) as raised:
        explored(locked_problem())
    assert ".fc1.cache['lock'] of type lock: TypeError: cannot pickle" in str(raised.value)
    assert 'RayWorkers(factory="package.module:build")' in str(raised.value)


def test_a_factory_builds_what_cannot_be_sent(ray, monkeypatch):
    monkeypatch.setattr(shipping, "importlib", _Importing(globals()))
    found = explored(locked_problem(), qx.RayWorkers(2, factory="here:locked_problem"))
    assert fronts(found) == fronts(qx.explore(locked_problem(), max_evaluations=12, seed=1))
    assert [one.sent_bytes for one in found.workers.workers] == [0, 0]


def test_a_report_set_is_sent_to_what_a_factory_has_built(ray, monkeypatch):
    from networks import batches, digits

    monkeypatch.setattr(shipping, "importlib", _Importing(globals()))
    options = {"report_loader": batches(digits().report)}
    found = explored(locked_problem(), qx.RayWorkers(2, factory="here:locked_problem"), **options)
    plain = qx.explore(tiny_problem(upper=8), max_evaluations=12, seed=1, **options)
    assert found.front.report_accuracy.tolist() == plain.front.report_accuracy.tolist()
    assert all(one.sent_bytes for one in found.workers.workers)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("here:built_otherwise", "network is .* builds another network"),
        ("here:built_wrongly", "returns a LayerwiseQuantizationProblem, got QuantizedActivationsModel"),
        ("here:nothing", "must name a function of a module that every worker can import, got 'here:nothing'"),
    ],
)
def test_a_factory_of_something_else_is_refused(ray, monkeypatch, name, words):
    monkeypatch.setattr(shipping, "importlib", _Importing(globals()))
    with pytest.raises(WorkersError, match=words):
        explored(workers=qx.RayWorkers(2, factory=name))


class _Importing:
    """Stands for importlib: whatever is imported has these names."""

    def __init__(self, names):
        self._names = names

    def import_module(self, _):
        return type("Module", (), {name: staticmethod(value) for name, value in self._names.items() if callable(value)})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_workers": 0}, "`num_workers` must be an int of at least 1, got 0"),
        ({"resources": ["GPU"]}, "`resources` must map names"),
        ({"resources": {"GPU": -1}}, "`resources` must map names"),
        ({"address": 8265}, "`address` must be a text or None, got 8265"),
        ({"factory": "module"}, "`factory` must be \"package.module:function\", got 'module'"),
        ({"on_mixed": "ignore"}, "`on_mixed`"),
        ({"most_lost": 0}, "`most_lost` must be an int of at least 1"),
        ({"start_seconds": 0}, "`start_seconds` must be a positive number"),
    ],
)
def test_wrong_arguments_are_named_when_they_are_given(given, words):
    with pytest.raises(WorkersError) as raised:
        qx.RayWorkers(**given)
    assert words in str(raised.value)


def test_workers_must_be_ray_workers():
    with pytest.raises(WorkersError, match=r"`workers` must be RayWorkers\(...\) or None, got 2"):
        qx.explore(tiny_problem(), max_evaluations=5, seed=1, workers=2)


def test_without_ray_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError) as raised:
        qx.RayWorkers(2)
    assert (
        str(raised.value) == "RayWorkers needs the package 'ray', which is not installed: pip install 'qexplore[ray]'"
    )
