"""Warnings point at the line of the user's, however deep they are said."""

import inspect
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import qexplore
from qexplore import predicates
from qexplore._warnings import warn

SOURCE = Path(qexplore.__file__).parent


def here():
    return __file__, inspect.currentframe().f_back.f_lineno


def place_of(said):
    assert len(said) == 1
    return said[0].filename, said[0].lineno


def test_a_warning_from_torchs_depths_points_at_the_users_call():
    model = qexplore.QuantizedActivationsModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), predicates.by_type(nn.ReLU))
    outer = nn.Sequential(model)
    with pytest.warns(qexplore.UncalibratedWarning) as said:
        outer(torch.zeros(1, 2)), (line := here())
    assert place_of(said) == line


def test_a_deprecated_option_is_warned_of_where_it_was_given():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    histograms = qexplore.QuantDescriptor(calib_method="histogram")
    model = qexplore.QuantizedActivationsModel(network, predicates.by_type(nn.ReLU), quant_desc=histograms)
    with pytest.warns(DeprecationWarning, match="stride") as said:
        model.calibrate([torch.randn(8, 2)], method="entropy", stride=2), (line := here())
    assert place_of(said) == line


def test_a_warning_without_a_line_of_the_users_is_given_all_the_same():
    scope = {"warn": warn}
    exec(compile("def run():\n    warn('said')", str(SOURCE / "made_up.py"), "exec"), scope)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        scope["run"]()
    assert place_of(said)[0] == __file__


def test_nothing_warns_past_the_one_way():
    files = [path for path in SOURCE.rglob("*.py") if re.search(r"warnings\.warn\(", path.read_text())]
    assert [path.name for path in files] == ["_warnings.py"]
