"""Every tensor has a range of its own: what torch's stacks let share one, and what their kernels fix."""

import operator

import pytest
import torch
from stack_runs import Made, converted, linear, relative_error
from torch import nn
from torch.nn import functional as F

from qexplore.stacks.torch_ao import activation_range, using_engine

ENGINES = [one for one in ("x86", "fbgemm", "onednn", "qnnpack") if one in torch.backends.quantized.supported_engines]
SEVEN = [one for one in ("x86", "fbgemm") if one in ENGINES]
STACKS = ["fx", "eager"]


def joined(join):
    return Made(lambda s, x: s.head(join(s.a(x), s.b(x))), a=linear(), b=linear(times=10.0), head=linear(16, 4))


def changed(change):
    return Made(lambda s, x: s.head(change(s.a(x))), a=linear(), head=linear(8, 4))


UNLIKE = {
    "cat": lambda: joined(lambda a, b: torch.cat([a, b], 1)),
    "cat by keyword": lambda: joined(lambda a, b: torch.cat(tensors=[a, b], dim=-1)),
    "cat of what was moved": lambda: joined(lambda a, b: torch.cat([a.relu(), b.reshape(-1, 8)], 1)),
    "cat with the input": lambda: Made(
        lambda s, x: s.head(torch.cat([x, s.b(x)], 1)), b=linear(times=50.0), head=linear(16, 4)
    ),
    "stack": lambda: joined(lambda a, b: torch.stack([a, b], 1).flatten(1)),
    "maximum": lambda: Made(
        lambda s, x: s.head(torch.maximum(s.a(x), s.b(x))), a=linear(), b=linear(times=10.0), head=linear()
    ),
    "sum": lambda: Made(lambda s, x: s.head(s.a(x) + s.b(x)), a=linear(), b=linear(times=10.0), head=linear()),
    "times 100": lambda: changed(lambda a: a * 100),
    "100 times": lambda: changed(lambda a: torch.mul(100, a)),
    "times a hundredth": lambda: changed(lambda a: a * 0.01),
    "times minus 2": lambda: changed(lambda a: a * -2),
    "plus 5": lambda: changed(lambda a: a + 5),
    "plus 20": lambda: changed(lambda a: torch.add(a, 20)),
    "minus 20": lambda: changed(lambda a: a + -20.0),
    "ReLU of a sum": lambda: changed(lambda a: F.relu(a + 5)),
    "in place": lambda: changed(lambda a: a.add_(5)),
    "clamp above": lambda: changed(lambda a: torch.clamp(a, 5.0, 7.0) * a),
    "hardtanh above": lambda: changed(lambda a: F.hardtanh(a, 3.0, 4.0) * a),
    "filled": lambda: Made(lambda s, x: s.head(s.a(x).masked_fill(x > 0.5, 30.0)), a=linear(), head=linear()),
    "padded": lambda: Made(lambda s, x: s.head(F.pad(s.a(x), (1, 1), value=20.0)), a=linear(), head=linear(10, 4)),
    "pooled": lambda: Made(
        lambda s, x: s.head(F.adaptive_avg_pool1d(s.a(x).unsqueeze(1), 4).squeeze(1)),
        a=linear(times=8.0),
        head=linear(4, 4),
    ),
    "called with unlike inputs": lambda: Made(lambda s, x: s.a(x) + s.a(x * 50) * 0.02, a=linear()),
}


@pytest.mark.parametrize("method", ["static", "qat"])
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", UNLIKE)
def test_tensors_of_unlike_ranges_stay_near_float(stack, method, kind):
    torch.manual_seed(0)
    network, x = UNLIKE[kind]().eval(), torch.rand(32, 8)
    assert relative_error(stack, method, network, x, activation_observer="moving_average") < 0.04


FIXED = {
    "Tanh": lambda: nn.Tanh(),
    "Sigmoid": lambda: nn.Sigmoid(),
    "Hardsigmoid": lambda: nn.Hardsigmoid(),
    "Softmax": lambda: nn.Softmax(1),
    "tanh": lambda: Made(lambda s, x: torch.tanh(x)),
    "sigmoid": lambda: Made(lambda s, x: x.sigmoid()),
    "hardsigmoid": lambda: Made(lambda s, x: F.hardsigmoid(x)),
    "moved": lambda: Made(lambda s, x: torch.tanh(x).reshape(-1, 16)),
    "minus": lambda: Made(lambda s, x: x * -1.0),
    "plus": lambda: Made(lambda s, x: x + 3),
}


class Watch:
    """The largest integers that layers with weights read."""

    def __init__(self, model):
        self.largest = 0
        kinds = [one for one in model.modules() if hasattr(one, "_packed_params") or hasattr(one, "_weight_bias")]
        self.handles = [one.register_forward_pre_hook(self.see) for one in kinds]

    def see(self, module, args):
        self.largest = max(self.largest, *(int(one.int_repr().max()) for one in args if one.is_quantized))


@pytest.mark.parametrize("engine", SEVEN)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", FIXED)
def test_layers_read_no_more_than_seven_bits_where_the_engine_does(stack, engine, kind):
    torch.manual_seed(0)
    network, x = nn.Sequential(linear(8, 16), FIXED[kind](), linear(16, 4)).eval(), torch.randn(64, 8) * 6
    made = converted(stack, "static", network, x, engine=engine, activation_observer="minmax")
    watch = Watch(made.model)
    with using_engine(engine), torch.no_grad():
        made.model(x)
    assert activation_range(engine) == (0, 127)
    assert 100 < watch.largest <= 128  # one more where a zero point was rounded


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", ["Tanh", "sigmoid", "minus", "plus"])
def test_functions_of_fixed_range_stay_near_float_on_every_engine(stack, engine, kind):
    torch.manual_seed(0)
    network, x = nn.Sequential(linear(8, 16), FIXED[kind](), linear(16, 4)).eval(), torch.randn(64, 8)
    assert relative_error(stack, "static", network, x, engine=engine) < 0.04


@pytest.mark.parametrize("stack", STACKS)
def test_a_function_of_fixed_range_does_not_give_its_range_to_its_input(stack):
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Sigmoid(), linear(), nn.Tanh(), linear()).eval(), torch.randn(64, 8) * 8
    for method in ("static", "qat"):
        assert relative_error(stack, method, network, x) < 0.04


def test_reasons_of_what_is_computed_apart():
    network, x = changed(lambda a: torch.tanh(a + 5)).eval(), torch.rand(8, 8)
    rows = {row.name: row for row in converted("fx", "static", network, x, engine="x86").strategy}
    assert rows["add"].state == rows["tanh"].state == "float"
    assert "a range of its own" in rows["add"].reason and "rounded in 7 bits" in rows["tanh"].reason


def test_concatenation_of_unlike_ranges_has_an_integer_kernel_and_its_name():
    made = converted("fx", "static", UNLIKE["cat"]().eval(), torch.rand(8, 8))
    assert {row.name: row.state for row in made.strategy}["cat"] == "integers"
    assert torch.ops.quantized.cat in [node.target for node in made.model.graph.nodes]
    assert operator.add not in [node.target for node in made.model.graph.nodes]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cat", "plus 5", "ReLU of a sum", "pooled", "called with unlike inputs"])
def test_tensors_of_unlike_ranges_stay_near_float_in_exported_graphs(kind):
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    network, x = UNLIKE[kind]().eval(), torch.rand(32, 8)
    assert relative_error("pt2e", "qat", network, x) < 0.03
