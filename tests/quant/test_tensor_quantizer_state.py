"""How TensorQuantizer keeps its numbers: state dicts and copies."""

import copy
import io
from typing import Any

import pytest
import torch

from qexplore.errors import NumBitsError
from qexplore.quant import QuantDescriptor, TensorQuantizer

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))


class TestKeeping:
    def build(self, **options: Any) -> TensorQuantizer:
        return TensorQuantizer(QuantDescriptor(num_bits=8), unsigned="auto", **options)

    def calibrated(self) -> TensorQuantizer:
        quantizer = self.build()
        quantizer.amax = 1.5
        quantizer.decide_sign(0.0)
        quantizer.num_bits = 1
        return quantizer

    def test_state_dict_carries_range_width_and_sign_to_a_fresh_quantizer(self) -> None:
        file = io.BytesIO()
        torch.save(self.calibrated().state_dict(), file)
        file.seek(0)
        fresh = self.build()
        fresh.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"), strict=True)
        assert fresh.amax is not None
        assert (float(fresh.amax), fresh.num_bits, fresh.unsigned) == (1.5, 1, True)
        assert torch.equal(fresh(X.abs()), self.calibrated()(X.abs()))

    def test_state_dict_of_an_uncalibrated_quantizer_loads_into_a_fresh_one(self) -> None:
        source, fresh = self.build(), self.build()
        source.num_bits = 3
        fresh.load_state_dict(source.state_dict(), strict=True)
        assert fresh.num_bits == 3
        assert fresh.amax is None

    def test_state_dict_loads_ranges_of_another_shape(self) -> None:
        source, target = self.build(), self.calibrated()
        source.amax = torch.ones(1, 4)
        target.load_state_dict(source.state_dict(), strict=True)
        assert target.amax is not None
        assert target.amax.shape == (1, 4)

    def test_switched_off_quantizer_stays_off_through_a_state_dict(self) -> None:
        source, fresh = self.calibrated(), self.build()
        source.switched_off = True
        fresh.load_state_dict(source.state_dict(), strict=True)
        assert not fresh.is_active
        assert fresh(X) is X

    def test_strict_loading_names_what_is_missing(self) -> None:
        state = self.calibrated().state_dict()
        for key in ("num_bits", "unsigned", "_amax"):
            partial = {name: value for name, value in state.items() if name != key}
            with pytest.raises(RuntimeError, match=f'Missing key.*"{key}"'):
                self.calibrated().load_state_dict(partial, strict=True)

    def test_strict_loading_names_what_is_too_much(self) -> None:
        state = {**self.calibrated().state_dict(), "zero_point": torch.tensor(0)}
        with pytest.raises(RuntimeError, match='Unexpected key.*"zero_point"'):
            self.build().load_state_dict(state, strict=True)

    def test_deep_copy_shares_nothing(self) -> None:
        original = self.calibrated()
        duplicate = copy.deepcopy(original)
        duplicate.amax, duplicate.num_bits, duplicate.unsigned = 9.0, 12, False
        duplicate.disable()
        assert original.amax is not None
        assert (float(original.amax), original.num_bits, original.unsigned) == (1.5, 1, True)
        assert original.is_active


def test_state_dict_with_an_impossible_width_is_refused() -> None:
    saved = TensorQuantizer().state_dict()
    saved["num_bits"] = torch.tensor(40)

    with pytest.raises(NumBitsError, match="got 40"):
        TensorQuantizer().load_state_dict(saved)
