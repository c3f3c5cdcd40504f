"""The scripts beside the package: what they take from it is there, also of those that no test has the time to run."""

from __future__ import annotations

import ast
import importlib
import inspect
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from networks import batches, digits
from problems import every_candidate, tiny_problem
from pymoo.indicators.hv import HV

import qexplore as qx
from qexplore.evaluation import DirectEvaluator, Evaluator

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path for folder in ("benchmarks", "experiments") for path in (ROOT / folder).rglob("*.py"))


def missing_names(source: str) -> list[str]:
    """Names of the package that a script imports, or asks ``qx`` for, and that are not there."""
    missing = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "qexplore":
            missing += [alias.name for alias in node.names if not is_there(node.module or "", alias.name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "qx":
            missing += [] if hasattr(qx, node.attr) else [node.attr]
    return missing


def is_there(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_script_takes_from_the_package_what_is_there(path: Path) -> None:
    assert missing_names(path.read_text(encoding="utf-8")) == []


def test_names_that_are_not_there_are_found() -> None:
    source = "from qexplore.front import Front, Back\nfrom qexplore.nowhere import x\nqx.explore\nqx.ignore\n"
    assert missing_names(source) == ["Back", "x", "ignore"]


@pytest.fixture
def piece(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that the benchmarks share, by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def found(name: str) -> ModuleType:
        return importlib.import_module(name)

    return found


def test_a_rerun_takes_from_the_file_what_is_there(piece: Any, tmp_path: Path) -> None:
    path, ran = tmp_path / "new" / "results.json", []

    def run(seed: int) -> tuple[int, float]:
        if seed == 3:
            raise KeyboardInterrupt
        ran.append(seed)
        return seed, float("nan")

    for _ in range(2):
        results = piece("_results").Results(path)
        assert [results.get(("small", 40), run, seed)[0] for seed in (1, 2)] == [1, 2]
        with pytest.raises(KeyboardInterrupt):
            results.get(("small", 40), run, 3)
    assert ran == [1, 2]
    assert piece("_results").Results(path).get(("small", 60), run, 1)[0] == 1 and ran == [1, 2, 1]


def test_unseen_hypervolume_is_of_scores_on_the_other_data(piece: Any) -> None:
    problem, report = tiny_problem(), batches(digits().report)
    candidates, reference = np.array(every_candidate(problem)[::5]), (0.3, 12.0)
    there = piece("_unseen").unseen(problem, report)
    scores = [one.score for one in DirectEvaluator(problem.model, report, problem.metric).evaluate(candidates)]
    points = np.column_stack([-np.array(scores), candidates.sum(axis=1)])
    expected = HV(ref_point=np.array([-0.3, 12.0]))(points)
    assert 0 < expected == pytest.approx(piece("_unseen").hypervolume(there, candidates, reference))
    assert piece("_unseen").hypervolume(there, [], reference) == 0


def test_amq_pays_for_its_table_and_proposes_each_candidate_of_what_it_leaves_once(
    piece: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, amq = tiny_problem(upper=6), piece("_amq")
    monkeypatch.setattr(amq, "GENERATIONS", 2)
    monkeypatch.setattr(amq, "LIMIT", 1.0)  # so that one of three points is beyond it
    search = amq.Amq(problem, seed=1)
    alone = np.array([[2, 6, 6], [6, 2, 6], [6, 6, 2]])
    scores = problem.scores_on_subset(alone, amq.jensen_shannon, 128, against_float=True, directly=True)
    is_within = scores.mean(axis=1) <= np.median(scores.mean(axis=1))
    assert search.passes >= scores.size / problem.num_samples
    proposed = []
    for candidate in islice(search.proposals(), 24):
        proposed.append(candidate)
        search.told(candidate, next(problem.measure([candidate])).score)
    assert len(set(proposed)) == len(proposed) > 16
    narrowest = np.min(proposed, axis=0)
    np.testing.assert_array_equal(narrowest == 2, is_within)
    assert is_within.sum() == 2


def test_amq_predicts_what_it_knows(piece: Any) -> None:
    known, scores = np.array([[2, 2], [2, 8], [8, 2], [8, 8], [5, 4]]), np.array([0.1, 0.7, 0.2, 0.9, 0.6])
    np.testing.assert_allclose(piece("_amq").predictor(known, scores)(known), scores, atol=1e-8)
    in_line = known[[0, 1]]  # one point never varied
    np.testing.assert_allclose(piece("_amq").predictor(in_line, scores[:2])(in_line), scores[:2], atol=1e-8)


def test_own_time_times_what_is_there_and_answers_as_evaluators_are_asked(piece: Any) -> None:
    own_time = piece("own_time")
    missing = [f"{owner.__name__}.{name}" for owner, name in own_time.PARTS.values() if not hasattr(owner, name)]
    assert missing == []
    for name in ("scores_on_subset", "subset_size"):
        asked = inspect.signature(getattr(Evaluator, name)).parameters
        assert list(asked)[:2] == list(inspect.signature(getattr(own_time.Answers, name)).parameters)[:2]
    asked = inspect.signature(Evaluator.evaluate).parameters
    assert list(asked) == list(inspect.signature(own_time.Answers._evaluate).parameters)
    told = [name for name, value in vars(Evaluator).items() if isinstance(value, property)]
    assert [name for name in told if not hasattr(own_time.Answers, name)] == []
