"""Batches that mean something else to a network than they look like: split by its forward, or refused with the line."""

import re
from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import qexplore as qx
from qexplore import predicates
from qexplore.errors import DataError
from qexplore.model import call, unpacking

X, T, Y = torch.rand(6, 4), torch.rand(6, 4) * 9, torch.arange(6) % 3


class One(nn.Module):
    def forward(self, x: Any) -> Tensor:
        return torch.stack([item.sum() for item in x])


class Two(nn.Module):
    def forward(self, x: Any, t: Any) -> Tensor:
        return x + t


class Optional(nn.Module):
    def forward(self, ids: Any, mask: Any = None, scale: float = 1.0) -> Tensor:
        return ids * scale if mask is None else ids * mask


class Named(nn.Module):
    def forward(self, x: Any, labels: Any) -> Tensor:
        return x * labels


@dataclass
class Sample:
    x: Tensor
    t: Tensor
    y: Tensor


class Triple(NamedTuple):
    x: Tensor
    t: Tensor
    y: Tensor


REFUSED = {
    "two inputs and a target": (Two, (X, T, Y), "(batch[:2], batch[2])"),
    "two inputs alone": (Two, (X, T), "(batch[:2], None)"),
    "in a list, as a DataLoader gives them": (Two, [X, T, Y], "(batch[:2], batch[2])"),
    "a named tuple": (Two, Triple(X, T, Y), "(batch[:2], batch[2])"),
    "an optional mask before the target": (Optional, (X, X, Y), "(batch[:2], batch[2])"),
    "a list that may be one argument or several": (Optional, ([X, T], Y), "((batch[0],), batch[1])"),
    "a dataclass": (Two, Sample(X, T, Y), "(dict(x=batch.x, t=batch.t), batch.y)"),
    "a dict with a target of another name": (
        Two,
        {"x": X, "t": T, "y": Y},
        "({key: batch[key] for key in ['x', 't']}, batch['y'])",
    ),
    "a dict that is one argument": (One, {"left": X, "right": T}, "((batch,), None)"),
    "a dict whose target forward takes": (Named, {"x": X, "labels": X}, "(batch, batch['labels'])"),
}


@pytest.mark.parametrize(("network", "batch", "line"), REFUSED.values(), ids=REFUSED)
def test_a_batch_that_forward_does_not_take_names_the_line_that_works(network: Any, batch: Any, line: str) -> None:
    model = qx.QuantizedActivationsModel(network(), predicates.by_name(""))
    with pytest.raises(DataError, match="must tell inputs and target apart for forward") as raised:
        model.calibrate([batch])
    found = re.findall(r"`unpack=(lambda batch: .*?)`", str(raised.value))
    assert found[0] == f"lambda batch: {line}"
    unpack = eval(found[-1])
    if network is One:
        return  # the line hands the dict itself on: what forward does with it is its affair
    model.calibrate([batch], unpack=unpack)
    inputs, target = unpack(batch)
    model.num_bits = [0] * len(model.num_bits)
    assert torch.equal(call(model.model, inputs), call(network(), inputs))
    assert target is None or target.shape[0] == 6
    with pytest.raises(DataError, match="must tell inputs and target apart"):
        qx.LayerwiseQuantizationProblem(model, [batch], qx.squared_error)


TAKEN = {
    "a list of images": (One, ([X[0], X[1]], Y[:2]), ([X[0], X[1]],)),
    "a tuple of images": (One, ((X[0], X[1]), Y[:2]), ((X[0], X[1]),)),
    "a list of arguments": (Two, ([X, T], Y), [X, T]),
    "arguments that are no tensors among them": (Optional, ((X, None, 2.0), Y), (X, None, 2.0)),
    "more behind the target": (One, (X, Y, Y), X),
    "an optional mask, not given": (Optional, (X, Y), X),
    "a dict that is one argument, and a target": (One, ({"left": X}, Y), ({"left": X},)),
    "a mapping of another class": (Two, UserDict(x=X, t=T, label=Y), {"x": X, "t": T}),
}


@pytest.mark.parametrize(("network", "batch", "expected"), TAKEN.values(), ids=TAKEN)
def test_a_batch_is_taken_as_forward_does(network: Any, batch: Any, expected: Any) -> None:
    unpack = unpacking(network(), None)
    assert unpack is not None
    inputs, target = unpack(batch)
    assert repr(inputs) == repr(expected)
    assert len(target) == len(Y) or len(target) == 2


