"""Points on calls of functions and on inputs of modules, held against the same network written by hand."""

import copy
import pickle

import pytest
import torch
from called_networks import CALLED, Residual
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import CalibrationError, ModelError, SelectionError


def images(count, seed=0):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def calibrated(name):
    case = CALLED[name]
    torch.manual_seed(0)
    network = case.make().eval()
    written = copy.deepcopy(network)
    model = qx.QuantizedModel(network, **case.points)
    inputs = tuple(images(6, seed) for seed in range(case.num_inputs))
    model.calibrate([inputs], unpack=lambda batch: (batch, None))
    return model, written, inputs, case


def some_widths(model):
    count = len(model.points)
    return [[8] * count, [3 + place % 4 for place in range(count)], [(0, 4)[place % 2] for place in range(count)]]


class TestByHand:
    @pytest.mark.parametrize("name", CALLED)
    def test_equals_the_network_written_by_hand(self, name):
        model, written, inputs, case = calibrated(name)
        passed = set()

        def quantized(point, tensor):
            passed.add(point)
            return model.fake_quantizers[point](tensor)

        for widths in some_widths(model):
            model.num_bits = widths
            with torch.no_grad():
                given, expected = model(*inputs), written.by_hand(*inputs, quantized)
            if case.is_equal:
                assert torch.equal(given, expected)
            else:
                torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-3)
        assert passed == set(model.fake_quantizers)

    @pytest.mark.parametrize("name", ["residual", "torch's attention, fused"])
    def test_gradients_are_those_of_the_network_written_by_hand(self, name):
        model, written, inputs, _ = calibrated(name)
        network = model.model
        model(*inputs).square().sum().backward()
        written.by_hand(*inputs, lambda point, tensor: model.fake_quantizers[point](tensor)).square().sum().backward()
        for (key, one), other in zip(network.named_parameters(), written.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3, msg=key)

    def test_float_network_is_as_it_was_once_detached(self):
        model, written, inputs, _ = calibrated("residual")
        network = model.detach()
        assert torch.equal(network(*inputs), written(*inputs))
        assert not any("forward" in vars(module) for module in network.modules())

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_copies_have_points_of_their_own(self, copied):
        model, _, inputs, _ = calibrated("transformer")
        other = copied(model)
        expected = model(*inputs)
        assert torch.equal(other(*inputs), expected)
        other.num_bits = [2] * len(other.points)
        assert not torch.equal(other(*inputs), expected)
        assert torch.equal(model(*inputs), expected)


class Shared(nn.Module):
    """Two layers read one tensor, a third the same through a layer that hands it on, a fourth another one."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.fourth = (nn.Linear(64, 4) for _ in range(4))
        self.drop, self.act = nn.Dropout(), nn.ReLU(inplace=True)

    def forward(self, x):
        x = torch.sin(x.flatten(1))
        total = self.first(x) + self.second(x) + self.third(self.drop(x)) + self.fourth(2 * x)
        self.act(total)
        return total


class Twice(nn.Module):
    """A block that runs twice: what it adds is its first input, then what it gave."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return torch.relu(self.layer(x)) + x

    def __init__(self):
        super().__init__()
        self.block = self.Block()

    def forward(self, x):
        return self.block(self.block(torch.sin(x.squeeze(1))))


class TestSharedReads:
    def test_block_that_runs_twice_shares_a_point_between_its_layer_and_its_sum(self):
        model = qx.QuantizedModel(
            Twice().eval(), inputs=predicates.by_type(nn.Linear), functions=predicates.by_operand(torch.add)
        )
        model.calibrate([images(3)])
        assert [point.readers for point in model.points] == [
            ("block.layer", "block.add.input_1"),
            ("block.add.input",),
        ]
        assert model.points[0].num_calls == 2

    def test_operand_at_a_point_in_one_run_and_at_none_in_another_is_quantized_in_both(self):
        model = qx.QuantizedModel(
            Twice().eval(), predicates.by_name("block"), functions=predicates.by_operand(torch.add)
        )
        model.calibrate([images(3)])
        assert list(model.fake_quantizers) == ["input", "block", "block.add.input", "block.add.input_1"]

    def test_operand_that_its_own_module_reads_at_a_point_has_no_other(self):
        model = qx.QuantizedModel(
            Twice().eval(), inputs=predicates.by_name("block"), functions=predicates.by_operand(torch.add)
        )
        plan = model.describe(images(3))
        assert list(model.fake_quantizers) == ["block.input", "block.add.input"]
        assert "block.add.input_1 at block.input" in str(plan)

    @pytest.mark.parametrize("rule", ["conv.input", "add.input_1", predicates.by_operand(torch.mul)])
    def test_rule_for_any_reader_is_one_for_the_shared_point(self, rule):
        model, *_ = calibrated("shared reads")
        plan = qx.plan_choices(model, {"everything": (8,), "add.input": (7,), rule: (5,)})
        chosen = {point.name: found for point, found in zip(model.points, plan.choices, strict=True)}
        assert (chosen["conv.input"], chosen["add.input"], chosen["stem.input"]) == ((5,), (7,), (8,))

    def test_calls_in_another_order_than_when_they_were_found_are_refused(self):
        class Turned(nn.Module):
            def __init__(self):
                super().__init__()
                self.turn = False

            def forward(self, x):
                x = torch.sin(x)
                made = [torch.mul, torch.add][:: -1 if self.turn else 1]
                return made[0](x, 2.0) - made[1](x, 3.0)

        network = Turned()
        model = qx.QuantizedModel(network, functions=predicates.by_operand(torch.mul, torch.add))
        model.calibrate([images(3)])
        assert [point.readers for point in model.points] == [("mul.input", "add.input")]
        network.turn = True
        with pytest.raises(SelectionError, match="'mul.input' was not made in its turn"):
            model(images(3))

    def test_module_and_call_of_one_name_have_points_of_two(self):
        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.add = nn.Linear(64, 4)

            def forward(self, x):
                return self.add(x.flatten(1).sin()) + 1

        model = qx.QuantizedModel(Named(), inputs=predicates.by_name("add"), functions=predicates.by_operand(torch.add))
        model.calibrate([images(3)])
        assert list(model.fake_quantizers) == ["add.input", "(add.input)"]


