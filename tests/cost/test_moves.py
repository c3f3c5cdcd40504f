"""Operations that only move, repeat, clip or select values hand their point on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn

from qexplore import predicates
from qexplore.cost import build_costs, observe
from qexplore.model import QuantizedModel

MASK = torch.rand(1, 4, 8, 8) > 0.5
LONG = torch.zeros(1, 4, 8, 8, dtype=torch.long)


def slices_set(tensor: Tensor) -> Tensor:
    tensor[:, 0] = 0.0
    tensor[:, 1].zero_()
    tensor[:, 2].fill_(1.0)
    tensor[MASK] = 0.0
    return tensor


def assembled(tensor: Tensor) -> Tensor:
    made = torch.zeros(1, 8, 8, 8)
    made[:, ::2], made[:, 1::2] = tensor, tensor.flip(1)
    return made


def packed_and_padded(tensor: Tensor) -> Tensor:
    packed = rnn.pack_padded_sequence(tensor.flatten(2), torch.tensor([4]), batch_first=True)
    return rnn.pad_packed_sequence(packed)[0]


MOVES = {
    "interpolate": lambda t: F.interpolate(t, scale_factor=2),
    "interpolate to a size": lambda t: F.interpolate(t, size=(5, 7)),
    "interpolate exactly": lambda t: F.interpolate(t, scale_factor=2, mode="nearest-exact"),
    "interpolate a line": lambda t: F.interpolate(t.flatten(2), scale_factor=2),
    "Upsample": nn.Upsample(scale_factor=2),
    "UpsamplingNearest2d": nn.UpsamplingNearest2d(scale_factor=2),
    "clamp": lambda t: t.clamp(0, 6),
    "clamp by function": lambda t: torch.clamp(t, max=6.0),
    "clamp_": lambda t: t.clamp_(min=0),
    "clamp by tensors": lambda t: t.clamp(torch.zeros(()), torch.ones(8)),
    "clip": lambda t: torch.clip(t, 0, 6),
    "clamp_min": lambda t: torch.clamp_min(t, 0),
    "hardtanh": F.hardtanh,
    "ReLU6": nn.ReLU6(),
    "relu6 in place": lambda t: F.relu6(t, inplace=True),
    "threshold": lambda t: F.threshold(t, 0.1, 0.0),
    "pad": lambda t: F.pad(t, (1, 1), value=0.5),
    "pad by reflection": lambda t: F.pad(t, (1, 1, 1, 1), mode="reflect"),
    "pad in a circle": lambda t: F.pad(t, (1, 1, 1, 1), mode="circular"),
    "ZeroPad2d": nn.ZeroPad2d(1),
    "repeat": lambda t: t.repeat(1, 2, 1, 1),
    "repeat_interleave": lambda t: torch.repeat_interleave(t, torch.tensor([1, 2, 1, 2]), dim=1),
    "expand": lambda t: t.unsqueeze(1).expand(1, 3, 4, 8, 8),
    "tile": lambda t: torch.tile(t, (2, 1)),
    "gather": lambda t: t.gather(1, LONG),
    "index_select": lambda t: t.index_select(1, torch.tensor([0, 2])),
    "take": lambda t: t.take(torch.tensor([0, 2])),
    "take_along_dim": lambda t: torch.take_along_dim(t, LONG, 1),
    "a list of places": lambda t: t[:, [0, 2]],
    "a mask": lambda t: t[MASK],
    "masked_select": lambda t: torch.masked_select(t, MASK),
    "roll": lambda t: t.roll(1, 1),
    "flip": lambda t: torch.fliplr(t.flip(2)),
    "rot90": lambda t: torch.rot90(t, 1, (2, 3)),
    "pixel_shuffle": lambda t: F.pixel_shuffle(t, 2),
    "PixelUnshuffle": nn.PixelUnshuffle(2),
    "ChannelShuffle": nn.ChannelShuffle(2),
    "Unfold": nn.Unfold(2),
    "unfold": lambda t: t.unfold(2, 2, 2),
    "stack": lambda t: torch.stack([t, t]),
    "cat": lambda t: torch.cat([t, t.flip(1)]),
    "cat with zeros": lambda t: torch.cat([t, torch.zeros_like(t), torch.zeros(1, 4, 8, 8)]),
    "where": lambda t: torch.where(MASK, t, 0.0),
    "where of tensors": lambda t: torch.where(t > 0, t, torch.zeros_like(t)),
    "where of a number": lambda t: torch.where(MASK, t, torch.tensor(0.0)),
    "masked_fill": lambda t: t.masked_fill(MASK, 0.0),
    "masked_fill_": lambda t: t.masked_fill_(MASK, torch.tensor(0.0)),
    "a product with a mask": lambda t: t * MASK,
    "a product with a mask in place": lambda t: t.mul_(MASK),
    "masked_scatter": lambda t: t.masked_scatter(MASK, t.flip(1)),
    "max_pool2d": lambda t: F.max_pool2d(t, 2),
    "MaxPool2d with indices": nn.MaxPool2d(2, return_indices=True),
    "max_pool1d": lambda t: F.max_pool1d(t.flatten(2), 2),
    "AdaptiveMaxPool2d": nn.AdaptiveMaxPool2d(2),
    "FractionalMaxPool2d": nn.FractionalMaxPool2d(2, output_size=3),
    "split": lambda t: t.split(2, 1),
    "chunk": lambda t: torch.chunk(t, 2, 1),
    "unbind": lambda t: t.unbind(1),
    "permute": lambda t: t.squeeze(0).permute(0, 2, 1).contiguous(),
    "axes in place": lambda t: t.clone().squeeze_(0).unsqueeze_(1).transpose_(2, 3).detach_(),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "dropout": lambda t: nn.Dropout2d().eval()(nn.Dropout().eval()(t)),
    "to": lambda t: t.to(torch.float32).detach().clone(),
    "to and back": lambda t: t.double().float(),
    "maximum": lambda t: torch.maximum(t, t.flip(1)),
    "min of two": lambda t: torch.min(t, t.flip(1)),
    "max along an axis": lambda t: t.max(1),
    "amax": lambda t: t.amax((2, 3)),
    "topk": lambda t: t.topk(2, 1),
    "sort": lambda t: t.sort(1),
    "median": lambda t: t.median(1),
    "slices set to numbers": slices_set,
    "a buffer filled by slices": assembled,
    "an empty buffer": lambda t: torch.empty_like(t).copy_(t),
    "scatter": lambda t: torch.zeros(1, 8, 8, 8).scatter(1, LONG, t),
    "index_put": lambda t: torch.zeros(4, 8, 8).index_put((torch.arange(4),), t[0]),
    "index_copy": lambda t: torch.zeros(8, 8, 8).index_copy(0, torch.arange(4), t[0]),
    "tril": torch.tril,
    "packed and padded": packed_and_padded,
}
ENDS = {
    "interpolate linearly": lambda t: F.interpolate(t, scale_factor=2, mode="bilinear"),
    "avg_pool2d": lambda t: F.avg_pool2d(t, 2),
    "softmax": lambda t: t.softmax(1),
    "cat with a float": lambda t: torch.cat([t, t * 2]),
    "where of a mean": lambda t: torch.where(MASK, t, t.mean()),
    "cat with a parameter": lambda t: torch.cat([t, nn.Parameter(torch.rand(1, 4, 8, 8))]),
}


class Moved(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.relu, self.function, self.head = nn.ReLU(), function, nn.Linear(1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        moved = self.function(self.relu(x))
        first = moved if isinstance(moved, Tensor) else moved[0]
        return self.head(first.reshape(1, -1)[:, :1])


def bops_and_feeds(function, **bits: int) -> tuple[float, dict[str, str]]:
    model = QuantizedModel(Moved(function), predicates.by_name("relu"), predicates.by_name("head"))
    model.describe(torch.rand(1, 4, 8, 8) + 0.1)
    names = [point.name for point in model.points]
    candidate = np.array([[bits.get(name, 0) for name in names]])
    feeds = {names[weight]: names[feed] for weight, feed in observe(model).feeds.items()}
    return float(build_costs("bops", model)[0].cost(candidate)[0]), feeds


@pytest.mark.parametrize("name", MOVES)
def test_what_only_moves_values_hands_its_point_on(name):
    assert bops_and_feeds(MOVES[name], relu=4) == (2 * 4 * 32, {"head.weight": "relu"})


@pytest.mark.parametrize("name", ENDS)
def test_what_makes_new_values_ends_a_point(name):
    assert bops_and_feeds(ENDS[name], relu=4) == (2 * 32 * 32, {})


def test_a_selection_of_two_points_has_the_wider_one():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.ReLU(), nn.ReLU(), nn.Linear(4, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.where(x > 0, self.left(x), self.right(x - 1)))

    model = QuantizedModel(Two(), predicates.by_type(nn.ReLU), predicates.weighted)
    model.describe(torch.rand(1, 4))
    cost = build_costs("bops", model)[0]
    assert [point.name for point in model.points] == ["input", "left", "right", "head.weight"]
    assert cost.cost(np.array([[8, 2, 5, 3], [8, 6, 5, 3]])).tolist() == [8 * 5 * 3, 8 * 6 * 3]
