"""A range for every choice: looked up when the width is set, kept in the state dict, absent in old ones."""

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from qexplore.errors import CalibrationError
from qexplore.quant import FixedQuantizer, QuantDescriptor, TensorQuantizer

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
HIGH = {2: 0.8, 4: 1.5, 8: 2.5, 403: 3.0}
LOW = {2: -0.1, 4: -0.2, 8: -0.3, 403: -3.0}


def with_table(**options: Any) -> TensorQuantizer:
    quantizer = TensorQuantizer(QuantDescriptor(), **options)
    quantizer.set_amax_table(HIGH, LOW if options.get("asymmetric") else None)
    return quantizer


def single(num_bits: Any, amax: Any) -> TensorQuantizer:
    quantizer = TensorQuantizer()
    quantizer.amax = amax
    quantizer.num_bits = num_bits
    return quantizer


@pytest.mark.parametrize("code", HIGH)
def test_every_choice_has_its_own_range(code: int) -> None:
    quantizer = with_table()
    quantizer.num_bits = code
    assert quantizer.amax is not None
    assert float(quantizer.amax) == torch.tensor(HIGH[code])
    assert torch.equal(quantizer(X), single(code, HIGH[code])(X))


def test_a_choice_without_a_range_takes_the_largest_one() -> None:
    quantizer = with_table()
    quantizer.num_bits = 6
    assert torch.equal(quantizer(X), single(6, 3.0)(X))


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_range_of_nothing_is_dead_however_large_the_values_are(asymmetric: bool) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(), asymmetric=asymmetric)
    # The last two are MX formats, whose rows hold the largest magnitude seen.
    high = {2: 0.0, 8: 0.0, 403: 0.0, 1403: 5.0, 1201: 5.0}
    quantizer.set_amax_table(high, {code: -end for code, end in high.items()} if asymmetric else None)
    assert quantizer.is_dead
    for code in (2, 6, 8, 403):
        quantizer.num_bits = code
        assert not quantizer(X).any()
    quantizer.num_bits = 1403
    assert quantizer(X).any()
    quantizer.set_amax_table({**high, 8: 0.1})
    assert not quantizer.is_dead


def test_setting_amax_gives_one_range_to_all_widths_again() -> None:
    quantizer = with_table()
    quantizer.amax = 1.1
    for code in HIGH:
        quantizer.num_bits = code
        assert torch.equal(quantizer(X), single(code, 1.1)(X))


def test_ranges_per_channel() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(axis=1))
    tables = {code: torch.tensor([[1.0, 2.0, 0.5, 0.7]]) * amax for code, amax in HIGH.items()}
    quantizer.set_amax_table(tables)
    for code, amax in tables.items():
        quantizer.num_bits = code
        assert torch.equal(quantizer(X), single(code, amax)(X))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_a_wrong_range_is_refused_and_the_old_ones_kept(wrong: float) -> None:
    quantizer = with_table()
    quantizer.num_bits = 4
    with pytest.raises(CalibrationError, match="must be finite and not negative at every width"):
        quantizer.set_amax_table({4: 1.0, 8: wrong})
    assert quantizer.amax is not None
    assert float(quantizer.amax) == 1.5


def test_a_scaled_range_is_scaled_at_every_width() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(scale_amax=0.5))
    quantizer.set_amax_table(HIGH)
    quantizer.num_bits = 4
    assert torch.equal(quantizer(X), single(4, 0.75)(X))


@pytest.mark.parametrize("asymmetric", [False, True])
def test_state_dict_carries_all_ranges(asymmetric: bool) -> None:
    source = with_table(asymmetric=asymmetric)
    source.num_bits = 403
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    fresh = TensorQuantizer(QuantDescriptor())
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert (fresh.code, fresh.asymmetric) == (403, asymmetric)
    for code in HIGH:
        source.num_bits = fresh.num_bits = code
        assert torch.equal(fresh(X), source(X))


@pytest.mark.parametrize("name", ["E5M2", "MXE3M2"])
def test_state_dict_carries_a_format(name: str) -> None:
    fresh = TensorQuantizer()
    fresh.load_state_dict(single(name, 2.0).state_dict(), strict=True)
    assert str(fresh.num_bits) == name
    assert torch.equal(fresh(X), single(name, 2.0)(X))


def test_state_dict_from_before_there_were_ranges_loads() -> None:
    old = {"_amax": torch.tensor(1.5), "num_bits": torch.tensor(4), "unsigned": torch.tensor(False)}
    for target in (TensorQuantizer(), with_table()):
        network = nn.Sequential(target)
        network.load_state_dict({f"0.{key}": value for key, value in old.items()}, strict=True)
        assert torch.equal(target(X), single(4, 1.5)(X))
        target.num_bits = 8
        assert torch.equal(target(X), single(8, 1.5)(X))


def test_a_state_dict_without_ranges_clears_those_that_are_there() -> None:
    target = with_table()
    target.load_state_dict(single(4, 1.1).state_dict(), strict=True)
    assert torch.equal(target(X), single(4, 1.1)(X))


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_ranges_stay_float32_when_a_model_is_cast(cast: str) -> None:
    quantizer = with_table(asymmetric=True)
    getattr(nn.Sequential(quantizer), cast)()
    quantizer.num_bits = 4
    assert quantizer.ranges.high.dtype == quantizer.ranges.low.dtype == torch.float32
    assert float(quantizer.range[1]) == 1.5
    assert torch.equal(quantizer(X), with_width(with_table(asymmetric=True), 4)(X))


def test_deep_copy_shares_nothing() -> None:
    original = with_table()
    duplicate = copy.deepcopy(original)
    duplicate.set_amax_table({4: 9.0})
    original.num_bits = 4
    assert float(original.range[1]) == 1.5


def with_width(quantizer: TensorQuantizer, code: int) -> TensorQuantizer:
    quantizer.num_bits = code
    return quantizer


@pytest.mark.parametrize("code", [*HIGH, 3, 16, 304, 1403, 1201])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_settled_quantizer_gives_the_same_bits_at_every_choice(code: int, asymmetric: bool) -> None:
    quantizer = with_table(asymmetric=asymmetric)
    settled = FixedQuantizer.of(quantizer, code)
    special = torch.tensor([0.0, -0.0, 1e-42, 3e38, -3e38, math.inf, -math.inf, math.nan])
    x = torch.cat([X.flatten() * 2, special])
    expected = with_width(quantizer, code)(x)
    assert torch.equal(settled(x).nan_to_num(7.7), expected.nan_to_num(7.7))
    assert torch.equal(settled(x.clone(), in_place=True).nan_to_num(7.7), expected.nan_to_num(7.7))
    clamped = settled.behind_clamp(0.0, 6.0)(x)
    assert torch.equal(clamped.nan_to_num(7.7), quantizer(x.clamp(0.0, 6.0)).nan_to_num(7.7))
    assert torch.equal(settled(X, 2 * X), quantizer(X + 2 * X))
