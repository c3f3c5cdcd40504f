"""Fine-tuning with points on inputs of modules and on calls."""

import pytest
import torch
from called_networks import CALLED
from torch.nn import functional as F

import qexplore as qx


@pytest.mark.parametrize("name", ["residual", "fused attention", "shared reads"])
def test_step_sizes_of_all_points_are_learned_and_stay(name):
    case = CALLED[name]
    draw = torch.Generator().manual_seed(0)
    batches = [(torch.randn(12, 1, 8, 8, generator=draw), torch.randint(0, 10, (12,), generator=draw))]
    torch.manual_seed(0)
    model = qx.QuantizedModel(case.make(), **case.points)
    model.calibrate(batches)
    widths = [4] * len(model.points)
    model.num_bits = widths
    before = {key: float(quantizer.amax) for key, quantizer in model.fake_quantizers.items()}
    tuned = qx.fine_tune(
        model, widths, batches, F.cross_entropy, learn_step_sizes=True, step_learning_rate=0.05, epochs=2, seed=0
    )
    assert tuned is not None
    assert all(float(quantizer.amax) != before[key] for key, quantizer in model.fake_quantizers.items())
    assert model.num_bits.tolist() == widths
