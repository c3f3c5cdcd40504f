"""Corrected biases: exact on the data they were measured on, gone without a trace, and the same in the engine."""

import copy

import called_networks
import numpy as np
import pytest
import torch
from networks import Split, batches, digits, trained
from problems import prefix_evaluator, tiny_network
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import CalibrationError, DataError, ModelError
from qexplore.model import QuantizedModel, detach
from qexplore.preparation import correct_biases, fold_batchnorm, remove_bias_corrections


def wrapped(network, **options):
    return QuantizedModel(network, weights=predicates.weighted, **{"weight_granularity": "tensor", **options})


LAYERS = [
    (nn.Linear(6, 4), (5, 6)),
    (nn.Linear(6, 4), (5, 3, 6)),
    (nn.Conv1d(4, 6, 3, padding=1, stride=2, groups=2), (5, 4, 9)),
    (nn.Conv2d(4, 6, 3, padding=2, dilation=2), (5, 4, 7, 6)),
    (nn.Conv2d(6, 12, 3, padding=1, groups=6), (5, 6, 7, 7)),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (5, 3, 7, 7)),
    (nn.Conv2d(3, 4, 3, padding="same"), (3, 7, 7)),
    (nn.Conv3d(2, 3, 2), (5, 2, 4, 4, 4)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (5, 4, 5, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@torch.no_grad()
def test_the_mean_output_of_a_layer_is_the_float_one_at_every_choice(layer, shape, granularity):
    network = nn.Sequential(copy.deepcopy(layer))
    data = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    axis = {nn.Linear: -1}.get(type(layer), len(shape) - len(getattr(layer, "kernel_size", ())) - 1)
    kept = [dim for dim in range(len(shape)) if dim != axis % len(shape)]

    def mean():
        return torch.stack([network(x).mean(dim=kept) for x in data]).mean(dim=0)

    expected = mean()
    model = wrapped(network, weight_granularity=granularity)
    bias = layer.bias.clone()

    report = correct_biases(model, data)

    assert [one.name for one in report.layers] == ["0"]
    for choice in (8, 4, 2, "E2M1"):
        model.num_bits = [choice]
        assert not torch.equal(network[0].weight, layer.weight)
        assert torch.allclose(mean(), expected, atol=2e-6)
        assert not torch.equal(network[0].bias, bias)
    model.num_bits = [0]
    assert torch.equal(network[0].bias, bias)
    assert report.layers[0].before[4] > 100 * report.layers[0].after[4]


def test_batches_of_different_size_and_shape_count_by_their_positions():
    layer = nn.Conv2d(2, 3, 3, padding=1)
    model = wrapped(nn.Sequential(layer))
    data = [torch.rand(1, 2, 8, 8), torch.rand(5, 2, 4, 4) + 2]
    correct_biases(model, data)
    model.num_bits = [3]
    with torch.no_grad():
        change = [
            nn.functional.conv2d(x, layer.weight - layer.parametrizations.weight.original, padding=1) for x in data
        ]
        shift = torch.cat([one.transpose(0, 1).flatten(1) for one in change], dim=1).mean(dim=1)
        assert torch.allclose(layer.bias, layer.parametrizations.bias.original - shift, atol=1e-5)


def test_accuracy_and_noise_gain_on_a_real_network():
    folded = fold_batchnorm(trained("mobilenet")).network
    model = wrapped(folded)

    report = correct_biases(model, batches(digits().calibration), num_batches=2)

    assert report.num_batches == 2 and len(report.layers) == 12 and not report.skipped
    # At few bits this network's rounding noise drowns the means that deeper layers see, by a draw of the training,
    # which differs from processor to processor: the sum over layers falls, not every layer's, nor need SQNR rise at 4.
    assert list(report.sqnr) == [8, 6, 4]
    (before, after), (before_6, after_6) = report.sqnr[8], report.sqnr[6]
    assert after > before + 1 and after_6 > before_6
    assert all(one.after[8] < one.before[8] for one in report.layers)
    for width in (6, 4):
        assert sum(one.after[width] for one in report.layers) < sum(one.before[width] for one in report.layers)
    assert "SQNR" in str(report) and "blocks.1.layers.3" in str(report)


@pytest.mark.parametrize("name", ["small_cnn", pytest.param("mobilenet", marks=pytest.mark.slow), "shared_relu"])
def test_engine_and_direct_evaluator_agree_with_corrections_on(name):
    """Folded networks have a bias everywhere; unfolded ones partly, with BatchNorm behind layers that have none."""
    for network in (trained(name), fold_batchnorm(trained(name)).network):
        model = wrapped(network, activations=predicates.by_type(nn.ReLU, nn.ReLU6))
        model.calibrate(batches(digits().calibration))
        loader = batches(Split(*(one[:200] for one in digits().search)))
        plain = prefix_evaluator(model, loader, qx.top1_accuracy)
        correct_biases(model, batches(digits().calibration))
        direct = qx.DirectEvaluator(model, loader, qx.top1_accuracy)
        engine = prefix_evaluator(model, loader, qx.top1_accuracy)
        assert engine.description.startswith("prefix")
        rng = np.random.default_rng(0)
        candidates = rng.integers(3, 7, size=(6, len(model.points)))
        candidates[1] = 0
        candidates[2, -2:] = 403  # E4M3
        expected = [one.score for one in direct.evaluate(candidates)]
        assert np.allclose([one.score for one in engine.evaluate(candidates)], expected, atol=0.0051)
        before = [one.score for one in plain.evaluate(candidates)]
        # An evaluator made earlier notices that the model has moved.
        assert np.allclose(before, expected, atol=0.0051)


def test_bias_before_batchnorm_is_corrected_before_it_is_folded():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.relu, self.fc = (
                nn.Conv2d(1, 6, 3),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Linear(6 * 36, 10),
            )

        def forward(self, x):
            return self.fc(self.relu(self.norm(self.conv(x))).flatten(1))

    torch.manual_seed(0)
    network = Normed()
    network(digits().train.x)  # statistics
    model = wrapped(network.eval(), activations=predicates.by_type(nn.ReLU))
    model.calibrate(batches(digits().calibration))
    correct_biases(model, batches(digits().calibration))
    metric = qx.Metric(lambda output, target: -output.square().sum(dim=1), name="size", higher_is_better=True)
    loader = batches(digits().search)
    candidates = np.array([[8, 8, 3, 3], [8, 4, 2, 6], [0, 0, 0, 0]])
    direct = [one.score for one in qx.DirectEvaluator(model, loader, metric).evaluate(candidates)]
    engine = prefix_evaluator(model, loader, metric)
    assert np.allclose([one.score for one in engine.evaluate(candidates)], direct, rtol=1e-4)
    remove_bias_corrections(model)
    plain = [one.score for one in qx.DirectEvaluator(model, loader, metric).evaluate(candidates)]
    assert not np.allclose(plain[:2], direct[:2], rtol=1e-3)
    assert plain[2] == pytest.approx(direct[2], rel=1e-6)


def test_detach_and_removal_restore_the_network_bit_for_bit_and_move_the_version():
    network = trained("small_cnn")
    before = copy.deepcopy(network.state_dict())
    bias = network.fc1.bias
    model = wrapped(network)
    bare = model.version()

    correct_biases(model, batches(digits().calibration))
    corrected = model.version()
    assert corrected != bare
    model.num_bits = [3] * len(model.points)
    assert model.version() == corrected
    remove_bias_corrections(model)
    assert model.version() != corrected
    assert network.fc1.bias is bias
    correct_biases(model, batches(digits().calibration))

    after = model.detach().state_dict()

    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert type(network.fc1) is nn.Linear and network.fc1.bias is bias


def test_deep_copies_and_state_dicts_carry_corrections():
    model, x = wrapped(trained("small_cnn")), digits().report.x[:8]
    plain = copy.deepcopy(model)
    correct_biases(model, batches(digits().calibration))
    copied = copy.deepcopy(model)
    model.num_bits = copied.num_bits = plain.num_bits = [3] * len(model.points)
    with torch.no_grad():
        expected, uncorrected = model(x), plain(x)
        assert torch.equal(copied(x), expected) and not torch.equal(uncorrected, expected)
        model.num_bits = [8] * len(model.points)
        assert torch.equal(copied(x), expected)  # follows its own quantizers
        copied.detach()
        model.num_bits = [3] * len(model.points)
        assert torch.equal(model(x), expected)

        other = wrapped(trained("small_cnn"))
        correct_biases(other, [torch.rand(4, 1, 8, 8)])
        other.load_state_dict(model.state_dict())
        other.num_bits = [3] * len(model.points)
        assert torch.equal(other(x), expected)


def test_a_weight_that_several_layers_share_is_corrected_in_each_by_its_own_input():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    network, x = nn.Sequential(first, nn.ReLU(), second), torch.rand(16, 4)
    with torch.no_grad():
        expected = first(x).mean(dim=0)
    model = wrapped(network)
    correct_biases(model, [x])
    model.num_bits = [3]
    with torch.no_grad():
        assert torch.allclose(first(x).mean(dim=0), expected, atol=1e-6)
    means = [layer.parametrizations.bias[0].mean_input for layer in (first, second)]
    assert not torch.allclose(*means)


def test_gradients_reach_bias_and_weight():
    model = wrapped(tiny_network().requires_grad_(True))
    correct_biases(model, batches(digits().calibration))
    model.num_bits = [4] * len(model.points)
    model(digits().train.x[:8]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.model.parameters())


def test_layers_that_cannot_be_corrected_are_named():
    report = correct_biases(wrapped(trained("small_cnn")), batches(digits().calibration))
    assert [one.name for one in report.layers] == ["fc1", "fc2"]
    assert report.skipped.keys() == {"conv1", "conv2"}
    assert "fold_batchnorm" in report.skipped["conv1"]
    attention = correct_biases(
        QuantizedModel(trained("transformer"), weights=predicates.by_type(nn.Linear, nn.MultiheadAttention)),
        batches(digits().calibration),
    )
    assert "MultiheadAttention" in attention.skipped["encoder.layers.0.self_attn"]
    assert "encoder.layers.0.linear1" in [one.name for one in attention.layers]


def test_bad_input_is_refused_and_nothing_changes():
    model = wrapped(trained("small_cnn"))
    correct_biases(model, batches(digits().calibration))
    before = model.version()
    with pytest.raises(DataError, match="at least one batch"):
        correct_biases(model, [])
    with pytest.raises(CalibrationError, match="inputs of 'fc1' must be finite"):
        correct_biases(model, [torch.full((2, 1, 8, 8), float("nan"))])
    with pytest.raises(RuntimeError, match="channels"):
        correct_biases(model, [torch.zeros(2, 3, 8, 8)])
    with pytest.raises(DataError, match="num_batches"):
        correct_biases(model, batches(digits().calibration), num_batches=0)
    assert model.version() == before
    with pytest.raises(ModelError, match="takes a QuantizedModel, got SmallCNN"):
        correct_biases(trained("small_cnn"), [])
    with pytest.raises(ModelError, match="must have quantized weights"):
        correct_biases(QuantizedModel(trained("small_cnn"), predicates.by_type(nn.ReLU)), [])
    detached = wrapped(trained("small_cnn"))
    detach(detached.model)
    with pytest.raises(ModelError, match="detached"):
        correct_biases(detached, batches(digits().calibration))
    with pytest.raises(ModelError, match="at least one layer must have a bias"):
        correct_biases(wrapped(nn.Sequential(nn.Linear(2, 2, bias=False))), [torch.ones(1, 2)])


def test_correction_under_a_scheme_is_that_of_weights_alone():
    torch.manual_seed(0)
    network = called_networks.Residual().eval()  # its calls are points, and none of a listener's are
    data, found = [torch.randn(4, 1, 8, 8) for _ in range(2)], []
    for points in ({"scheme": "all-int8", "weight_granularity": "tensor"}, {}):
        network_of_its_own = copy.deepcopy(network)
        model = QuantizedModel(network_of_its_own, **points) if points else wrapped(network_of_its_own)
        model.calibrate(data, weight_method="max")
        report = correct_biases(model, data)
        model.num_bits = [3 if point.kind == "weight" else 0 for point in model.points]
        found.append([network_of_its_own.get_submodule(one.name).bias.detach() for one in report.layers])
    assert len(found[0]) > 1 and all(map(torch.equal, *found))
