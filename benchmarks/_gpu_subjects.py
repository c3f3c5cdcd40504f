"""What the device is measured on: networks of four kinds, and data that needs no file and no package but torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from _workloads import Batches, PlainScript, networks
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates

__all__ = ["KINDS", "Size", "Subject"]

NUM_CLASSES = 10


@dataclass(frozen=True)
class Size:
    """How much is measured: on a device, or small enough for a CPU in a minute."""

    side: int = 28
    num_images: int = 1024
    num_many: int = 10_000
    num_large: int = 512
    large_side: int = 224
    batch_size: int = 128
    train_steps: int = 60
    width: int = 192
    num_tokens: int = 128
    gpt_width: int = 768
    gpt_layers: int = 12
    population: int = 20
    generations: int = 20
    lot: int = 40
    repeats: int = 5
    max_evaluations: int = 450

    @classmethod
    def small(cls) -> Size:
        """For a machine without a device."""
        images = {"side": 12, "num_images": 64, "num_many": 128, "num_large": 16, "large_side": 32, "batch_size": 16}
        widths = {"train_steps": 60, "width": 16, "num_tokens": 8, "gpt_width": 32, "gpt_layers": 2}
        return cls(**images, **widths, population=8, generations=2, lot=4, repeats=1, max_evaluations=20)


@dataclass(frozen=True)
class Subject:
    """A float network on its device, how it is wrapped, and the samples that it is measured on."""

    name: str
    network: nn.Module
    predicate: Any
    inputs: Tensor
    labels: Tensor
    batch_size: int
    shape: str
    is_trained: bool = False

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.network.parameters()).device

    @property
    def batches(self) -> Batches:
        """The samples as a script has them."""
        return list(zip(self.inputs.split(self.batch_size), self.labels.split(self.batch_size), strict=True))

    @property
    def one_batch(self) -> Batches:
        """All of them at once."""
        return [(self.inputs, self.labels)]

    def to(self, device: torch.device) -> Subject:
        """A copy that lies on ``device``."""
        network = copy.deepcopy(self.network).to(device)
        return replace(self, network=network, inputs=self.inputs.to(device), labels=self.labels.to(device))

    def model(self, **wrapping: Any) -> qx.QuantizedActivationsModel:
        """Wrapped and calibrated by the largest magnitude, as the plain recipe is."""
        network = copy.deepcopy(self.network)
        model = qx.QuantizedActivationsModel(network, self.predicate, **({"unsigned": False} | wrapping))
        model.calibrate(self.batches[:2])
        return model

    def script(self, model: qx.QuantizedActivationsModel) -> PlainScript:
        """The plain recipe with the ranges of ``model``."""
        amax = {name: float(quantizer.amax) for name, quantizer in model.activation_fake_quantizers.items()}
        script = PlainScript(copy.deepcopy(self.network), amax)
        for quantizer in script.quantizers.values():
            quantizer.to(self.device)
        return script


# ------------------------------------------------------------------------------------------------------------ data


def patterns(count: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """``count`` smooth images of ten kinds, ``[N, 1, side, side]``: a pattern of the kind in smooth and rough noise."""
    generator = torch.Generator().manual_seed(seed)
    kinds = _smooth(torch.randn(NUM_CLASSES, 1, 4, 4, generator=torch.Generator().manual_seed(1)), side)
    labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
    noise = _smooth(torch.randn(count, 1, 4, 4, generator=generator), side)
    rough = torch.randn(count, 1, side, side, generator=generator)
    return kinds[labels] + 0.7 * noise + 0.4 * rough, labels


def _smooth(coarse: Tensor, side: int) -> Tensor:
    return F.interpolate(coarse, size=side, mode="bilinear")


def _train(network: nn.Module, size: Size) -> nn.Module:
    """A few steps, after which the network is worth quantizing."""
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=size.train_steps)
    images, labels = (part.to(device) for part in patterns(size.train_steps * size.batch_size, size.side, seed=2))
    network.train()
    for x, y in zip(images.split(size.batch_size), labels.split(size.batch_size), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def _own_classes(network: nn.Module, head: nn.Linear, inputs: Tensor, batch_size: int) -> Tensor:
    """Labels that an untrained network gives by itself, once its outputs differ from sample to sample."""
    _recalibrate(network, inputs[: 4 * batch_size], batch_size)
    outputs = torch.cat([network(part) for part in inputs.split(batch_size)])
    mean, spread = outputs.mean(0), outputs.std(0)
    head.weight /= spread[:, None]
    head.bias.copy_((head.bias - mean) / spread)
    return torch.cat([network(part) for part in inputs.split(batch_size)]).argmax(1)


def _recalibrate(network: nn.Module, inputs: Tensor, batch_size: int) -> None:
    """Running statistics of BatchNorm from data: with random weights those of the constructor let values vanish."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    network.train()
    for part in inputs.split(batch_size):
        network(part)
    network.eval()


