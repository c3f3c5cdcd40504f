"""Calls asked for: under which names, and what is said where nobody makes them or they change."""

import pytest
import torch
from called_networks import Residual, calibrated, images
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import ModelError, SelectionError


class TestNames:
    def test_operators_methods_and_what_works_in_place_are_one_function(self):
        class Sums(nn.Module):
            def forward(self, x):
                y = x + x
                y = 1 + y
                y += x
                y = y.add(x)
                y.add_(x)
                y = torch.add(y, x)
                return y.mul(2) * 3 @ y.transpose(-2, -1)

        model = qx.QuantizedModel(Sums(), functions=predicates.by_function(torch.add, torch.mul, torch.matmul))
        model.describe(images(2))
        names = ["add", *(f"add_{number}" for number in range(1, 6)), "mul", "mul_1", "matmul"]
        assert [point.name for point in model.points] == names

    def test_a_call_by_its_name_alone(self):
        model = qx.QuantizedModel(Residual(), functions=predicates.by_name("blocks.1.add_1"))
        model.describe(images(2))
        assert [(point.name, point.kind, point.module) for point in model.points] == [
            ("blocks.1.add_1", "function", "blocks.1")
        ]

    def test_layers_of_torch_keep_their_one_operation_to_themselves(self):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU())
        model = qx.QuantizedModel(network, functions=predicates.by_function(F.relu))
        with pytest.raises(SelectionError, match="selects none"):
            model.describe(images(2))

    def test_a_sum_with_an_additive_mask_stays_float(self):
        class Masked(nn.Module):
            def forward(self, x):
                return torch.softmax(x + torch.full((8, 8), -torch.inf).triu(1), -1) + x

        model = qx.QuantizedModel(Masked(), functions=predicates.by_function(torch.add))
        plan = model.describe(images(2))
        assert [point.name for point in model.points] == ["add_1"]
        assert "calls left float: add (an additive mask" in str(plan)

    def test_a_state_goes_to_a_model_that_has_found_its_points(self):
        model, _, inputs, case = calibrated("transformer")
        other = qx.QuantizedModel(case.make().eval(), **case.points)
        with pytest.raises(ModelError, match=r"call model\.describe\(example_input\) first"):
            other.load_state_dict(model.state_dict())
        other.describe(inputs)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(*inputs), model(*inputs))


class Asked(nn.Module):
    """An embedding, a recurrent layer, a ReLU, attention of torch's, and calls."""

    def __init__(self):
        super().__init__()
        self.table, self.rnn = nn.Embedding(5, 4), nn.GRU(4, 4, batch_first=True)
        self.act, self.attention = nn.ReLU(), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        y = self.act(self.rnn(self.table(x))[0])
        y = self.attention(y, y, y, need_weights=False)[0]
        return (y * 2.0)[:, -1] + x.argmax(1, keepdim=True)


class TestAskedInVain:
    CASES = {
        "a name that is nearly one": (predicates.by_name("mull"), "did you mean 'mul'?"),
        "a part of attention": (
            predicates.by_name("attention.softmax"),
            "did you mean 'attention.scaled_dot_product_attention.softmax'?",
        ),
        "a function inside a kernel": (
            predicates.by_function(torch.sigmoid),
            "'rnn' (GRU) is one kernel, in which there are no calls; write it out, qexplore.unroll_recurrent(network)",
        ),
        "a name inside a kernel": (predicates.by_name("rnn.tanh"), "'rnn' (GRU) is one kernel"),
        "operands inside a kernel": (predicates.by_operand(torch.sigmoid), "'rnn' (GRU) is one kernel"),
        "what a layer is": (
            predicates.by_function(F.relu),
            "the one operation of 'act' is its output, activations=predicates.by_name('act')",
        ),
        "what a layer is given": (
            predicates.by_operand(F.relu),
            "what 'act' is given is its input, inputs=predicates.by_name('act')",
        ),
        "integers": (predicates.by_function(torch.argmax), "'argmax' gives or is no floating tensor"),
        "operands that are integers": (predicates.by_operand(torch.argmax), "'argmax.input' gives or is no floating"),
        "what nobody has": (predicates.by_function(torch.erf), "selects none. There are: "),
    }

    @pytest.mark.parametrize(("asked", "sentence"), CASES.values(), ids=CASES)
    def test_calls_that_nobody_makes_are_refused_with_the_reason(self, asked, sentence):
        model = qx.QuantizedModel(Asked().eval(), functions=asked)
        with pytest.raises(SelectionError) as error:
            model.calibrate([torch.ones(2, 3, dtype=torch.long)], unpack=lambda batch: (batch, None))
        assert sentence in str(error.value)

    def test_one_of_several_is_named_in_the_plan_with_the_reason(self):
        asked = predicates.by_function(torch.mul, F.relu) | predicates.by_name("rnn.sigmoid", "mull")
        plan = str(qx.QuantizedModel(Asked().eval(), functions=asked).describe(torch.ones(2, 3, dtype=torch.long)))
        assert "by_function(relu): the one operation of 'act'" in plan
        assert "by_name('rnn.sigmoid'): 'rnn' (GRU) is one kernel" in plan
        assert "by_name('mull'), did you mean 'mul'?" in plan