class Whole(nn.Module):
    """Takes the batch itself; nothing of it is named by an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.relu = nn.Linear(4, 3), nn.ReLU()

    def forward(self, batch: Any) -> Tensor:
        tensors = [one for one in opened_values(batch) if one.is_floating_point()]
        return self.relu(self.fc(sum(tensors)))


def opened_values(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    held = batch.values() if isinstance(batch, (dict, UserDict)) else vars(batch).values()
    return [one for value in held for one in opened_values(value)]


class WholeAndMore(Whole):
    def forward(self, batch: Any, **more: Any) -> Tensor:
        return super().forward(batch)


class TwoWholes(Whole):
    def forward(self, left: Any, right: Any) -> Tensor:
        return super().forward({"left": left, "right": right})


@dataclass
class Held:
    image: Tensor
    y: Tensor


WHOLE = {
    "labels within": (Whole, {"image": X, "labels": Y}, ["(batch,)", "batch['image']"], "batch['labels']"),
    "labels first": (Whole, {"label": Y, "image": X}, ["(batch,)", "batch['image']"], "batch['label']"),
    "three keys": (
        Whole,
        {"image": X, "bias": T, "labels": Y},
        ["(batch,)", "({key: batch[key] for key in ['image', 'bias']},)"],
        "batch['labels']",
    ),
    "labels beside a dict": (
        Whole,
        {"inputs": {"image": X, "bias": T}, "labels": Y},
        ["(batch,)", "(batch['inputs'],)"],
        "batch['labels']",
    ),
    "another mapping": (Whole, UserDict(image=X, target=Y), ["(batch,)", "batch['image']"], "batch['target']"),
    "any names besides": (WholeAndMore, {"image": X, "labels": Y}, ["(batch,)", "batch['image']"], "batch['labels']"),
    "an object": (Whole, Held(X, Y), ["(batch,)"], "batch.y"),
    "two arguments of other names": (
        TwoWholes,
        {"a": X, "b": T, "labels": Y},
        ["(batch['a'], batch['b'])"],
        "batch['labels']",
    ),
}


def offered(raised: Any) -> list[str]:
    return re.findall(r"`unpack=lambda batch: (.*?)`", str(raised.value))


@pytest.mark.parametrize(("network", "batch", "inputs", "target"), WHOLE.values(), ids=WHOLE)
def test_every_line_for_a_batch_that_is_an_argument_itself_poses_the_problem(
    network: Any, batch: Any, inputs: list[str], target: str
) -> None:
    model = qx.QuantizedActivationsModel(network(), predicates.by_type(nn.ReLU), quantize_input=False)
    with pytest.raises(DataError, match="must tell inputs and target apart") as raised:
        model.calibrate([batch])
    assert offered(raised) == [f"({one}, {target})" for one in inputs]
    for line in offered(raised):
        unpack = eval(f"lambda batch: {line}")
        model.calibrate([batch], unpack=unpack)
        problem = qx.LayerwiseQuantizationProblem(model, [batch], qx.top1_accuracy, unpack=unpack)
        assert 0 <= problem.float_accuracy <= 1


def test_a_dict_whose_target_has_no_such_name_names_the_ways_to_take_it() -> None:
    model = qx.QuantizedActivationsModel(Whole(), predicates.by_type(nn.ReLU))
    with pytest.raises(DataError, match="where 'y' is a target in it") as raised:
        model.calibrate([{"x": X, "y": Y}])
    assert offered(raised) == ["((batch,), None)", "((batch,), batch['y'])", "(batch['x'], batch['y'])"]
    with pytest.raises(DataError, match="where the dict is one argument") as raised:
        model.calibrate([{"x": X}])
    assert offered(raised) == ["((batch,), None)"]


def test_a_dict_without_an_argument_that_forward_needs_is_refused() -> None:
    model = qx.QuantizedActivationsModel(Two(), predicates.by_name(""))
    with pytest.raises(DataError, match="has no 't', which forward needs") as raised:
        model.calibrate([{"x": X, "labels": Y}])
    assert offered(raised) == ["(..., batch['labels'])"]


def test_sentences_of_several_lengths_are_a_list_of_batches() -> None:
    network = nn.Sequential(nn.Embedding(9, 4), nn.ReLU())
    model = qx.QuantizedActivationsModel(network, predicates.by_type(nn.ReLU))
    assert model.calibrate([torch.ones(2, 5, dtype=torch.long), torch.ones(2, 7, dtype=torch.long)])


LOADERS = {
    "a tensor": (X, r"got a Tensor: give \[x\] for one batch, or x.split"),
    "an array": (X.numpy(), "got a ndarray: give"),
    "a batch": ((X, Y), r"got a tuple: it looks like a batch; give \[batch\]"),
    "a batch in a list": ([X, Y], r"got a list: it looks like a batch; give \[batch\]"),
    "a dict batch": ({"x": X}, r"got a dict: give \[batch\]"),
    "a data set": (TensorDataset(X, Y), r"got a TensorDataset: its samples have no batch axis; give torch.utils.data"),
    "a generator that was not called": (lambda: iter([X]), "got a function: give what it returns"),
    "an empty tuple as batch": ([()], "got an empty tuple: pass unpack="),
}


@pytest.mark.parametrize(("loader", "message"), LOADERS.values(), ids=LOADERS)
def test_what_is_no_loader_says_what_to_give(loader: Any, message: str) -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    model = qx.QuantizedActivationsModel(network, predicates.by_type(nn.ReLU))
    with pytest.raises(DataError, match=message):
        model.calibrate(loader)
    with pytest.raises(DataError, match=message):
        qx.quantize_static(network, loader)
    model.calibrate([X])
    with pytest.raises(DataError, match=message):
        qx.LayerwiseQuantizationProblem(model, loader, qx.top1_accuracy)
