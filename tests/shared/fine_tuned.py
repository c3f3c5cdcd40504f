"""A trained network at few bits, and its fine-tuning in a second."""

import copy
import functools

import torch
from networks import batches, digits, trained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import qexplore as qx
from qexplore import predicates


def loader():
    return DataLoader(TensorDataset(*digits().train), batch_size=69, shuffle=True)


@functools.cache
def _wrapped():
    model = qx.QuantizedModel(trained("small_cnn"), predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate(batches(digits().calibration), method="mse", weight_method="mse")
    return model


def wrapped():
    return copy.deepcopy(_wrapped())


def low_point(model):
    """Four bits at the input, two everywhere else."""
    return [4] + [2] * (len(model.points) - 1)


def tune(model, point=None, **options):
    rate = {} if "optimizer" in options else {"learning_rate": 0.003}
    options = {"epochs": 2, "report_loader": batches(digits().report), **rate, **options}
    point = low_point(model) if point is None else point
    return qx.fine_tune(model, point, loader(), options.pop("loss", F.cross_entropy), **options)


def correct(model, split):
    with torch.no_grad():
        return int((model(split.x).argmax(1) == split.y).sum())


def parameters(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}
