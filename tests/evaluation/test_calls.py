"""Points on calls of functions and on inputs of modules in the engine: what the direct evaluator measures."""

import copy

import numpy as np
import pytest
import torch
from called_networks import CALLED
from problems import prefix_evaluator
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates


def loader(num_inputs):
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(48, 1, 8, 8, generator=draw) for _ in range(num_inputs)]
    labels = torch.randint(0, 10, (48,), generator=draw)
    return [(tuple(image[part] for image in images), labels[part]) for part in (slice(0, 24), slice(24, 48))]


def wrapped(network, *, num_inputs=1, **points):
    torch.manual_seed(0)
    model = qx.QuantizedModel(network().eval(), **points)
    model.calibrate(loader(num_inputs), unpack=lambda batch: batch)
    return model


def evaluations(evaluator, model, num_inputs=1):
    rng = np.random.default_rng(0)
    rows = rng.integers(2, 9, size=(6, len(model.points)))
    rows[1, ::2] = 0
    made = evaluator(model, loader(num_inputs), qx.top1_accuracy, unpack=lambda batch: batch)
    return made, [(one.state, one.scores.tolist(), one.reason) for one in made.evaluate(rows)]


@pytest.mark.parametrize("name", CALLED)
def test_engine_measures_what_the_direct_evaluator_does(name):
    case = CALLED[name]
    model = wrapped(case.make, num_inputs=case.num_inputs, **case.points)
    engine, found = evaluations(prefix_evaluator, model, case.num_inputs)
    _, expected = evaluations(qx.DirectEvaluator, model, case.num_inputs)
    assert engine.description.startswith("prefix: ")
    assert found == expected


def test_steps_are_shared_up_to_the_first_call_that_differs():
    case = CALLED["fused attention"]
    model = wrapped(case.make, **case.points)
    engine, _ = evaluations(prefix_evaluator, model)
    steps = engine._engine.network.steps
    points = [step.point for step in steps.steps if step.point is not None]
    assert sorted(points) == list(range(len(model.points)))
    assert not any(step.hidden for step in steps.steps)


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Flatten(1, 2), layers, nn.Flatten(), nn.Linear(64, 10))


def test_an_encoder_of_torch_is_taken_apart_layer_by_layer():
    functions = predicates.by_function(torch.add, torch.matmul, F.softmax, F.relu)
    inputs = predicates.by_type(nn.Linear) & ~predicates.by_name("*.out_proj")
    model = wrapped(encoder, inputs=inputs, functions=functions)
    engine, found = evaluations(prefix_evaluator, model)
    hidden = [names for step in engine._engine.network.steps.steps if (names := step.hidden)]
    assert [len(points) for points in hidden] == [7, 7]
    assert found == evaluations(qx.DirectEvaluator, model)[1]


class Block(nn.Module):
    def forward(self, x):
        return F.relu(x + 0.1, inplace=True) + x


class Twice(nn.Module):
    """A block that is called twice, calls on whole numbers and on parameters alone, and one in place."""

    def __init__(self):
        super().__init__()
        self.block = Block()
        self.shift = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        size = torch.arange(3) + 1
        x = self.block(self.block(x)) + (self.shift + x.shape[-1])
        x.add_(0.5)
        return self.head(x.flatten(1)) + size.sum()


def test_calls_of_a_block_that_runs_twice_in_place_and_of_what_no_sample_changes():
    model = wrapped(Twice, functions=predicates.by_function(torch.add, F.relu))
    assert [(point.name, point.num_calls) for point in model.points] == [
        *[(f"block.{call}", 2) for call in ("add", "relu", "add_1")],
        *[(f"add_{number}", 1) for number in (1, 2, 3, 4)],
    ]
    engine, found = evaluations(prefix_evaluator, model)
    assert engine.description.startswith("prefix: ")
    assert found == evaluations(qx.DirectEvaluator, model)[1]


def gpt2():
    """A GPT-2 of two blocks, whose attention is fused, and what it gives written by hand."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=16, n_embd=8, n_layer=2, n_head=2, use_cache=False, attn_implementation="sdpa"
    )
    torch.manual_seed(0)
    return Tokens(transformers.GPT2LMHeadModel(config)).eval()


class Tokens(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, input_ids):
        return self.network(input_ids=input_ids).logits

    def by_hand(self, input_ids, q):
        inner = self.network.transformer
        x = inner.wte(input_ids) + inner.wpe(torch.arange(input_ids.shape[1]))
        x = q("network.transformer.add_1", x)
        for place, block in enumerate(inner.h):
            name = f"network.transformer.h.{place}"
            inside = f"{name}.attn.scaled_dot_product_attention"
            given = block.attn.c_attn(q(f"{name}.attn.c_attn.input", block.ln_1(x)))
            query, key, value = (one.view(*x.shape[:2], 2, 4).transpose(1, 2) for one in given.chunk(3, -1))
            scores = q(f"{inside}.matmul", query @ key.transpose(-2, -1)) * 0.5
            scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
            mixed = q(f"{inside}.matmul_1", q(f"{inside}.softmax", scores.softmax(-1)) @ value)
            x = q(f"{name}.add", block.attn.c_proj(mixed.transpose(1, 2).reshape(x.shape)) + x)
            wide = block.mlp.act(block.mlp.c_fc(q(f"{name}.mlp.c_fc.input", block.ln_2(x))))
            x = q(f"{name}.add_1", x + block.mlp.c_proj(wide))
        return self.network.lm_head(inner.ln_f(x))


@pytest.mark.slow
def test_gpt2_of_hugging_face_equals_the_one_written_by_hand_in_both_evaluators():
    network = gpt2()
    written = copy.deepcopy(network)
    ids = torch.randint(0, 64, (8, 10), generator=torch.Generator().manual_seed(0))
    functions = predicates.by_function(torch.add, torch.matmul, F.softmax) & ~predicates.by_name("*.act.*")
    model = qx.QuantizedModel(network, inputs=predicates.by_name("*.c_attn", "*.c_fc"), functions=functions)
    data = [({"input_ids": ids}, torch.zeros(8, dtype=torch.long))]
    model.calibrate(data, unpack=lambda batch: batch)
    rows = np.random.default_rng(0).integers(3, 9, size=(4, len(model.points)))
    passed = set()

    def quantized(name, tensor):
        passed.add(name)
        return model.fake_quantizers[name](tensor)

    for row in rows:
        model.num_bits = row
        with torch.no_grad():
            expected = written.by_hand(ids, quantized)
            torch.testing.assert_close(model(input_ids=ids), expected, atol=1e-4, rtol=1e-3)
    assert passed == set(model.fake_quantizers)
    made = [one(model, data, last_token, unpack=lambda batch: batch) for one in (qx.DirectEvaluator, prefix_evaluator)]
    assert made[1].description.startswith("prefix: ")
    direct, engine = ([one.scores.tolist() for one in each.evaluate(rows)] for each in made)
    assert direct == engine


def last_token(output, target):
    return output[:, -1].abs().mean(-1)
