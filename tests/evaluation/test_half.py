"""Half precision, several precisions and `torch.autocast`: the engine gives what the direct evaluator gives."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from networks import TRAINABLE, batches, digits, trained, wrapping
from pretended_device import num_transfers
from problems import search_loader, tiny_model, tiny_network
from torch import Tensor, nn

import qexplore as qx
from qexplore.evaluation import PrefixEvaluator
from qexplore.evaluation import network as network_in_steps
from qexplore.evaluation.agreement import Precision, equal, is_close, largest_difference

HALVES = [torch.float16, torch.bfloat16]


def both(model: qx.QuantizedModel, size: int = 100, around: Any = nullcontext, count: int = 8) -> PrefixEvaluator:
    """The engine, once its scores, continuous ones, equal the direct evaluator's at random candidates."""
    with around():
        direct = qx.DirectEvaluator(model, search_loader(size), qx.negative_log_likelihood)
        engine = PrefixEvaluator(direct, required=True)
        agree(engine, count)
    return engine


def agree(engine: PrefixEvaluator, count: int = 8, tolerance: float = 0.0) -> None:
    quantizers = engine.direct.model.fake_quantizers.values()
    least = [quantizer.min_num_bits for quantizer in quantizers]
    rows = np.random.default_rng(1).integers(2, 9, size=(count, len(least))).clip(min=least)
    for one, other in zip(engine.evaluate(rows), engine.direct.evaluate(rows), strict=True):
        assert one.state == other.state == "complete"
        assert one.scores is not None and other.scores is not None
        assert np.allclose(one.scores, other.scores, rtol=tolerance, atol=tolerance)


def in_half(name: str, dtype: torch.dtype) -> qx.QuantizedActivationsModel:
    network = trained(name) if name == "small_cnn" else TRAINABLE[name].build().eval()
    model = qx.QuantizedActivationsModel(network.to(dtype), **wrapping(name))
    model.calibrate(batches(digits().calibration))
    return model


# ------------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("small_cnn", torch.float16), ("small_cnn", torch.bfloat16), ("transformer", torch.bfloat16)],
    ids=str,
)
def test_a_network_in_half_precision_runs_in_steps_and_equals_the_direct_evaluator(
    name: str, dtype: torch.dtype
) -> None:
    engine = both(in_half(name, dtype))
    told = engine.description
    assert f"{str(dtype).removeprefix('torch.')}: float outputs within" in told
    assert "within 0e+00 of the direct evaluator's on an example (another batch size makes 0e+00" in told
    assert ("BatchNorm not folded (in half precision)" in told) == (name != "transformer")


class Mixed(nn.Module):
    """A body of bfloat16 between a norm and a head of float32, as language models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Linear(64, 24), nn.Linear(24, 24).bfloat16()
        self.norm, self.relu, self.head = nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.embed(x.flatten(1)))
        return self.head(self.norm(self.body(x.bfloat16()).float()))


def test_parameters_of_several_dtypes_run_in_steps() -> None:
    assert "bfloat16: float outputs within" in both(tiny_model(Mixed().eval())).description


def test_float64_keeps_what_float32_has() -> None:
    engine = PrefixEvaluator(
        qx.DirectEvaluator(in_half("small_cnn", torch.float64), search_loader(100), qx.negative_log_likelihood),
        required=True,
    )
    assert "2 BatchNorm folded" in engine.description
    agree(engine, tolerance=1e-9)


class Drowned(nn.Module):
    """What a BatchNorm subtracts is so much larger than what is left that float32 rounds that away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.head = nn.Linear(144, 10)
        with torch.no_grad():
            self.conv.bias.fill_(2e5)  # type: ignore[union-attr]
            self.norm.running_mean.fill_(2e5)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.norm(self.conv(x))).flatten(1))


def test_where_folding_changes_outputs_the_rest_of_the_engine_stays() -> None:
    told = both(tiny_model(Drowned().eval())).description
    assert told.startswith("prefix: ")
    assert "BatchNorm not folded (it changes outputs by more than a thousandth)" in told


def test_a_layout_that_moves_half_precision_by_more_than_another_batch_size_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model(tiny_network().bfloat16())
    weight = model.model.fc3.weight.detach().clone()

    def with_an_error(root: Any, layout: torch.memory_format) -> None:
        root.fc3.weight.data = weight * 1.01 if layout is torch.channels_last else weight.clone()

    monkeypatch.setattr(network_in_steps, "_lay_out", with_an_error)
    engine = both(model)
    assert engine._engine is not None and not engine._engine.network.is_channels_last