class TestInputs:
    def test_modules_that_read_one_tensor_share_its_point(self):
        model = qx.QuantizedModel(Shared().eval(), inputs=predicates.by_type(nn.Linear))
        assert [point.name for point in model.points] == [
            f"{name}.input" for name in ("first", "second", "third", "fourth")
        ]
        plan = model.describe(images(3))
        assert [(point.name, point.kind, point.readers) for point in model.points] == [
            ("first.input", "argument", ("first", "second", "third")),
            ("fourth.input", "argument", ("fourth",)),
        ]
        assert model.points[0].num_elements == 64
        assert model.points[0].num_calls == 1
        assert "first.input" in str(plan)

    def test_a_tensor_that_is_at_a_point_already_has_no_other(self):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 4))
        model = qx.QuantizedModel(network, predicates.by_type(nn.ReLU), inputs=predicates.by_type(nn.Linear))
        plan = model.describe(images(3))
        assert list(model.fake_quantizers) == ["input", "1.input", "4.input", "2"]
        assert "without points of their own: 3 at 2" in str(plan)

    def test_what_a_module_writes_into_its_argument_is_seen_by_all(self):
        torch.manual_seed(0)
        network = Shared().eval()
        float_output = network(images(3))
        model = qx.QuantizedModel(network, inputs=predicates.by_name("act"))
        model.calibrate([images(3)])
        model.num_bits = [16]
        with torch.no_grad():
            torch.testing.assert_close(model(images(3)), float_output, atol=1e-3, rtol=1e-3)
            assert float(model(images(3)).min()) >= 0

    def test_integers_are_no_inputs_to_quantize(self):
        network = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
        model = qx.QuantizedModel(network, inputs=predicates.everything)
        with pytest.raises(SelectionError, match=r"'0' gets int64.*by_name\('0'\)"):
            model.calibrate([torch.tensor([[1, 2]])], unpack=lambda batch: (batch, None))
        assert [point.name for point in model.points] == ["0.input", "1.input"]

    def test_a_module_that_is_never_called_is_named(self):
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = qx.QuantizedModel(layer, inputs=predicates.by_type(nn.Linear))
        with pytest.raises(SelectionError, match=r"without calling the module.*by_name\('self_attn.out_proj'\)"):
            model.calibrate([torch.randn(2, 5, 8)])

    def test_the_network_itself_is_no_reader(self):
        with pytest.raises(SelectionError, match="quantize_input=True"):
            qx.QuantizedModel(nn.Linear(2, 2), inputs=predicates.by_type(nn.Linear))

    def test_a_forward_called_by_name_is_refused(self):
        class ByName(Shared):
            def forward(self, x):
                return self.first.forward(x.flatten(1)) + self.second(x.flatten(1))

        model = qx.QuantizedModel(ByName(), inputs=predicates.by_name("first", "second"))
        with pytest.raises(SelectionError, match=r"'first' must go through the module itself"):
            model.calibrate([images(2)])

    def test_tied_points_share_a_choice(self):
        model, *_ = calibrated("two inputs")
        plan = qx.plan_choices(model, tied=[("mix.input.input1", "mix.input.input2")])
        assert "mix.input.input1" in str(plan)