# -------------------------------------------------------------------------------------------------------- networks


def resnet20(size: Size, device: torch.device, *, many: bool = False) -> Subject:
    """ResNet-20, trained for some seconds."""
    torch.manual_seed(1)
    network = _train(networks.ResNet20().to(device), size)
    inputs, labels = patterns(size.num_many if many else size.num_images, size.side, seed=3)
    return Subject(
        "ResNet-20",
        network,
        predicates.by_type(nn.ReLU),
        inputs.to(device),
        labels.to(device),
        size.batch_size,
        f"{len(labels):,} of {size.side} x {size.side}",
        is_trained=True,
    )


def resnet20_many(size: Size, device: torch.device) -> Subject:
    """ResNet-20 on a large set."""
    return resnet20(size, device, many=True)


def resnet18(size: Size, device: torch.device) -> Subject:
    """torchvision's ResNet-18 with random weights."""
    import torchvision

    torch.manual_seed(1)
    network = torchvision.models.resnet18(weights=None, num_classes=NUM_CLASSES).to(device).eval()
    images, _ = patterns(3 * size.num_large, size.large_side, seed=4)
    images = images.reshape(size.num_large, 3, size.large_side, size.large_side).to(device)
    batch_size = min(size.batch_size, max(1, size.num_large // 4))
    labels = _own_classes(network, network.fc, images, batch_size)
    shape = f"{size.num_large:,} of {size.large_side} x {size.large_side}"
    return Subject("ResNet-18", network, predicates.by_type(nn.ReLU), images, labels, batch_size, shape)


def transformer(size: Size, device: torch.device) -> Subject:
    """A transformer encoder of twelve layers with random weights, on patches of images."""
    torch.manual_seed(1)
    network = networks.SmallVisionTransformer(width=size.width)
    network.blocks = nn.Sequential(*(networks.TransformerBlock(size.width, num_heads=4) for _ in range(12)))
    network.to(device).eval()
    images = patterns(size.num_images, 28, seed=5)[0].to(device)
    labels = _own_classes(network, network.head, images, size.batch_size)
    chosen = predicates.by_type(nn.Linear, nn.GELU)
    return Subject(
        "transformer, 12 layers", network, chosen, images, labels, size.batch_size, f"{len(images):,} of 28 x 28"
    )


class LastToken(nn.Module):
    """A language model's body and ten classes of what it says at the last token."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape ``[B, 10]``."""
        return self.head(self.body(tokens, use_cache=False).last_hidden_state[:, -1])


def gpt2(size: Size, device: torch.device) -> Subject:
    """GPT-2 of transformers with random weights, quantized behind its linear layers."""
    import transformers

    torch.manual_seed(1)
    heads = 12 if size.gpt_width % 12 == 0 else 4
    config = transformers.GPT2Config(n_layer=size.gpt_layers, n_embd=size.gpt_width, n_head=heads)
    network = LastToken(transformers.GPT2Model(config), size.gpt_width).to(device).eval()
    count = size.num_images // 16
    tokens = torch.randint(config.vocab_size, (count, size.num_tokens), generator=torch.Generator().manual_seed(6))
    tokens, batch_size = tokens.to(device), max(1, min(size.batch_size, count // 2))
    labels = _own_classes(network, network.head, tokens, batch_size)
    chosen = predicates.by_type(transformers.pytorch_utils.Conv1D)
    return Subject("GPT-2", network, chosen, tokens, labels, batch_size, f"{count:,} of {size.num_tokens} tokens")


KINDS: dict[str, Callable[[Size, torch.device], Subject]] = {
    "resnet20": resnet20,
    "resnet20-many": resnet20_many,
    "resnet18": resnet18,
    "transformer": transformer,
    "gpt2": gpt2,
}
