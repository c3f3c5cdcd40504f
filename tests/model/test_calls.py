"""Points on calls of functions and on inputs of modules, held against the same network written by hand."""

import copy
import pickle

import pytest
import torch
from called_networks import CALLED, Residual, calibrated, images
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import CalibrationError, ModelError, SelectionError


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
