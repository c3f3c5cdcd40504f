"""Integer counts of correct samples, beside a script that knows pytorch-quantization only."""

from typing import Any

import numpy as np
import plain_script
import pytest
import torch
from networks import TRAINABLE, batches, digits, trained, wrapping

from qexplore.metrics import top1_accuracy
from qexplore.model import QuantizedActivationsModel

NUM_VECTORS = 10


def count_correct(model: QuantizedActivationsModel, num_bits: Any, loader: plain_script.Loader) -> int:
    with model.using(num_bits), torch.no_grad():
        return sum(int(top1_accuracy(model(x), y).sum()) for x, y in loader)


def random_vectors(num_points: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, 9, size=(NUM_VECTORS, num_points))


@pytest.mark.parametrize("unsigned", [False, "auto"])
@pytest.mark.parametrize("name", list(TRAINABLE))
def test_counts_of_correct_samples_equal_those_of_a_plain_script(name: str, unsigned: Any) -> None:
    calibration, search = batches(digits().calibration), batches(digits().search)
    model = QuantizedActivationsModel(trained(name), **wrapping(name, unsigned=unsigned))
    model.calibrate(calibration)
    plain = trained(name)
    ranges = plain_script.calibrate(plain, list(model.activation_fake_quantizers), calibration)
    vectors = random_vectors(len(ranges), seed=len(name))

    ours = [count_correct(model, vector, search) for vector in vectors]
    truth = [
        plain_script.count_correct(plain, ranges, vector, search, unsigned=unsigned == "auto") for vector in vectors
    ]

    assert ours == truth
    assert len(set(truth)) > 2  # the widths matter, so agreeing means something


@pytest.mark.parametrize("name", list(TRAINABLE))
def test_logits_equal_those_of_a_plain_script_bit_for_bit(name: str) -> None:
    calibration, x = batches(digits().calibration), digits().report.x[:100]
    model = QuantizedActivationsModel(trained(name), **wrapping(name, unsigned=False, init_num_bits=4))
    model.calibrate(calibration)
    plain = trained(name)
    ranges = plain_script.calibrate(plain, list(model.activation_fake_quantizers), calibration)
    quantizers = {
        point: plain_script.TensorQuantizer(plain_script.QuantDescriptor(num_bits=4, amax=amax))
        for point, (_, amax) in ranges.items()
    }
    plain_script.hook(plain, quantizers)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("name", list(TRAINABLE))
def test_ranges_equal_those_of_a_plain_script_exactly(name: str) -> None:
    calibration = batches(digits().calibration, size=64)
    model = QuantizedActivationsModel(trained(name), **wrapping(name))
    report = model.calibrate(calibration)
    ranges = plain_script.calibrate(trained(name), list(model.activation_fake_quantizers), calibration)
    assert {point.name: (point.lowest, point.amax) for point in report.ranges} == ranges
    assert [point.unsigned for point in report.ranges] == [lowest >= 0 for lowest, _ in ranges.values()]


@pytest.mark.parametrize("name", list(TRAINABLE))
def test_network_without_its_wrapper_is_the_float_network_again(name: str) -> None:
    x = digits().report.x[:50]
    before = trained(name)
    model = QuantizedActivationsModel(trained(name), **wrapping(name, init_num_bits=2))
    model.calibrate(batches(digits().calibration))
    with torch.no_grad():
        assert not torch.equal(model(x), before(x))
        assert torch.equal(model.detach()(x), before(x))