class Changing(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.fc = nn.Linear(64, 4)

    def forward(self, x):
        x = self.fc(x.flatten(1))
        many = x.shape[0] > 2
        if self.how == "more" and many:
            x = x + 1
        if self.how == "fewer" and not many:
            x = x + 1
        x = x + 2
        return torch.relu(x) + 3 if self.how == "order" and many else torch.relu(x + 3)


class TestRefusals:
    @pytest.mark.parametrize(("how", "call"), [("more", "add_2"), ("fewer", "add_2"), ("order", "add_1")])
    def test_calls_that_change_from_batch_to_batch(self, how, call):
        functions = predicates.by_function(torch.add, torch.relu)
        model = qx.QuantizedModel(Changing(how), functions=functions)
        with pytest.raises(SelectionError, match=rf"'{call}' was not made"):
            model.calibrate([images(2), images(4)])
        assert list(model.fake_quantizers) == []

    @pytest.mark.parametrize(
        "wanted", [predicates.by_function(torch.cat), predicates.by_name("blocks.0.add_9")], ids=["function", "name"]
    )
    def test_what_nobody_calls(self, wanted):
        model = qx.QuantizedModel(Residual(), functions=wanted)
        with pytest.raises(SelectionError, match=r"selects none.* There are: .*blocks\.0\.add_2"):
            model.describe(images(2))

    def test_what_nobody_calls_beside_what_is_called_is_said_in_the_plan(self):
        wanted = predicates.by_function(torch.add, torch.cat) | predicates.by_name("blocks.0.relu", "blocks.0.add_9")
        plan = qx.QuantizedModel(Residual(), functions=wanted).describe(images(2))
        assert (
            "calls that nobody makes: by_function(cat); by_name('blocks.0.add_9'), did you mean 'blocks.0.add_2'?"
            in str(plan)
        )

    def test_calls_in_a_fused_kernel(self):
        network = nn.Sequential(nn.Flatten(2), nn.LSTM(64, 4))
        model = qx.QuantizedModel(network, functions=predicates.by_function(torch.sigmoid))
        with pytest.raises(SelectionError, match="is one kernel"):
            model.describe(images(2))

    def test_points_that_are_still_to_be_found(self):
        model = qx.QuantizedModel(Residual(), functions=predicates.by_function(torch.add))
        with pytest.raises(ModelError, match=r"model\.describe\(example_input\)"):
            model(images(2))
        with pytest.raises(ModelError, match=r"model\.describe\(example_input\)"):
            qx.DirectEvaluator(model, [(images(2), torch.tensor([0, 1]))], qx.top1_accuracy)

    @pytest.mark.parametrize("given", [nn.ReLU, nn.ReLU(), "add", len, images, None])
    def test_what_is_no_function_of_torch(self, given):
        with pytest.raises(SelectionError, match="by_function takes functions of torch"):
            predicates.by_function(given)

    def test_a_mask_that_comes_later(self):
        class Masked(nn.Module):
            def forward(self, x):
                return x + torch.where(x > 2, -1e9, 0.0)

        model = qx.QuantizedModel(Masked(), functions=predicates.by_function(torch.add))
        with pytest.raises(CalibrationError, match="must see no additive mask"):
            model.calibrate([torch.zeros(2, 3), torch.full((2, 3), 5.0)])

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_calls_are_left_alone_after_an_error_in_the_midst_of_a_forward(self, error):
        class Raising(nn.Module):
            def forward(self, x):
                y = x + 1
                if bool(x[0, 0] > 5):
                    raise error
                return y + 2

        model = qx.QuantizedModel(nn.Sequential(Raising()), functions=predicates.by_function(torch.add))
        model.calibrate([torch.zeros(2, 3)])
        expected = model(torch.ones(2, 3))
        with pytest.raises(error):
            model(torch.full((2, 3), 9.0))
        assert torch._C._len_torch_function_stack() == 0
        assert torch.equal(model(torch.ones(2, 3)), expected)

    @pytest.mark.parametrize("first", [0.0, -1e9], ids=["seen late", "seen at once"])
    def test_a_mask_among_what_a_module_reads(self, first):
        class Reader(nn.Module):
            def forward(self, x, mask):
                return x + mask

        class Masked(nn.Module):
            def __init__(self):
                super().__init__()
                self.reader = Reader()

            def forward(self, x, mask):
                return self.reader(x, mask)

        model = qx.QuantizedModel(Masked(), inputs=predicates.by_name("reader"))
        batches = [(torch.ones(2, 3), torch.tensor([0.0, last, 0.0])) for last in (first, -1e9)]
        if first:
            model.calibrate(batches, unpack=lambda batch: (batch, None))
            assert list(model.fake_quantizers) == ["reader.input"]
        else:
            with pytest.raises(CalibrationError, match=r"'reader\.input\.mask' must see no additive mask"):
                model.calibrate(batches, unpack=lambda batch: (batch, None))

    def test_a_sum_with_a_mask_that_only_some_batches_have_stays_float(self):
        class Masked(nn.Module):
            def forward(self, x):
                y = x * 2
                return y + torch.tensor([0.0, -1e9, -1e9]) if bool(x[0, 0] > 1) else y

        model = qx.QuantizedModel(Masked(), functions=predicates.by_function(torch.add, torch.mul))
        model.calibrate([torch.zeros(2, 3), torch.full((2, 3), 5.0)])
        assert list(model.fake_quantizers) == ["mul"]


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
