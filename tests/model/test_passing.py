"""What a point quantizes is what the rest of the network reads; a call or an evaluation that passes it by is named."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import ModelError, SelectionError
from qexplore.metrics import as_metric


class Overwriting(nn.Module):
    """Two linear layers round an activation, put together by a function ``(a, activation, x) -> value``."""

    def __init__(self, activation, way):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.activation, self.b, self.way = nn.Linear(8, 8), activation, nn.Linear(8, 3), way

    def forward(self, x):
        return self.b(self.way(self.a(x), self.activation))


def dropped(x, activation):
    activation(x)
    return x


def dropped_by_keyword(x, activation):
    activation(input=x)
    return x


def identity_of_a_residual(x, activation):
    y = activation(x)
    return y + x


def through_a_view(x, activation):
    activation(x.view(-1, 2, 4))
    return x


def through_an_alias(x, activation):
    alias = nn.functional.dropout(x, training=False)
    activation(alias)
    return x


def twice(x, activation):
    activation(x)
    y = x - 0.2
    activation(y)
    return x + y


class Rectifies(nn.Module):
    """Writes into its argument and does not say so."""

    def forward(self, input):
        return F.relu_(input)


class Pair(nn.Module):
    def forward(self, input):
        return F.relu_(input), input * 2


def spread(output, target):
    return output.double().square().mean(dim=1)


IN_PLACE = {
    "ReLU": nn.ReLU(inplace=True),
    "Hardtanh": nn.Hardtanh(inplace=True),
    "SiLU": nn.SiLU(inplace=True),
    "LeakyReLU": nn.LeakyReLU(0.1, inplace=True),
    "Dropout": nn.Dropout(0.1, inplace=True),  # in eval mode it hands its input on
    "undeclared": Rectifies(),
    "inside": nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)),
}
WAYS = [dropped, dropped_by_keyword, identity_of_a_residual, through_a_view, through_an_alias, twice]
POINT = predicates.by_name("activation")


def rows(count=64):
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(1))


def wrapped(network, **options):
    model = qx.QuantizedModel(network.eval(), POINT, quantize_input=False, **options)
    model.calibrate([rows()])
    return model


def by_hand(network, model, x):
    """The same network with an activation that writes quantized values itself."""

    class ByHand(nn.Module):
        def forward(self, input):
            with torch.no_grad():
                input.copy_(quantizer(activation(input)))
            return input

    activation, quantizer = copy.deepcopy(network.activation), copy.deepcopy(model.fake_quantizers["activation"])
    other = copy.deepcopy(qx.detach(copy.deepcopy(network)))
    other.activation = ByHand()
    with torch.no_grad():
        return other(x)


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_what_a_module_writes_into_its_argument_is_quantized_there(kind, way, mode):
    if way is dropped_by_keyword and kind == "inside":
        return  # nn.Sequential takes no keyword but its own
    plain = copy.deepcopy(IN_PLACE[kind]).eval()
    network = Overwriting(copy.deepcopy(plain), way)
    model = wrapped(network)
    model.num_bits = [2]
    network.activation, hooked = plain, network.activation
    expected = by_hand(network, model, rows())
    network.activation = hooked
    with mode():
        assert torch.equal(model(rows()), expected)
    assert not torch.equal(expected, qx.detach(network)(rows()))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["ReLU", "undeclared"])
def test_gradients_pass_what_was_written_back(way, kind):
    network = Overwriting(copy.deepcopy(IN_PLACE[kind]), way)
    model = wrapped(network)
    model.num_bits = [4]
    model(rows()).square().sum().backward()
    found = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()

    class OutOfPlace(nn.Module):
        def forward(self, input):
            passed = quantizer(F.relu(input))
            input.copy_(passed)
            return input

    quantizer = copy.deepcopy(model.fake_quantizers["activation"])
    qx.detach(network).activation = OutOfPlace()
    network(rows()).square().sum().backward()
    for gradient, parameter in zip(found, network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_both_evaluators_agree_on_what_was_written_back():
    for way in WAYS[:4]:
        network = Overwriting(nn.ReLU(inplace=True), way)
        model = wrapped(network)
        loader = [(x, torch.zeros(16)) for x in rows().split(16)]
        problem = qx.LayerwiseQuantizationProblem(model, loader, spread, engine="auto")
        rows_ = np.array([[2], [3], [8]])
        engine, direct = (list(answers(rows_)) for answers in (problem.measure, problem.measure_directly))
        for one, other in zip(engine, direct, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)  # sums in another order on some processors
        assert problem.evaluator.description.startswith("prefix" if way is not through_a_view else "direct"), way
        assert len({one.score for one in direct}) == 3


class ByName(nn.Module):
    """Calls its activation's forward past the module."""

    def __init__(self, calls):
        super().__init__()
        self.a, self.activation, self.calls = nn.Linear(8, 8), nn.ReLU(), calls

    def forward(self, x):
        for by_name in self.calls:
            x = self.activation.forward(x) if by_name else self.activation(self.a(x))
        return x