class Growing(nn.Module):
    """Calls one function more where a batch is large."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.tanh(self.layer(x.flatten(1)))
        return torch.tanh(x) if len(x) > 4 else x


class Now(nn.Module):
    """Calls a function every other time."""

    count = 0

    def forward(self, x):
        self.count += 1
        return torch.tanh(x) if self.count % 2 else x


class TestCallsThatChange:
    ASKED = (predicates.by_function(torch.tanh), predicates.by_operand(torch.tanh))

    @pytest.mark.parametrize("asked", ASKED, ids=str)
    @pytest.mark.parametrize("sizes", [(3, 6), (6, 3)])
    def test_are_refused_with_the_call_while_ranges_are_calibrated(self, asked, sizes):
        model = qx.QuantizedModel(Growing().eval(), functions=asked)
        with pytest.raises(
            SelectionError, match="same calls of functions whenever it runs, but 'tanh_1.* was not made"
        ):
            model.calibrate([images(size) for size in sizes])

    def test_are_refused_where_none_is_left_of_them(self):
        now = Now()
        model = qx.QuantizedModel(nn.Sequential(now, now), functions=self.ASKED[0])
        with pytest.raises(SelectionError, match="but '0.tanh' was not made each time"):
            model.calibrate([torch.ones(2, 3)])

    @pytest.mark.parametrize("engine", ["auto", "direct"])
    @pytest.mark.parametrize("asked", ASKED, ids=str)
    def test_are_refused_with_the_call_when_candidates_are_measured(self, asked, engine):
        model = qx.QuantizedModel(Growing().eval(), functions=asked)
        model.calibrate([images(3)])
        loader = [(images(size), torch.arange(size)) for size in (3, 6)]
        with pytest.raises(SelectionError, match="but 'tanh_1.* was not made before"):
            qx.LayerwiseQuantizationProblem(model, loader, engine=engine)

    def test_are_refused_with_the_call_in_training(self):
        model = qx.QuantizedModel(Growing().eval(), functions=self.ASKED[0])
        model.calibrate([images(3)])
        with pytest.raises(SelectionError, match="but 'tanh_1' was not made before"):
            qx.fine_tune(model, None, [(images(6), torch.arange(6))], F.cross_entropy, epochs=1)


@pytest.mark.parametrize(("scales", "points"), [({}, ["baddbmm"]), ({"alpha": 0.1}, []), ({"beta": 0.5}, [])], ids=str)
def test_a_product_with_a_mask_is_a_point_where_neither_is_scaled(scales, points):
    class Masked(nn.Module):
        def forward(self, x):
            mask = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf).expand(len(x), 4, 4)
            return torch.softmax(torch.baddbmm(mask, x, x.mT, **scales), -1) @ x

    network, x = Masked(), torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    model = qx.QuantizedModel(network, functions=predicates.by_function(torch.matmul))
    expected = network(x)
    model.calibrate([x])
    model.num_bits = [16] * len(model.points)
    assert [point.name for point in model.points] == [*points, "matmul"]
    torch.testing.assert_close(model(x), expected, atol=1e-3, rtol=0)
