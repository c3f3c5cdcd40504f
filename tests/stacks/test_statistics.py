"""BatchNorm statistics in training: which move, and until when."""

import pytest
import torch
from torch import nn

import qexplore as qx

IMAGES = torch.randn(8, 3, 6, 6)


def network_of(*frozen):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    )
    for name in frozen:
        network.get_submodule(name).requires_grad_(False)
    return network.eval()


def trained(network, batches, stack, freeze_after=1.0):
    pairs = [(batch, torch.zeros(len(batch))) for batch in batches]
    loss = lambda output, _: (output**2).mean()  # noqa: E731
    return qx.quantize_qat(network, pairs, loss, stack=stack, learning_rate=1e-9, freeze_after=freeze_after)


@pytest.mark.parametrize("stack", ["fx", "eager", pytest.param("pt2e", marks=pytest.mark.slow)])
def test_statistics_of_layers_that_do_not_train_stay_and_the_report_says_so(stack):
    names = ("0", "2", "5")
    network, shifted = network_of(*names), IMAGES * 3 + 2
    result = trained(network, [shifted] * 3, stack)
    with torch.no_grad():
        assert (result.model(shifted) - network(shifted)).norm() < 0.05 * network(shifted).norm()
    assert any("statistics stay" in note and "'0', '2', '5'" in note for note in result.report.notes)


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_statistics_of_others_move(stack):
    network, shifted = network_of("2"), IMAGES * 3 + 2
    result = trained(network, [shifted] * 3, stack)
    assert abs(float(result.model.get_submodule("0").running_mean.mean())) > 0.4
    assert any("statistics stay" in note and note.endswith("'2'") for note in result.report.notes)


@pytest.mark.filterwarnings("ignore:.* of the float norm away")  # the batches behind were to be others
@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_a_batchnorm_that_stands_alone_is_frozen_with_the_others(stack):
    batches = [IMAGES, *[IMAGES + 100] * 3]
    result = trained(network_of(), batches, stack, freeze_after=0.25)
    assert abs(float(result.model.get_submodule("0").running_mean.mean())) < 0.1
