"""Which share of the network was searched stands wherever an exploration does."""

from dataclasses import replace

import pytest
from problems import search_loader, tiny_model, tiny_problem

import qexplore as qx
from qexplore.errors import NumBitsError, StudyError
from qexplore.report._page_sources import page_record

EVERY_PRODUCT = 64 * 16 + 16 * 12 + 12 * 10


def test_coverage_stands_in_the_exploration_its_study_its_front_file_and_on_the_page(tmp_path):
    problem, path = tiny_problem(upper=4), tmp_path / "tiny.db"
    found = qx.explore(problem, max_evaluations=8, seed=1, population_size=4, progress=False, study=path)

    coverage = found.coverage
    assert coverage == found.front.coverage == problem.describe().plan.coverage
    assert coverage.activation_macs == qx.CoveredShare(EVERY_PRODUCT, EVERY_PRODUCT)
    assert coverage.activation_elements.share == 1.0 and coverage.weight_macs.quantized == 0
    assert coverage == problem.model.coverage(choices=problem.plan) and str(coverage).startswith("at points:")
    assert f"coverage at points: {coverage.line}" in str(found).splitlines()
    assert "MACs by weight fc1 (1,024), fc2 (192) and 1 more" in coverage.line

    found.front.save(tmp_path / "front.json")
    assert qx.Front.load(tmp_path / "front.json").coverage == coverage
    with qx.Study.open(path) as study:
        run = study.runs[0]
        assert run.coverage == study.front(first=5).coverage == study.front().coverage == coverage
        assert f"coverage at points: {coverage.line}" in str(study).splitlines()
    for source in (found, path, tmp_path / "front.json"):
        facts = dict(dict(page_record(source).runs[0].facts)["Coverage at points"])
        assert facts["MACs by activation"] == "100.0% (1,336 of 1,336)"
        assert facts["MACs by weight"] == "0.0% (0 of 1,336); left float: fc1 (1,024), fc2 (192), fc3 (120)"

    assert replace(run, facts={}).coverage is None
    with pytest.raises(StudyError, match="the coverage of run 1"):
        _ = replace(run, facts={"coverage": {"parameters": 3}}).coverage


def test_without_a_study_coverage_is_told_too():
    found = qx.explore(tiny_problem(upper=4), max_evaluations=2, seed=1, population_size=4, progress=False)
    assert found.coverage is not None and found.coverage.activation_macs.quantized == EVERY_PRODUCT


def explored(model: qx.QuantizedModel, **rules: object) -> tuple[qx.LayerwiseQuantizationProblem, qx.Exploration]:
    problem = qx.LayerwiseQuantizationProblem(model, search_loader(), **rules)
    found = qx.explore(problem, max_evaluations=2, seed=1, population_size=2, progress=False)
    assert found.coverage == found.front.coverage == problem.describe().plan.coverage
    return problem, found


@pytest.mark.parametrize("by", ["pinned", "choices", "plan", "hand"])
def test_a_point_that_a_search_has_off_alone_is_float(by):
    model = tiny_model()
    pinned, rules = {"input": "off"}, {"choices": (4, 8)}
    if by == "hand":
        model.fake_quantizers["input"].disable()
    elif by == "plan":
        rules = {"choices": qx.plan_choices(model, (4, 8), pinned=pinned)}
    else:
        rules = rules | {"pinned": pinned} if by == "pinned" else {"choices": {"*": (4, 8), "input": ("off",)}}
    problem, found = explored(model, **rules)

    assert found.coverage.activation_macs == qx.CoveredShare(16 * 12 + 12 * 10, EVERY_PRODUCT, (("fc1", 1024),), 1)
    assert found.coverage.num_may_be_off == 0 and "may be off" not in str(found)
    [left] = [one for one in problem.describe().plan.left_float if one.kind == "point"]
    assert left.name == "input" and left.reason == ("disabled by hand" if by == "hand" else "may have nothing but off")


def test_a_point_that_may_be_off_counts_and_is_told_wherever_the_share_is(tmp_path):
    model = tiny_model()
    model.num_bits = [0, 0, 0]  # what it has at present does not matter
    _, found = explored(model, choices=(4, "off"), pinned={"relu2": 4})
    words, path = "2 points may be off in a member, which leaves more in float", tmp_path / "front.json"

    assert found.coverage.activation_macs.share == 1.0 and found.coverage.num_may_be_off == 2
    found.front.save(path)
    loaded = qx.Front.load(path)
    assert loaded.coverage == found.coverage
    assert all(words in str(one) for one in (found, found.front, loaded, found.coverage))
    assert dict(dict(page_record(path).runs[0].facts)["Coverage at points"])["points off"] == words


def test_what_a_member_has_is_told_by_the_model_that_has_it():
    model = tiny_model()
    _, found = explored(model, choices=(8,), pinned={"input": "off"})
    with model.using([0, 0, 8]):
        assert model.coverage().activation_macs.quantized == 12 * 10
    found.front[0].apply_to(model)
    assert model.coverage().activation_macs.quantized == 16 * 12 + 12 * 10
    assert str(model.coverage()).startswith("quantized:")


def test_choices_that_are_no_plan_of_this_model_are_refused():
    model, other = tiny_model(), tiny_model(quantize_input=False)
    for choices in ((4, 8), qx.plan_choices(other)):
        with pytest.raises(NumBitsError, match="`choices` must be a plan for the 3 points of this model.*plan_choices"):
            model.coverage(choices=choices)