@pytest.mark.parametrize(("calls", "said"), [((False, True), "1 of 2"), ((True,), "1 of 1"), ((True, False), "1 of 2")])
def test_a_call_that_goes_past_a_modules_hook_is_refused_by_name(calls, said):
    network = ByName(calls)
    model = qx.QuantizedModel(network, POINT, quantize_input=False)
    for look in (lambda: model.calibrate([rows()]), lambda: model.describe(rows())):
        with pytest.raises(
            SelectionError, match=f"every call of 'activation' must go .* but {said} went to its forward"
        ):
            look()
    assert "forward" not in vars(network.activation)


def test_gradients_through_what_was_not_known_to_write_are_refused_by_name():
    model = qx.QuantizedModel(Overwriting(Rectifies(), dropped), POINT, quantize_input=False)
    model.fake_quantizers["activation"].amax = 1.0
    with pytest.raises(ModelError, match="'activation' writes its result into its argument and was not seen"):
        model(rows())
    model(rows()).sum().backward()  # it is known from now on


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.relu, self.fc2 = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)

    def encode(self, x):
        return self.relu(self.fc1(x))

    def forward(self, x):
        return self.fc2(self.encode(x))


def encoder():
    model = qx.QuantizedModel(Encoder().eval(), predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate([rows()])
    return model


def test_points_that_an_evaluation_never_passes_are_said():
    def error(model, loader):
        return float(sum(model.model.encode(x).abs().sum() for x, _ in loader))

    model, loader = encoder(), [(rows(), torch.zeros(64))]
    with pytest.warns(RuntimeWarning, match="'error' never passes the points 'input', 'fc2.weight': their widths"):
        problem = qx.LayerwiseQuantizationProblem(model, loader, qx.whole_set(error))
    assert "never passed, so free: input, fc2.weight\n" in str(problem.describe())
    whole = qx.LayerwiseQuantizationProblem(
        model, loader, qx.whole_set(lambda model, loader: float(model(rows()).sum()))
    )
    assert "never passed" not in str(whole.describe())


def test_points_that_no_sample_of_the_search_set_reaches_are_said():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.low, self.high = nn.Sequential(nn.Linear(8, 3), nn.ReLU()), nn.Sequential(nn.Linear(8, 3), nn.ReLU())

        def forward(self, x):
            return self.high(x) if x.mean() > 0 else self.low(x)

    model = qx.QuantizedModel(Experts().eval(), predicates.by_type(nn.ReLU))
    model.calibrate([rows().abs(), -rows().abs()])
    with pytest.warns(RuntimeWarning, match="never passes the points 'low.1':"):
        evaluator = qx.DirectEvaluator(model, [(rows().abs(), torch.zeros(64))], as_metric(spread))
    assert evaluator.not_passed == ("low.1",)


def test_a_network_that_failed_amid_a_forward_can_be_copied_and_detached():
    class Fails(nn.ReLU):
        def forward(self, input):
            return super().forward(input) if len(input) > 1 else self.nothing

    network = Overwriting(Fails(inplace=True), dropped)
    model = wrapped(network)
    model.num_bits = [3]
    with pytest.raises(AttributeError):
        model(rows(1))
    assert torch.equal(copy.deepcopy(model)(rows()), model(rows()))
    model.detach()
    assert not network.activation._forward_pre_hooks and not network.activation._forward_hooks


def test_costs_charge_what_reads_a_tensor_that_was_written_back():
    def bops(way):
        model = qx.QuantizedModel(Overwriting(nn.ReLU(inplace=True), way).eval(), POINT, predicates.weighted)
        model.calibrate([rows()])
        costs = qx.LayerwiseQuantizationProblem(model, [(rows(), torch.zeros(64))], spread, costs=("bops",)).costs
        return [int(cost) for cost in costs[0].cost(np.array([[8, 2, 8, 4], [8, 4, 8, 4], [8, 0, 8, 0]]))]

    # a: 64 products of 8 and 8 bits; b: 24 of the activation's bits and its own.
    assert bops(dropped) == [64 * 64 + 24 * 2 * 4, 64 * 64 + 24 * 4 * 4, 64 * 64 + 24 * 32 * 32]
    assert bops(dropped) == bops(lambda x, activation: activation(x))
