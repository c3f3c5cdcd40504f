"""Small networks that nobody chose, as a hypothesis strategy: a draft says what is built, and prints as a line.

Rows [B, 8], images [B, 4, 6, 6], sequences [B, 5, 8] and tokens [B, 5] go through up to six layers, each of which keeps
the shape, and a head that gives [B, 3]. What is drawn are layer kinds, residuals, shared and in-place modules, calls by
keyword and past the hooks, containers, dtypes, several inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

FEATURES = 8
CHANNELS = 4
STEPS = 5
CLASSES = 3
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Pair:
    """A container that torch's trees do not know."""

    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Draft:
    """What a random network is built from.

    Attributes:
        family: what flows through the layers: "rows", "images", "sequence" or "tokens".
        layers: kinds of layers, a `LAYERS` key each; "again" uses the module before once more.
        head: what the network returns: "tensor", "tuple", "dict" or "number" (a tensor and a plain number).
        extra: a further input: None, "added", "scaled" (numbers about 100), "mask" (0 or -1e4), "integer".
        feed: how the loader gives a batch: "tuple" or "dict".
        dtype: of the network's parameters.
        seed: of its weights and of its data.
    """

    family: str
    layers: tuple[str, ...]
    head: str
    extra: str | None
    feed: str
    dtype: str
    seed: int

    def build(self, make: Callable[[Draft], nn.Module] | None = None) -> nn.Module:
        """The network, in eval mode; the same for the same draft. ``make`` may know more kinds of layers."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = (make or RandomNetwork)(self)
            for buffer in network.buffers():
                if buffer.is_floating_point():  # the running statistics of a network that was trained
                    buffer.uniform_(0.5, 1.5)
        return network.to(DTYPES[self.dtype]).eval()

    def batches(self, num_batches: int = 2, size: int = 6) -> list[Any]:
        """Inputs and classes, as a loader."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return [self._batch(generator, size) for _ in range(num_batches)]

    def unpack(self, batch: Any) -> tuple[Any, Tensor]:
        """A batch as the network's inputs and its target."""
        if isinstance(batch, dict):
            return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
        return batch[:-1], batch[-1]

    def _batch(self, generator: torch.Generator, size: int) -> Any:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        shapes = {"rows": (FEATURES,), "images": (CHANNELS, 6, 6), "sequence": (STEPS, FEATURES), "tokens": (STEPS,)}
        shape = (size, *shapes[self.family])
        x = torch.randint(0, 11, shape, generator=generator) if self.family == "tokens" else normal(*shape)
        inputs = {"x": x}
        if self.extra == "integer":
            inputs["extra"] = torch.randint(0, 3, (size,), generator=generator)
        elif self.extra == "mask":
            inputs["extra"] = torch.where(normal(size, CLASSES) > 1, -1e4, 0.0)
        elif self.extra is not None:
            inputs["extra"] = normal(size, CLASSES) * (100 if self.extra == "scaled" else 1)
        target = torch.randint(0, CLASSES, (size,), generator=generator)
        return {**inputs, "labels": target} if self.feed == "dict" else (*inputs.values(), target)


class RandomNetwork(nn.Module):
    """The layers of a draft one after the other, then its head; ``kinds`` says what its layers are, `LAYERS` if not."""

    def __init__(self, draft: Draft, kinds: dict[str, Callable[[], nn.Module]] | None = None) -> None:
        super().__init__()
        self.head_kind, self.extra_kind, self.family = draft.head, draft.extra, draft.family
        if draft.family == "tokens":
            self.embedding = nn.Embedding(11, FEATURES)
        kinds = kinds or layers_of(draft.family)
        modules: list[nn.Module] = []
        for name in draft.layers:
            modules.append(modules[-1] if name == "again" and modules else kinds.get(name, nn.Identity)())
        self.layers = nn.ModuleList(modules)
        self.head = nn.Linear(CHANNELS if draft.family == "images" else FEATURES, CLASSES)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Any:
        if self.family == "tokens":
            x = self.embedding(x)
        for layer in self.layers:
            x = layer(x)
        if self.family == "images":
            x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        elif self.family != "rows":
            x = x.mean(dim=1)
        y = self.head(x)
        if self.extra_kind == "integer":
            y = y + F.one_hot(extra, CLASSES).to(y.dtype)
        elif self.extra_kind is not None:
            y = y + (extra / 100 if self.extra_kind == "scaled" else extra)
        outputs = {"tensor": y, "tuple": (y, x), "dict": {"logits": y, "features": x}, "number": (y, 3)}
        return outputs[self.head_kind]


