"""Sets of data that are to judge one another are compared sample by sample, in the pass that reads them anyway."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import Split, batches, digits
from problems import tiny_network, tiny_problem
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.model import num_shared, sample_marks


def model_of(calibration):
    model = qx.QuantizedModel(tiny_network(), predicates.by_type(nn.ReLU))
    model.calibrate(batches(calibration))
    return model


def explored(calibration, search, report, **options):
    problem = tiny_problem(model=model_of(calibration), loader=iter(batches(search, 50)), upper=8, **options)
    found = qx.explore(problem, max_evaluations=3, seed=1, report_loader=iter(batches(report, 64)), progress=False)
    assert problem.describe().shared_data == "".join(one for one in found.shared_data if "search set were" in one)
    assert set(found.shared_data) <= set(found.notes) and all(one in str(found) for one in found.shared_data)
    return found.shared_data


def part(split, start, stop):
    return Split(split.x[start:stop], split.y[start:stop])


def test_samples_of_one_set_in_another_are_told():
    data = digits()
    assert explored(data.calibration, data.search, data.report) == ()
    assert explored(data.calibration, part(data.search, 0, 204), part(data.search, 200, 400)) == ()  # 4 stand twice
    searched = "All 400 samples of the report set were searched on too: its figures are not held out."
    with pytest.warns(UserWarning, match=f"{searched} Give report_loader= samples"):
        assert explored(data.calibration, data.search, data.search) == (searched,)
    with pytest.warns(UserWarning, match="not held out"):
        assert explored(data.search, part(data.search, 0, 300), part(data.search, 280, 400)) == (
            "20 of 120 samples of the report set were searched on too, and all 120 samples of it were calibrated on: "
            "its figures are not held out.",
            "All 300 samples of the search set were calibrated on too.",
        )


def test_sets_too_large_to_hold_and_those_that_a_metric_reads_itself_are_known_too():
    data = digits()
    loader = batches(data.search)
    streamed = tiny_problem(loader=loader, hold_bytes=0)
    whole = tiny_problem(qx.whole_set(lambda model, given: float(model(given[0][0]).mean())), loader=loader)
    for problem in (streamed, whole):
        with pytest.warns(UserWarning, match="[aA]ll .*samples of the report set were searched on too"):
            qx.explore(problem, max_evaluations=1, seed=1, report_loader=loader, progress=False)


def test_marks_tell_samples_apart_and_few_values_are_no_sign_of_one_set():
    x = torch.randn(6, 3000)
    ids = torch.arange(12).reshape(6, 2)
    marks = sample_marks({"ids": ids, "x": x})
    assert len(set(marks.tolist())) == 6
    np.testing.assert_array_equal(sample_marks((ids[4:], x[4:].double())), marks[4:])
    assert not set(sample_marks((ids, x.flip(1))).tolist()) & set(marks.tolist())
    assert len(sample_marks(["text", torch.tensor(1.0), torch.empty(2, device="meta")])) == 0
    few = [sample_marks(torch.randint(0, 2, (300, 3), generator=torch.Generator().manual_seed(s))) for s in (0, 1)]
    assert num_shared(*few) == 0
    assert num_shared(few[0], few[0][::-1]) == 300
    assert num_shared(marks, marks[2:]) == 4
