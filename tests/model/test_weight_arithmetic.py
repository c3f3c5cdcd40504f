"""The arithmetic of quantized weights, beside torch's and a loop by hand."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from weighted_modules import EVERY_MODULE, MODULES, seeded, wrapped

from qexplore import predicates
from qexplore.model import QuantizedModel
from qexplore.quant import QuantDescriptor, TensorQuantizer

WIDTHS = range(2, 9)


def channels(module: nn.Module, weight: Tensor) -> list[Tensor]:
    """By hand: where the values of each output channel stand in the flat weight, input channel by input channel."""
    places = torch.arange(weight.numel()).reshape(weight.shape)
    if not isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return [places[channel].flatten() for channel in range(len(places))]
    taken = len(places) // module.groups
    return [
        places[group * taken : (group + 1) * taken, channel].flatten()
        for group in range(module.groups)
        for channel in range(places.shape[1])
    ]


def by_hand(rows: list[Tensor], weight: Tensor, choice: Any) -> Tensor:
    """Every row through a quantizer of its own."""
    flat, result = weight.flatten(), torch.full((weight.numel(),), torch.nan)
    for row in rows:
        quantizer = TensorQuantizer(QuantDescriptor(amax=float(flat[row].abs().max())), unsigned=False)
        quantizer.num_bits = choice
        result[row] = quantizer(flat[row])
    return result.reshape(weight.shape)


def units_apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference in units of the last place."""
    a, b = ours.numpy(), theirs.numpy()
    return float((np.abs(a.astype(np.float64) - b) / np.spacing(np.maximum(np.abs(a), np.abs(b)))).max())


class TestArithmetic:
    @EVERY_MODULE
    @torch.no_grad()
    def test_channels_equal_torchs_to_two_units_in_the_last_place(self, name: str) -> None:
        # torch multiplies by the rounded inverse of the scale, and by the scale where we divide: two roundings.
        model, weight, read = wrapped(name)
        module = model.model
        is_transposed = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
        parts = weight.chunk(module.groups) if is_transposed else (weight,)
        axis = 1 if is_transposed else 0
        others = [one for one in range(weight.dim()) if one != axis]
        for width in WIDTHS:
            model.num_bits = [width] * len(model.points)
            low, high = -(2 ** (width - 1)), 2 ** (width - 1) - 1
            theirs = []
            for part in parts:
                scale = part.abs().amax(dim=others) / high
                zero = torch.zeros_like(scale, dtype=torch.int32)
                theirs.append(torch.fake_quantize_per_channel_affine(part, scale, zero, axis, low, high))
            assert units_apart(read(), torch.cat(theirs)) <= 2
            assert not torch.equal(read(), weight)

    @torch.no_grad()
    def test_a_whole_tensor_equals_torchs_to_two_units_in_the_last_place(self) -> None:
        model, weight, read = wrapped("conv2d", "tensor")
        for width in WIDTHS:
            model.num_bits = [width]
            high = 2 ** (width - 1) - 1
            theirs = torch.fake_quantize_per_tensor_affine(weight, float(weight.abs().max()) / high, 0, -high - 1, high)
            assert units_apart(read(), theirs) <= 2

    @EVERY_MODULE
    @torch.no_grad()
    def test_every_channel_equals_a_quantizer_of_its_own_bit_for_bit(self, name: str) -> None:
        model, weight, read = wrapped(name)
        rows = channels(model.model, weight)
        for choice in (*WIDTHS, 16, "E4M3", "E2M1", "MXE2M1"):
            model.num_bits = [choice] * len(model.points)
            assert torch.equal(read(), by_hand(rows, weight, choice))
        assert model.points[0].num_scales == len(rows)
        model.num_bits = ["off"] * len(model.points)
        assert torch.equal(read(), weight)

    @EVERY_MODULE
    @pytest.mark.parametrize("size", [32, 64, 128])
    @torch.no_grad()
    def test_groups_equal_a_loop_over_them_bit_for_bit_a_shorter_last_one_included(self, name: str, size: int) -> None:
        model, weight, read = wrapped(name, size)
        groups = [group for row in channels(model.model, weight) for group in row.split(size)]
        assert model.points[0].num_scales == len(groups)
        for choice in (2, 3, 4, 8, "E3M2", "MXE4M3"):
            model.num_bits = [choice] * len(model.points)
            assert torch.equal(read(), by_hand(groups, weight, choice))

    @EVERY_MODULE
    @torch.no_grad()
    def test_one_scale_for_the_tensor_equals_one_quantizer_bit_for_bit(self, name: str) -> None:
        model, weight, read = wrapped(name, "tensor")
        for choice in (2, 4, 8, "E4M3", "MXE2M3"):
            model.num_bits = [choice] * len(model.points)
            assert torch.equal(read(), by_hand([torch.arange(weight.numel())], weight, choice))
        assert model.points[0].num_scales == 1

    def test_a_group_as_long_as_the_row_or_longer_is_the_channel(self) -> None:
        for size in (150, 151, 10_000):
            model, weight, read = wrapped("linear", size)
            model.num_bits = [3]
            assert torch.equal(read(), by_hand(channels(model.model, weight), weight, 3))
            assert model.points[0].num_scales == 5

    def test_a_group_of_one_keeps_every_magnitude(self) -> None:
        model, weight, read = wrapped("linear", 1)
        model.num_bits = [2]
        assert units_apart(read(), weight) <= 1
        assert model.points[0].num_scales == weight.numel()

    def test_a_row_of_zeros_stays_zero_at_every_choice(self) -> None:
        for granularity in ("channel", "tensor", 32):
            module = seeded(MODULES["linear"])
            module.weight.data[2] = 0
            model = QuantizedModel(module, weights=predicates.weighted, weight_granularity=granularity)
            for method in ("max", "percentile", "mse"):
                model.calibrate(weight_method=method)
                for choice in (2, 4, 16, "E4M3", "MXE2M1"):
                    model.num_bits = [choice]
                    assert bool((module.weight[2] == 0).all())
                    assert bool(torch.isfinite(module.weight).all())

    @torch.no_grad()
    def test_a_half_precision_network_has_half_precision_weights(self) -> None:
        for dtype in (torch.float16, torch.bfloat16):
            module = seeded(MODULES["linear"]).to(dtype)
            weight = module.weight.detach().clone()
            model = QuantizedModel(module, weights=predicates.weighted)
            model.num_bits = [4]
            assert module.weight.dtype == dtype
            step = weight.float().abs().amax(dim=1, keepdim=True) / 7
            assert bool(((module.weight - weight).abs() <= 0.51 * step + 0.02 * weight.abs()).all())


@pytest.mark.parametrize("granularity", ["channel", "tensor", 2])
@pytest.mark.parametrize("small", [4e-8, 2.0**-30, 1e-30, 1e-38])
@pytest.mark.parametrize("method", ["max", "mse", "percentile"])
def test_rows_of_any_size_are_quantized_like_others(granularity: Any, small: float, method: str) -> None:
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, -0.6, 0.3, 0.9], [1.0, -0.6, 0.3, 0.9]])
    layer.weight.data *= small if granularity == "tensor" else torch.tensor([[1.0], [small]])
    for choice in (16, 8, "E4M3"):
        model = QuantizedModel(
            copy.deepcopy(layer), weights=predicates.everything, weight_granularity=granularity, init_num_bits=choice
        )
        report = model.calibrate(weight_method=method)
        assert report.dead_points == () and "zero" not in str(report)
        assert torch.allclose(model.model.weight.double(), layer.weight.double(), rtol=0.07, atol=0.0)