def first_of(output: Any) -> Tensor:
    """The class scores in what a network returns, [B, 3]."""
    if isinstance(output, dict):
        return output["logits"]
    return output[0] if isinstance(output, tuple) else output


class Wrapping(nn.Module):
    """A layer of one inner module that is called in a way of its own."""

    def __init__(self, inner: nn.Module, way: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self.inner, x)


class Containing(nn.Module):
    """Returns its tensor twice, in a container."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        y = self.relu(x)
        containers = {"tuple": (x, y), "dict": {"x": x, "y": y}, "list": [x, y], "object": Pair(x, y)}
        return containers[self.kind]


def _sum_of(container: nn.Module, x: Tensor) -> Tensor:
    both = container(x)
    if isinstance(both, dict):
        return both["x"] + both["y"]
    return both.first + both.second if isinstance(both, Pair) else both[0] + both[1]


def _dropped(relu: nn.Module, x: Tensor) -> Tensor:
    x = x * 1.5
    relu(x)
    return x


def _overwritten_identity(relu: nn.Module, x: Tensor) -> Tensor:
    x = x * 1.5
    y = relu(x)
    return y + x


def _in_place_sum(inner: nn.Module, x: Tensor) -> Tensor:
    y = inner(x)
    y += x
    return y


def _halves(inner: nn.Module, x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return torch.cat(tensors=[inner(first), second], dim=1)


def _functional(linear: nn.Module, x: Tensor) -> Tensor:
    return F.linear(x, weight=linear.weight, bias=linear.bias)


def _linear() -> nn.Module:
    return nn.Linear(FEATURES, FEATURES)


def _conv() -> nn.Module:
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)


def _ways(core: Callable[[], nn.Module], keyword: str = "input") -> dict[str, Callable[[], nn.Module]]:
    """What can be done with one layer that has a weight, and with activations beside it."""
    return {
        "weight": core,
        "relu": nn.ReLU,
        "relu_in_place": lambda: nn.ReLU(inplace=True),
        "relu6": nn.ReLU6,
        "gelu": nn.GELU,
        "hardtanh": nn.Hardtanh,
        "sigmoid": nn.Sigmoid,
        "prelu": nn.PReLU,
        "dropout": nn.Dropout,
        "identity": nn.Identity,
        "keyword": lambda: Wrapping(core(), lambda inner, x: inner(**{keyword: x})),
        "residual": lambda: Wrapping(core(), lambda inner, x: x + inner(x)),
        "residual_keyword": lambda: Wrapping(core(), lambda inner, x: torch.add(input=inner(x), other=x)),
        "residual_in_place": lambda: Wrapping(core(), _in_place_sum),
        "twice": lambda: Wrapping(nn.Sequential(core(), nn.ReLU()), lambda inner, x: inner(inner(x))),
        "past_the_hook": lambda: Wrapping(nn.ReLU(), lambda inner, x: inner(x) + inner.forward(x * 2)),
        "dropped": lambda: Wrapping(nn.ReLU(inplace=True), _dropped),
        "overwritten_identity": lambda: Wrapping(nn.ReLU(inplace=True), _overwritten_identity),
        "gate": lambda: Wrapping(core(), lambda inner, x: x * torch.sigmoid(inner(x))),
        "halves": lambda: Wrapping(nn.ReLU(), _halves),
        "clamp": lambda: Wrapping(nn.ReLU(), lambda inner, x: inner(x).clamp(0, 2)),
        "bracketed": lambda: nn.Sequential(core(), nn.Sequential(nn.ReLU())),
        "tuple_inside": lambda: Wrapping(Containing("tuple"), _sum_of),
        "dict_inside": lambda: Wrapping(Containing("dict"), _sum_of),
        "list_inside": lambda: Wrapping(Containing("list"), _sum_of),
        "object_inside": lambda: Wrapping(Containing("object"), _sum_of),
        "weight_norm": lambda: parametrizations.weight_norm(core()),
        "spectral_norm": lambda: parametrizations.spectral_norm(core()),
    }


class _First(nn.Module):
    """The output of a recurrent layer or of attention without its states and weights."""

    def __init__(self, inner: nn.Module, repeats: int = 1) -> None:
        super().__init__()
        self.inner = inner
        self.repeats = repeats

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(*[x] * self.repeats)[0]


LAYERS: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "rows": {
        **_ways(_linear),
        "functional": lambda: Wrapping(_linear(), _functional),
        "batchnorm": lambda: nn.BatchNorm1d(FEATURES),
        "layernorm": lambda: nn.LayerNorm(FEATURES),
        "bilinear": lambda: Wrapping(nn.Bilinear(FEATURES, FEATURES, FEATURES), lambda inner, x: inner(x, x)),
        "matrix": lambda: Wrapping(_linear(), lambda inner, x: x @ inner.weight),
    },
    "images": {
        **_ways(_conv),
        "batchnorm": lambda: nn.BatchNorm2d(CHANNELS),
        "conv_batchnorm_relu": lambda: nn.Sequential(_conv(), nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True)),
        "groupnorm": lambda: nn.GroupNorm(2, CHANNELS),
        "depthwise": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
        "transposed": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, padding=1),
        "maxpool": lambda: nn.MaxPool2d(3, stride=1, padding=1),
        "avgpool": lambda: nn.AvgPool2d(3, stride=1, padding=1),
        "upsample": lambda: nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=2), nn.MaxPool2d(2)),
        "shuffle": lambda: Wrapping(
            nn.ReLU(), lambda inner, x: inner(x).view(-1, 2, 2, 6, 6).transpose(1, 2).flatten(1, 2)
        ),
    },
    "sequence": {
        **_ways(_linear),
        "functional": lambda: Wrapping(_linear(), _functional),
        "layernorm": lambda: nn.LayerNorm(FEATURES),
        "layernorm_of_two": lambda: nn.LayerNorm([STEPS, FEATURES]),
        "attention": lambda: _First(nn.MultiheadAttention(FEATURES, 2, batch_first=True), repeats=3),
        "encoder": lambda: nn.TransformerEncoderLayer(FEATURES, 2, 16, batch_first=True),
        "lstm": lambda: _First(nn.LSTM(FEATURES, FEATURES, batch_first=True)),
        "gru": lambda: _First(nn.GRU(FEATURES, FEATURES // 2, batch_first=True, bidirectional=True)),
        "mixing": lambda: Wrapping(_linear(), lambda inner, x: torch.softmax(inner(x) @ x.transpose(1, 2), dim=-1) @ x),
        "conv1d": lambda: Wrapping(
            nn.Conv1d(FEATURES, FEATURES, 3, padding=1), lambda inner, x: inner(x.transpose(1, 2)).transpose(1, 2)
        ),
    },
}
"""Every kind of layer of each family; each keeps the shape of what it is given."""


def layers_of(family: str) -> dict[str, Callable[[], nn.Module]]:
    """The kinds of layers for what flows in ``family``."""
    return LAYERS["sequence" if family == "tokens" else family]


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """Drafts of all families; plain float32 networks more often than others."""
    family = draw(st.sampled_from(["rows", "images", "sequence", "tokens"]))
    kinds = sorted(layers_of(family))
    layers = draw(st.lists(st.sampled_from([*kinds, "again", "weight", "relu"]), min_size=1, max_size=6))
    if draw(st.booleans()):
        layers.append("relu")  # most predicates have something to select
    return Draft(
        family=family,
        layers=tuple(layers),
        head=draw(st.sampled_from(["tensor", "tensor", "tuple", "dict", "number"])),
        extra=draw(st.sampled_from([None, None, None, "added", "scaled", "mask", "integer"])),
        feed=draw(st.sampled_from(["tuple", "dict"])),
        dtype=draw(st.sampled_from(["float32"] * 5 + sorted(DTYPES))),
        seed=draw(st.integers(0, 2**16)),
    )
