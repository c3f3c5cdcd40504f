"""Options of training check themselves."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore.errors import WorkflowError
from qexplore.training import TrainingKeywords, TrainingOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be an int of at least 1, got 0"),
        ({"epochs": True}, "`epochs`.*got True"),
        ({"learning_rate": 0}, "`learning_rate` must be a positive number, got 0"),
        ({"learning_rate": math.nan}, "`learning_rate` must be a positive number, got nan"),
        ({"learning_rate": 0.1, "optimizer": torch.optim.SGD}, "`learning_rate` is of the default optimizer"),
        ({"optimizer": 3}, "`optimizer` must be a function of the model's parameters, got int"),
        ({"optimizer": torch.ones(2)}, r"got a tensor of shape \(2,\)"),
        ({"on_epoch": 3}, "`on_epoch` must be a function of an EpochRecord, got int"),
        ({"seed": -1}, "`seed` must be an int of at least 0, got -1"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_when_it_is_built(options, message):
    with pytest.raises(WorkflowError, match=message):
        TrainingOptions(**options)


def test_gentle_rate_stands_where_none_is_told():
    assert TrainingOptions().gentle().learning_rate == 1e-4
    assert TrainingOptions(learning_rate=0.1).gentle().learning_rate == 0.1
    assert TrainingOptions(optimizer=torch.optim.SGD).gentle().learning_rate is None


def test_the_place_is_where_the_network_lies_unless_another_is_asked_for(accelerator):
    network = nn.Linear(2, 2).to(accelerator)
    assert TrainingOptions().place_for(network) == accelerator
    assert TrainingOptions().place_for(nn.Linear(2, 2)) == torch.device("cpu")
    assert TrainingOptions(device="cpu").place_for(network) == torch.device("cpu")


def test_keywords_are_the_options_but_for_the_bar():
    fields = {*TrainingOptions.__dataclass_fields__}
    assert TrainingKeywords.__optional_keys__ == fields - {"progress"}


def test_fine_tune_names_a_keyword_that_it_does_not_take():
    with pytest.raises(TypeError, match=r"fine_tune\(\) got an unexpected keyword argument 'epoch', .*'epochs'"):
        qx.fine_tune(None, None, [], F.cross_entropy, epoch=2)
