"""Which share of a network is at points, against counts by hand; what stays float is named."""

from __future__ import annotations

import pytest
from counted_networks import Counted, counted

import qexplore as qx
from qexplore import predicates

NETWORKS = counted()


def amounts(coverage: qx.Coverage) -> tuple[float, ...]:
    shares = coverage.parameters, coverage.weight_macs, coverage.activation_macs, coverage.activation_elements
    return tuple(share.quantized for share in shares if share is not None)


@pytest.mark.parametrize("name", NETWORKS)
class TestByHand:
    def of(self, name: str, **points: object) -> tuple[Counted, qx.Coverage]:
        one = NETWORKS[name]
        model = qx.QuantizedModel(one.make().eval(), **points)  # type: ignore[arg-type]
        coverage = model.coverage(one.example)
        assert tuple(share.total for share in coverage.shares.values()) == one.total
        return one, coverage

    def test_of_outputs_alone(self, name: str) -> None:
        one, coverage = self.of(name, activations=NETWORKS[name].outputs, outputs="all")
        assert amounts(coverage) == one.by_outputs

    def test_of_weights_alone(self, name: str) -> None:
        one, coverage = self.of(name, weights=predicates.weighted)
        assert amounts(coverage) == one.by_weights

    def test_of_all_operands(self, name: str) -> None:
        one, coverage = self.of(name, scheme="all-int8")
        assert amounts(coverage) == one.by_all
        elements = coverage.activation_elements
        assert elements is not None and dict(elements.largest_float) == one.left_by_all

    def test_of_points_that_are_disabled_by_hand(self, name: str) -> None:
        one = NETWORKS[name]
        model = qx.QuantizedModel(one.make().eval(), scheme="all-int8")
        model.describe(one.example)
        for quantizer in model.fake_quantizers.values():
            quantizer.disable()
        assert amounts(model.coverage()) == (0, 0, 0, 0)
