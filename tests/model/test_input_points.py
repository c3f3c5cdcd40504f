"""A point for each floating input of a network, masks and infinities among them, and files of one point for all."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import CalibrationError, NumBitsError, SelectionError
from qexplore.model import call

X = torch.linspace(-1, 1, 24).reshape(6, 4)
T = torch.linspace(1, 9999, 6).reshape(6, 1)
MASK = torch.zeros(6, 4).masked_fill(torch.eye(6, 4) > 0, torch.finfo(torch.float32).min)


def inner(x: Tensor, t: Tensor, mask: Any = None) -> Tensor:
    hidden = x + t / 1e4
    return hidden if mask is None else torch.softmax(hidden + mask, -1)


class Timed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, t: Any = None, mask: Any = None) -> Tensor:
        return self.relu(inner(x, torch.zeros(1) if t is None else t, mask))


@dataclass
class Batch:
    x: Tensor
    t: Tensor


class Pair(NamedTuple):
    x: Tensor
    t: Tensor


class Keys(OrderedDict):  # type: ignore[type-arg]
    pass


class OneArgument(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, batch: Any) -> Tensor:
        x, t = (batch.x, batch.t) if hasattr(batch, "x") else (batch["x"], batch["t"])
        return self.relu(inner(x, t))


class Variadic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.relu(inner(*args, **kwargs))


def wrapped(network: nn.Module | None = None, **options: Any) -> qx.QuantizedActivationsModel:
    return qx.QuantizedActivationsModel((network or Timed()).eval(), predicates.by_type(nn.ReLU), **options)


def calibrate(model: Any, *inputs: Any) -> Any:
    return model.calibrate(inputs, unpack=lambda one: (one, None))


def names(model: Any) -> list[str]:
    return list(model.activation_fake_quantizers)


def amax(model: Any, name: str) -> float:
    return float(model.activation_fake_quantizers[name].amax)


def rounded(tensor: Tensor, num_bits: int) -> Tensor:
    """Signed where there are negative values: by hand."""
    bound = 2 ** (num_bits - 1) - 1 if tensor.min() < 0 else 2**num_bits - 1
    scale = bound / tensor.abs().max()
    return torch.round(tensor * scale) / scale


FORMS: dict[str, tuple[type[nn.Module], Any, tuple[str, str]]] = {
    "by position": (Timed, (X, T), ("x", "t")),
    "by keyword, in another order": (Timed, {"t": T, "x": X}, ("x", "t")),
    "in a dict": (OneArgument, ({"x": X, "t": T},), ("batch.x", "batch.t")),
    "in a mapping of another class": (OneArgument, (Keys(x=X, t=T),), ("batch.x", "batch.t")),
    "in a dataclass": (OneArgument, (Batch(X, T),), ("batch.x", "batch.t")),
    "in a named tuple": (OneArgument, (Pair(X, T),), ("batch.x", "batch.t")),
    "any number by position": (Variadic, (X, T), ("args.0", "args.1")),
    "any name": (Variadic, {"x": X, "t": T}, ("x", "t")),
}


@pytest.mark.parametrize(("network", "inputs", "expected"), FORMS.values(), ids=FORMS)
def test_each_floating_input_has_a_point_with_a_range_and_a_width_of_its_own(
    network: Any, inputs: Any, expected: tuple[str, str]
) -> None:
    model = wrapped(network())
    assert names(model) == ["input", "relu"]
    model.num_bits = [5, 0]
    model.describe(inputs)
    points = [f"input.{name}" for name in expected]
    assert names(model) == [*points, "relu"]
    assert model.num_bits.tolist() == [5, 5, 0]  # carried over
    calibrate(model, inputs)
    assert [amax(model, name) for name in points] == [1.0, 9999.0]
    assert [point.kind for point in model.points] == ["input", "input", "activation"]
    for widths in ([8, 8, 0], [2, 8, 0], [8, 2, 0], [0, 4, 0]):
        model.num_bits = widths
        x, t = (rounded(one, bits) if bits else one for one, bits in zip((X, T), widths, strict=False))
        torch.testing.assert_close(call(model, inputs), torch.relu(inner(x, t)))


def test_one_floating_input_keeps_the_name_and_a_list_of_alike_tensors_is_one_input() -> None:
    class Summed(nn.Module):
        def forward(self, images: list[Tensor]) -> Tensor:
            return torch.stack([image.mean() for image in images])

    model = qx.QuantizedActivationsModel(Summed(), predicates.by_name(""))
    calibrate(model, ([torch.rand(3, 4), torch.rand(3, 5)],), ([torch.rand(3, 4)],))
    assert names(model) == ["input", "output"]
    with pytest.warns(UserWarning, match=r"list 'images', whose magnitudes differ \(1, 1e\+04\).*a tuple or a dict"):
        calibrate(model, ([torch.ones(2), torch.ones(2) * 1e4],))
        model([torch.ones(2), torch.ones(2) * 1e4])


MASKS = {
    "least float": (MASK,),
    "minus infinity": (MASK.masked_fill(MASK < 0, -torch.inf),),
    "ten thousand": (MASK.clamp(min=-1e4),),
    "hides nothing at first": (torch.zeros(6, 4), MASK),
    "never hides": (torch.zeros(6, 4), torch.zeros(6, 4)),
}


@pytest.mark.parametrize("method", ["max", "mse"])
@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_an_additive_mask_stays_float_and_that_is_said(masks: tuple[Tensor, ...], method: str) -> None:
    model = wrapped()
    report = model.calibrate([(X, T, mask) for mask in masks], method=method, unpack=lambda one: (one, None))
    assert names(model) == ["input.x", "input.t", "relu"]
    assert "inputs left float: mask (" in str(report)
    assert "inputs left float: mask (" in str(model.describe())
    model.num_bits = [8, 8, 0]
    expected = torch.relu(inner(rounded(X, 8), rounded(T, 8), MASK))
    torch.testing.assert_close(model(X, T, MASK), expected, atol=1e-6 if method == "max" else 1e-3, rtol=1e-3)
    assert not torch.equal(model(-X, T, MASK), model(X, T, MASK))


def test_a_mask_that_is_the_only_floating_input_leaves_no_point() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(4, 4)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return torch.softmax(self.embedding(ids) + mask, -1)

    model = qx.QuantizedActivationsModel(Tokens(), predicates.leaves)
    calibrate(model, (torch.arange(6) % 4, MASK))
    assert names(model) == ["embedding"]
    assert "inputs left float: mask" in str(model.describe())


def test_what_looks_like_a_mask_in_one_batch_alone_is_refused_with_the_way_out() -> None:
    model = wrapped()
    with pytest.raises(CalibrationError, match=r"'mask' must be an additive mask in all.*quantize_input=\["):
        calibrate(model, (X, T, MASK), (X, T, MASK + 1))
    assert names(model) == ["input", "relu"]


@pytest.mark.parametrize(("inputs", "offer"), [((X, T / 0), r"\['x'\]"), ((X / 0,), "False")], ids=["of two", "alone"])
def test_an_infinite_input_is_refused_with_a_way_out_that_works(inputs: Any, offer: str) -> None:
    model = wrapped()
    with pytest.raises(CalibrationError, match=f"must see finite.*got an infinity.*quantize_input={offer} where"):
        calibrate(model, inputs)
    if len(inputs) == 2:
        chosen = wrapped(quantize_input=["x"])
        chosen.describe(inputs)
        assert names(chosen) == ["input.x", "relu"]


class TestNamedInputs:
    def test_have_their_points_from_the_start_and_leave_the_others_float(self) -> None:
        model = wrapped(quantize_input=["t", "x"])
        assert names(model) == ["input.x", "input.t", "relu"]
        alone = wrapped(quantize_input="x")
        assert names(alone) == ["input.x", "relu"]
        calibrate(alone, (X, T))
        assert str(alone.describe()).endswith("inputs left float: t (not named in quantize_input)")
        alone.num_bits = [4, 0]
        torch.testing.assert_close(alone(X, t=T), torch.relu(inner(rounded(X, 4), T)))

    def test_are_taken_at_their_word_also_where_they_look_like_a_mask(self) -> None:
        model = wrapped(quantize_input=["mask"])
        calibrate(model, (X, T, MASK))
        assert names(model) == ["input.mask", "relu"]

    def test_that_are_none_are_refused(self) -> None:
        with pytest.raises(SelectionError, match="names of the forward's arguments, got 'y': there are x, t, mask"):
            wrapped(quantize_input=["y"])
        with pytest.raises(SelectionError, match="True, False or names of the forward's arguments, got 3"):
            wrapped(quantize_input=3)
        model = wrapped(quantize_input=["t"])
        with pytest.raises(SelectionError, match="must name floating inputs, got 't': there are x"):
            calibrate(model, (X,))


def test_names_of_inputs_keep_clear_of_modules_and_weights() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = nn.Linear(4, 4)

        def forward(self, weight: Tensor, input: Tensor) -> Tensor:
            return self.input(weight) + input

    model = qx.QuantizedModel(Clash(), predicates.leaves, predicates.weighted)
    calibrate(model, (X, X))
    assert list(model.fake_quantizers) == ["(input.weight)", "input.input", "input", "input.weight"]
    other = qx.QuantizedModel(Clash(), predicates.leaves, predicates.weighted)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X, X), model(X, X))


@pytest.mark.parametrize("method", ["max", "mse"])
def test_an_input_that_a_later_batch_brings_has_its_point_and_the_order_does_not_matter(method: str) -> None:
    batches = [(X * 2,), (X, T), (X * 3, T * 2)]
    found = []
    for order in (batches, batches[::-1]):
        model = wrapped()
        model.calibrate(order, method=method, unpack=lambda one: (one, None))
        assert names(model) == ["input.x", "input.t", "relu"]
        assert model.points[0].num_calls == 1
        found.append((amax(model, "input.x"), amax(model, "input.t")))
    assert found[0] == pytest.approx(found[1], rel=1e-2)
    if method == "max":
        assert found[0] == (3.0, 19998.0)


def test_calibrating_anew_finds_the_points_anew_and_a_failure_leaves_them() -> None:
    model = wrapped()
    calibrate(model, (X, T))
    model.num_bits = [3, 4, 5]
    with pytest.raises(CalibrationError, match="'input.t' must see finite values"):
        calibrate(model, (X * 2, T * torch.nan))
    assert names(model) == ["input.x", "input.t", "relu"]
    assert (amax(model, "input.x"), model.num_bits.tolist()) == (1.0, [3, 4, 5])
    model.describe((X,))  # ranges are there: looking does not take one away
    assert names(model) == ["input.x", "input.t", "relu"]
    calibrate(model, (X,))
    assert names(model) == ["input", "relu"]
    assert model.num_bits.tolist() == [3, 5]


class TestFilesOfOnePointForAllInputs:
    def old(self) -> Any:
        model = wrapped()
        model.activation_fake_quantizers["input"].amax = 9999.0
        model.activation_fake_quantizers["relu"].amax = 2.0
        return model

    @pytest.mark.parametrize("how", ["state", "manifest"])
    @pytest.mark.parametrize("is_split", [False, True])
    def test_load_with_the_one_range_and_say_where_it_does_not_suit(
        self, how: str, is_split: bool, tmp_path: Any
    ) -> None:
        old, model = self.old(), wrapped()
        if is_split:
            calibrate(model, (X, T))
        if how == "state":
            model.load_state_dict(old.state_dict())
        else:
            qx.load_manifest(qx.save_manifest(old, tmp_path / "old.json")).apply(model)
        assert names(model) == ["input", "relu"]
        with pytest.warns(UserWarning, match=r"one range for inputs of different magnitudes \('x' up to 1, 't' up to"):
            output = model(X, T)
        with pytest.warns(UserWarning, match="one range"):
            assert torch.equal(output, old(X, T))
        assert torch.equal(model(X, T), output)  # said once

    @pytest.mark.parametrize("how", ["state", "manifest"])
    def test_those_of_several_points_load_into_a_fresh_wrapper(self, how: str, tmp_path: Any) -> None:
        model, fresh = wrapped(), wrapped()
        calibrate(model, (X, T, MASK))
        model.num_bits = [3, 4, 5]
        if how == "state":
            fresh.load_state_dict(model.state_dict())
        else:
            qx.load_manifest(qx.save_manifest(model, tmp_path / "new.json")).apply(fresh)
        assert names(fresh) == names(model)
        assert torch.equal(fresh(X, T, MASK), model(X, T, MASK))

    def test_widths_of_a_fronts_point_go_to_every_input(self) -> None:
        front = qx.Front([[3, 4]], [0.5], [[7.0]], ("input", "relu"))
        model = wrapped()
        calibrate(model, (X, T))
        model.num_bits = front[0]
        assert model.num_bits.tolist() == [3, 3, 4]
        model.num_bits = {"input": 5, "input.t": 6, "relu": 0}
        assert model.num_bits.tolist() == [5, 6, 0]


def test_widths_that_are_not_whole_say_how_to_give_them() -> None:
    model = wrapped()
    with pytest.raises(NumBitsError, match=r"vector of 2 widths, got 2: one for all points is \[2\] \* 2"):
        model.num_bits = 2
    with pytest.raises(NumBitsError, match=r"'input' missing; 'rel' unknown. To change some alone: model.num_bits"):
        model.num_bits = {"relu": 3, "rel": 3}
    model.num_bits = dict(zip(model.fake_quantizers, model.num_bits, strict=True)) | {"relu": 3}  # the way out
    assert model.num_bits.tolist() == [8, 3]
