"""Which share of the network was searched stands wherever an exploration does."""

from dataclasses import replace

import pytest
from problems import tiny_problem

import qexplore as qx
from qexplore.errors import StudyError
from qexplore.report._page_sources import page_record

EVERY_PRODUCT = 64 * 16 + 16 * 12 + 12 * 10


def test_coverage_stands_in_the_exploration_its_study_its_front_file_and_on_the_page(tmp_path):
    problem, path = tiny_problem(upper=4), tmp_path / "tiny.db"
    found = qx.explore(problem, max_evaluations=8, seed=1, population_size=4, progress=False, study=path)

    coverage = found.coverage
    assert coverage == found.front.coverage == problem.model.coverage() == problem.describe().plan.coverage
    assert coverage.activation_macs == qx.CoveredShare(EVERY_PRODUCT, EVERY_PRODUCT)
    assert coverage.activation_elements.share == 1.0 and coverage.weight_macs.quantized == 0
    assert f"coverage: {coverage.line}" in str(found).splitlines()
    assert "MACs by weight fc1 (1,024), fc2 (192) and 1 more" in coverage.line

    found.front.save(tmp_path / "front.json")
    assert qx.Front.load(tmp_path / "front.json").coverage == coverage
    with qx.Study.open(path) as study:
        run = study.runs[0]
        assert run.coverage == study.front(first=5).coverage == study.front().coverage == coverage
        assert f"coverage: {coverage.line}" in str(study).splitlines()
    for source in (found, path, tmp_path / "front.json"):
        facts = dict(dict(page_record(source).runs[0].facts)["Coverage"])
        assert facts["MACs by activation"] == "100.0% (1,336 of 1,336)"
        assert facts["MACs by weight"] == "0.0% (0 of 1,336); left float: fc1 (1,024), fc2 (192), fc3 (120)"

    assert replace(run, facts={}).coverage is None
    with pytest.raises(StudyError, match="the coverage of run 1"):
        _ = replace(run, facts={"coverage": {"parameters": 3}}).coverage


def test_without_a_study_coverage_is_told_too():
    found = qx.explore(tiny_problem(upper=4), max_evaluations=2, seed=1, population_size=4, progress=False)
    assert found.coverage is not None and found.coverage.activation_macs.quantized == EVERY_PRODUCT
