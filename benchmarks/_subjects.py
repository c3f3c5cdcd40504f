"""Trained networks of five kinds with data that they were not trained on, for what is measured on all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _workloads import Workload, recipe
from torch import Tensor, nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.pipeline.text import byte_tokens, read_text, windows
from qexplore.training import TrainingOptions, train

__all__ = ["SUBJECTS", "Subject"]

KEPT = Path(__file__).resolve().parent / "results"
"""Where trained weights are kept."""
LENGTH = 64
"""Tokens of a piece of text."""
HELD_OUT = 1024
"""Pieces that are not trained on, for both sets together."""
STEPS = 2000
"""Of training, sixteen pieces each."""


@dataclass(frozen=True)
class Subject:
    """A trained network and its data.

    Attributes:
        network: float, in eval mode.
        outputs: the modules whose outputs are quantized where outputs alone are.
        calibration: batches ``(inputs, target)``, as the next two.
        search: that candidates are compared on.
        report: that nothing was chosen on.
        metric: from 0 to 1, so that 0.01 is a point.
        calibrating: arguments of ``calibrate``.
        wrapping: arguments of `qexplore.QuantizedModel` beside the scheme.
    """

    network: nn.Module
    outputs: Any
    calibration: list[Any]
    search: list[Any]
    report: list[Any]
    metric: Any
    calibrating: Mapping[str, Any] = field(default_factory=dict)
    wrapping: Mapping[str, Any] = field(default_factory=dict)


def _images(name: str, samples: int, report_samples: int) -> Subject:
    workload = Workload(name, samples)
    report = [(images[:report_samples], labels[:report_samples]) for images, labels in workload.report]
    return Subject(
        workload.network,
        workload.predicate,
        workload.calibration[:2],
        workload.search,
        report[: -(-report_samples // len(report[0][0]))],
        qx.top1_accuracy,
    )


# ------------------------------------------------------------------------------------------------------ GPT-2


class Decoder(nn.Module):
    """A network of Hugging Face as a function of tokens."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token, ``[B, T, V]``."""
        logits: Tensor = self.network(input_ids=tokens, use_cache=False).logits
        return logits


def _gpt2(samples: int, report_samples: int) -> Subject:
    """A GPT-2 of three blocks, trained for some minutes on the bytes of Python's language reference."""
    pieces = windows(byte_tokens(read_text(None)[0]), LENGTH, 1, "the reference")
    pieces = pieces[torch.randperm(len(pieces), generator=torch.Generator().manual_seed(1))]
    held_out, learned = pieces[:HELD_OUT], pieces[HELD_OUT:]
    network = _decoder()
    kept = KEPT / f"gpt2-{STEPS}-steps-{len(learned)}-pieces.pt"
    if not kept.exists():
        _train(network, learned)
        recipe.save_weights(network, kept)
    network.load_state_dict(torch.load(kept, weights_only=True))
    return Subject(
        network.eval(),
        predicates.by_regex(r".*\.(c_attn|c_fc|c_proj|act)|.*lm_head"),
        _tokens(learned[:64]),
        _tokens(held_out[:samples]),
        _tokens(held_out[samples : samples + report_samples]),
        qx.token_accuracy,
    )


def _decoder() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=256, n_positions=LENGTH, n_embd=128, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(1)
    return Decoder(GPT2LMHeadModel(config))


def _train(network: nn.Module, pieces: Tensor) -> None:
    draw = torch.Generator().manual_seed(1)
    chosen = torch.randint(0, len(pieces), (STEPS, 16), generator=draw)
    loader = [(batch[:, :-1], batch[:, 1:]) for batch in pieces[chosen]]
    how = TrainingOptions(epochs=1, learning_rate=1e-3, seed=1, progress=False)
    train(network, loader, lambda logits, target: F.cross_entropy(logits.flatten(0, 1), target.flatten()), how)


def _tokens(pieces: Tensor) -> list[Any]:
    return [(part[:, :-1].contiguous(), part[:, 1:].contiguous()) for part in pieces.split(32)]


SUBJECTS: dict[str, Callable[[int, int], Subject]] = {
    name: lambda samples, report_samples, name=name: _images(name, samples, report_samples)
    for name in ("resnet20", "mobilenet", "transformer")
} | {"gpt2": _gpt2}
"""What gives a subject, from how many samples to search and to report on."""
