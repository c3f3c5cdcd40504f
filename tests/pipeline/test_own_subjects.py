"""Subjects of the user's own: in train mode, with several outputs, with little data, with scores below zero."""

import copy

import pytest
import torch
from torch import nn

import qexplore as qx
from qexplore.pipeline import Options, Subject, Transcript, run_pipeline

NOTHING = {"trace": False, "analyze": False, "fold": False, "quantize": False, "qat": False, "explore": False}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def run(subject, **options):
    dialogue = Transcript()
    return run_pipeline(subject, dialogue, Options(**(NOTHING | {"epochs": 1} | options))), dialogue.text


def subject(network, batches, **given):
    return Subject("mine", network, batches, batches, batches, **given)


class Several(nn.Module):
    """Two outputs, in the container that ``kind`` makes of them."""

    def __init__(self, kind):
        super().__init__()
        self.fc, self.kind = nn.Linear(8, 8), kind

    def forward(self, x):
        y = self.fc(x)
        return self.kind(y)


KINDS = {"tuple": lambda y: (y, y.sum(1)), "dict": lambda y: {"y": y, "z": y.sum(1)}}


def test_a_subject_in_train_mode_is_measured_in_eval_mode_and_stays_as_it_was():
    network = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    network[0].eval()
    batches = [(3 * torch.randn(32, 8) + 1, torch.randint(0, 3, (32,))) for _ in range(3)]
    modes, before = [one.training for one in network.modules()], copy.deepcopy(network.state_dict())
    _, text = run(subject(network, batches, metric=qx.top1_accuracy))
    assert [one.training for one in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.eval()
    with torch.no_grad():
        right = torch.cat([network(x).argmax(1) == y for x, y in batches]).float().mean()
    assert text.startswith(f"Float accuracy on held-out data: {right:.4f}")


@pytest.mark.parametrize("kind", KINDS)
def test_all_outputs_of_a_network_are_trained_towards_the_float_ones(kind):
    network = Several(KINDS[kind]).eval()
    batches = [(torch.randn(16, 8), None) for _ in range(4)]
    result, _ = run(subject(network, batches), quantize=True, qat=True, epochs=4, linear_num_bits=2)
    assert result.trained.error < 0.9 * result.post_training.error


@pytest.mark.filterwarnings("ignore:All 11 samples of the report set were calibrated on")  # the only batch is all data
def test_one_held_out_batch_is_halved_and_a_score_may_be_below_zero():
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.randn(21, 8)
    batches = [(x, network(x).detach() + 0.3 * torch.randn(21, 3))]
    metric = qx.Metric(lambda output, target: -(output - target).square().mean(1), name="minus_mse")
    result, text = run(subject(network, batches, metric=metric), explore=True, evaluations=5)
    assert "No widths lose as little" not in text
    with torch.no_grad():
        scores = metric(network(x), batches[0][1])
    searched, reported = float(scores[:10].mean()), float(scores[10:].mean())
    found = result.exploration
    assert (found.float_accuracy, found.report_float_accuracy) == pytest.approx((searched, reported), abs=1e-5)
    assert found.front.min_accuracy == pytest.approx(searched - min(0.05, abs(searched) / 2), abs=1e-5)
