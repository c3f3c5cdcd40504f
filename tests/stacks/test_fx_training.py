"""The FX stack trains: what the optimizer holds, what is won back, what is frozen late."""

from __future__ import annotations

import pytest
import torch
from networks import batches, digits, trained
from torch.nn import functional as F

import qexplore as qx
from qexplore.stacks.base import Data, Settings
from qexplore.stacks.fx import quantize
from qexplore.training import TrainingOptions, loop


def calibration():
    return batches(digits().calibration)


def report():
    return {"report_loader": batches(digits().report), "metric": qx.top1_accuracy}


def images():
    return digits().report.x[:50]


def teach(prepared, freeze, options):
    loop.train(prepared, batches(digits().train), F.cross_entropy, options, freeze=freeze)


def test_optimizer_holds_the_prepared_models_own_parameters():
    network, held, seen = trained("small_cnn"), [], []

    def optimizer(parameters):
        held.extend(parameters)
        return torch.optim.SGD(parameters, lr=0.01)

    def train(prepared, freeze):
        seen.extend(prepared.parameters())  # of now: conversion makes others
        before = [parameter.detach().clone() for parameter in prepared.parameters()]
        teach(prepared, freeze, TrainingOptions(optimizer=optimizer))
        assert any(not torch.equal(a, b) for a, b in zip(before, prepared.parameters(), strict=True))

    quantize(network, Settings("qat", "fx"), Data((images(),), train=train))
    assert [id(one) for one in held] == [id(one) for one in seen]
    assert not {id(one) for one in held} & {id(one) for one in network.parameters()}


def test_training_wins_back_what_narrow_weights_lose():
    options = {"linear_num_bits": 2, "weight_granularity": "tensor", **report()}
    network = trained("shared_relu")
    training = {"epochs": 2, "learning_rate": 1e-3}
    plain = qx.quantize_static(network, calibration(), **options).report
    learned = qx.quantize_qat(network, batches(digits().train, 32), F.cross_entropy, **training, **options).report
    assert plain.accuracy_after < plain.accuracy_before - 0.1
    assert learned.accuracy_after > plain.accuracy_after + 0.1
    assert [record.epoch for record in learned.epochs] == [1, 2]


def test_ranges_and_batchnorm_statistics_are_frozen_late():
    """They move until half the steps are done, and not afterwards."""

    def train(prepared, freeze):
        start, frozen = statistics(prepared), []

        def watched_freeze():
            freeze()
            frozen.append(statistics(prepared))

        teach(prepared, watched_freeze, TrainingOptions().gentle())
        assert not all(map(torch.equal, start, frozen[0]))
        assert all(map(torch.equal, frozen[0], statistics(prepared)))

    def statistics(prepared):
        moving = ("running_mean", "running_var", "min_val", "max_val")
        return [value.clone() for name, value in prepared.named_buffers() if name.endswith(moving)]

    quantize(trained("small_cnn"), Settings("qat", "fx"), Data((images(),), train=train))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_runs_on_the_gpu_and_the_result_on_cpu():
    devices = set()

    def loss(output, target):
        devices.add(output.device.type)
        return F.cross_entropy(output, target)

    result = qx.quantize_qat(trained("small_cnn"), batches(digits().train), loss, **report())
    assert devices == {"cuda"}
    assert result.model(images()).device.type == "cpu"
    assert result.report.accuracy_after > 0.95