def test_the_tolerance_is_a_random_walk_of_roundings() -> None:
    assert Precision(torch.float16, 16, False).tolerance == 2.0**-10 * 4
    assert Precision(torch.bfloat16, 9, False).tolerance == 2.0**-7 * 3
    assert Precision(torch.float32, 100, False).tolerance == Precision(torch.float64, 1, False).tolerance == 1e-3


def test_differences_are_shares_of_the_largest_and_never_lost_in_nan() -> None:
    a = torch.tensor([1.0, -4.0, math.inf, math.nan])
    b = torch.tensor([1.0, -3.5, math.inf, math.nan])
    assert largest_difference(a, b) == 0.125
    assert largest_difference(a, torch.tensor([1.0, -4.0, math.inf, 0.0])) == math.inf
    assert largest_difference(a, torch.tensor([1.0, -4.0, 2.0, math.nan])) == math.inf
    assert largest_difference(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == 0.25
    assert largest_difference(torch.zeros(2), torch.zeros(2)) == largest_difference(a[:0], b[:0]) == 0
    assert largest_difference(torch.zeros(2), torch.ones(2)) == math.inf
    assert equal(a, a) and not equal(a, b) and is_close(a, a) and not is_close(a, b)
    assert is_close(a, a + torch.tensor([0.003, 0, 0, 0])) and not is_close(a, torch.tensor([1.0, -4.0, 2.0, 0.0]))


def test_outputs_of_many_tensors_are_compared_in_one_wait(accelerator: torch.device) -> None:
    first = [torch.randn(3, 4, device=accelerator) for _ in range(5)]
    for judge in (equal, is_close, largest_difference):
        before = num_transfers()
        judge(first, first)
        assert num_transfers() == before + 1


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_an_accelerator_runs_half_precision_as_the_direct_evaluator_does_without_a_wait_in_between(
    accelerator: torch.device, dtype: torch.dtype
) -> None:
    model = tiny_model(tiny_network().to(dtype).to(accelerator))
    engine = both(model)
    assert "float outputs within" in engine.description
    assert engine._engine is not None
    rows = np.random.default_rng(2).integers(2, 9, size=(6, 3))
    for row in rows:
        engine._engine.network.quantizers(row)
    before = num_transfers()
    engine._engine.measure(rows)
    assert num_transfers() <= before + 2


# ------------------------------------------------------------------------------------------------------- autocast


class Inside(nn.Module):
    """Enters autocast in its forward, and leaves it for the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = trained("small_cnn")

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.inner(x)
            with torch.autocast("cpu", enabled=False):
                x = x.float() * 1.1
        return x / 3


class Decorated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_network()

    @torch.autocast("cpu", dtype=torch.float16)
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Whole(nn.Module):
    """Takes ways that depend on the data, under autocast, so that it is one step."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return (self.fc(x) if x.sum() > -1e9 else x).float()


def opaque() -> nn.Module:
    network = tiny_network()
    network.fc1 = Whole()  # type: ignore[assignment]
    return network


@pytest.mark.parametrize("build", [Inside, Decorated, opaque])
def test_a_network_that_enters_autocast_runs_in_steps_that_enter_it_too(build: Any) -> None:
    told = both(tiny_model(build().eval())).description
    assert told.startswith("prefix: ")
    assert ("under torch.autocast: float outputs within" in told) == (build is not opaque)


def test_calls_under_autocast_are_measured_under_it() -> None:
    model = tiny_model(trained("small_cnn"))
    told = both(model, around=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "bfloat16: float outputs within" in told.description


def test_an_engine_notices_that_autocast_is_entered_and_left() -> None:
    model = tiny_model(trained("small_cnn"))
    engine = both(model)
    problem = qx.LayerwiseQuantizationProblem(model, search_loader(100), qx.negative_log_likelihood)
    row = np.array([[3, 4, 3, 5]])
    before = next(iter(problem.measure(row))).score
    assert problem.describe().engine == engine.description
    with torch.autocast("cpu", dtype=torch.bfloat16):
        agree(engine)
        assert "bfloat16" in engine.description
        assert next(iter(problem.measure(row))).score == next(iter(engine.direct.evaluate(row))).score != before
    agree(engine)
    assert "bfloat16" not in engine.description
    assert next(iter(problem.measure(row))).score == before


def test_a_network_that_enters_autocast_and_is_not_equalled_is_told_so() -> None:
    class WritesThroughAView(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_network()

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1.0
            x[:, :, 2].zero_()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(x)

    problem = qx.LayerwiseQuantizationProblem(tiny_model(WritesThroughAView()), search_loader(100))
    sentence = "direct: the traced network does not equal the hooked one, which enters torch.autocast"
    assert problem.describe().engine.startswith(sentence)
