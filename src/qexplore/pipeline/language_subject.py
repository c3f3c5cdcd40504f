"""`gpt2`: the hub's weights where they can be had, else a small GPT-2 that learns the text's bytes in a minute."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qexplore._optional import import_optional
from qexplore._quiet import silenced
from qexplore._random import isolated, stream
from qexplore.errors import first_line
from qexplore.metrics import perplexity
from qexplore.pipeline.dialogue import Prefixed
from qexplore.pipeline.downloads import is_reachable
from qexplore.pipeline.networks import load_weights
from qexplore.pipeline.options import Options
from qexplore.pipeline.subject import Subject
from qexplore.pipeline.text import byte_tokens, read_text, split, windows
from qexplore.training import TrainingOptions, train

_HUB = "huggingface.co"
_HUB_NAME = "openai-community/gpt2"
_LENGTH = 64
"""Tokens of a piece of text."""
_BATCH = 16
_NUM_CALIBRATION, _NUM_HELD_OUT, _NUM_TRAIN = 8, 24, 48
"""Batches at most that are quantized with, measured and fine-tuned on."""
_LAYERS, _WIDTH, _HEADS = 2, 128, 4
_EPOCHS, _STEPS = 4, 150
"""Training on bytes, and the steps of an epoch: about a minute in all, on two cores."""
_LEARNING_RATE = 3e-3
_LEAST = 2 * _BATCH


class LanguageModel(nn.Module):
    """A GPT-2 as a function of tokens alone.

    Args:
        transformer: a ``GPT2LMHeadModel``.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.gpt2 = transformer

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[B, T, vocabulary]`` of the next token, after each of ``tokens`` ``[B, T]``."""
        logits: Tensor = self.gpt2(input_ids=tokens, use_cache=False).logits
        return logits


def language_subject(options: Options, dialogue: Prefixed) -> Subject:
    """GPT-2 with its text.

    Raises:
        MissingPackageError: transformers is not installed.
        DataError: the text cannot be read, or is too short.
        WorkflowError: weights of another network.
    """
    transformers = _transformers()
    text, text_name = read_text(options.text)
    hub = None if options.weights is not None else _from_hub(transformers, options, dialogue)
    tokens = byte_tokens(text) if hub is None else hub[1](text)
    pieces = windows(tokens, _LENGTH, _LEAST, text_name)
    learned, held_out = split(pieces)
    dialogue.show(
        f"Text: {text_name}, {len(tokens):,} tokens; the last {len(held_out):,} of {len(pieces):,} pieces held out"
    )
    network = hub[0] if hub is not None else _small_network(transformers, learned, options, dialogue)
    random = stream(options.seed, "pipeline text")
    # Parts of a text differ; any few batches of these are like any others.
    shuffled, measured = (
        _batches(part[torch.from_numpy(random.permutation(len(part)))]) for part in (learned, held_out)
    )
    return Subject(
        name="gpt2",
        network=network.eval(),
        calibration=shuffled[:_NUM_CALIBRATION],
        held_out=measured[:_NUM_HELD_OUT],
        train=shuffled[:_NUM_TRAIN],
        metric=perplexity,
        task_loss=next_token_loss,
    )


def _transformers() -> Any:
    """The package, its GPT-2 loaded: it does so on use, and torch then logs what it thinks of other packages' types."""
    with silenced():
        package: Any = import_optional("transformers", extra="text", purpose="the pipeline's gpt2")
        _ = package.GPT2Config, package.GPT2LMHeadModel, package.AutoTokenizer
    return package


def next_token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of ``logits`` ``[B, T, V]`` and the tokens that follow, ``[B, T]``."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def _from_hub(transformers: Any, options: Options, dialogue: Prefixed) -> Any:
    """The hub's network and a function from text to tokens; None where they cannot be had."""
    question = "Download GPT-2's weights from the hub (550 MB)?"
    with suppress(OSError, ValueError):
        return _loaded(transformers, local_files_only=True)
    if not is_reachable(_HUB):
        dialogue.show(f"GPT-2's weights are not on this machine, and {_HUB} cannot be reached.")
        return None
    if not dialogue.settle(options.download, question, "download"):
        return None
    try:
        return _loaded(transformers, local_files_only=False)
    except (OSError, ValueError) as error:
        dialogue.show(f"GPT-2's weights cannot be had from {_HUB}: {first_line(error)}")
        return None


def _loaded(transformers: Any, *, local_files_only: bool) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(_HUB_NAME, local_files_only=local_files_only)
    network = transformers.GPT2LMHeadModel.from_pretrained(_HUB_NAME, local_files_only=local_files_only)
    return LanguageModel(network), lambda text: torch.tensor(tokenizer(text)["input_ids"], dtype=torch.int64)


def _small_network(transformers: Any, pieces: Tensor, options: Options, dialogue: Prefixed) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=256, n_positions=_LENGTH, n_embd=_WIDTH, n_layer=_LAYERS, n_head=_HEADS, bos_token_id=0,
        eos_token_id=0, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    with isolated(torch.device("cpu"), options.seed):
        network = LanguageModel(transformers.GPT2LMHeadModel(config))
    if load_weights(network, options, dialogue):
        return network
    epochs = options.train_epochs or _EPOCHS
    size = f"{_LAYERS} layers, {_WIDTH} wide, the text's bytes as tokens"
    dialogue.show(f"No --weights: training a small GPT-2 ({size}), {epochs} x {_STEPS} steps.")
    random = stream(options.seed, "pipeline steps")
    chosen = torch.from_numpy(random.integers(0, len(pieces), (_STEPS, _BATCH)))
    loader = [(batch[:, :-1], batch[:, 1:]) for batch in pieces[chosen]]
    how = TrainingOptions(
        epochs=epochs, learning_rate=_LEARNING_RATE, seed=options.seed, progress=options.progress,
        on_epoch=lambda record: dialogue.show(f"  {record}"),
    )  # fmt: skip
    train(network, loader, next_token_loss, how)
    return network


def _batches(pieces: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) for batch in torch.split(pieces, _BATCH)]
