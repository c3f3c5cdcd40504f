"""Which models are wrapped, refused by name, and let go without a trace."""

import warnings
from typing import Any

import pytest
import torch
from awkward_networks import Argmax, Attention, NeverCalled, Raising, UserHooked, integer_output
from network_state import flags, hooks, network_state
from networks import AWKWARD, Case, batches, digits, trained, wrapping
from torch import nn

import qexplore
from qexplore import predicates
from qexplore.errors import ModelError, SelectionError
from qexplore.model import QuantizedActivationsModel, call

RELU = predicates.by_type(nn.ReLU)
CASES = pytest.mark.parametrize("case", AWKWARD.values(), ids=AWKWARD)
X = torch.linspace(-1, 1, 40).reshape(5, 8)


@pytest.fixture
def network() -> nn.Module:
    return trained("small_cnn")


class TestDetach:
    @CASES
    def test_network_comes_back_as_it_was_with_the_users_hooks_only(self, case: Case) -> None:
        network = case.build()
        before = network_state(network)
        model = QuantizedActivationsModel(network, case.predicate, **case.options)
        model.describe(case.inputs())
        assert hooks(network) != before[1]
        assert model.detach() is network
        assert network_state(network) == before

    @CASES
    def test_function_takes_the_hooks_off_without_the_wrapper(self, case: Case) -> None:
        network = case.build()
        before = network_state(network)
        QuantizedActivationsModel(network, case.predicate, **case.options)
        assert qexplore.detach(network) is network
        assert network_state(network) == before
        QuantizedActivationsModel(network, case.predicate, **case.options).describe(case.inputs())

    def test_detached_wrapper_says_so(self, network: nn.Module) -> None:
        by_method, x = QuantizedActivationsModel(network, RELU), digits().search.x[:2]
        by_method.detach()
        by_function = QuantizedActivationsModel(network, RELU)
        qexplore.detach(network)
        for model in (by_method, by_function):
            for use in (lambda m: m(x), lambda m: m.describe(x), lambda m: m.calibrate([x]), lambda m: m.detach()):
                with pytest.raises(ModelError, match="detached from its network: wrap the network anew"):
                    use(model)

    def test_no_hook_is_left_on_a_network_that_raises(self) -> None:
        network = Raising(limit=0)
        model = QuantizedActivationsModel(network, RELU)
        for use in (model, model.describe, lambda x: model.calibrate([x])):
            with pytest.raises(RuntimeError, match="the network gave up"):
                use(X)
        assert hooks(model.detach()) == {}

    def test_users_hook_still_runs_after_detaching(self) -> None:
        network = UserHooked()
        expected = network(X)
        model = QuantizedActivationsModel(network, RELU)
        model(X)
        assert torch.equal(model.detach()(X), expected)
        assert network.num_relu_calls == 3

    def test_network_can_be_wrapped_again(self, network: nn.Module) -> None:
        for predicate in (RELU, predicates.by_type(nn.Linear), RELU):
            QuantizedActivationsModel(network, predicate).detach()
        assert hooks(network) == {}


class TestFlags:
    def test_wrapping_keeps_every_modules_own_flag(self) -> None:
        network = AWKWARD["frozen_batchnorm"].build()
        before = flags(network)
        model = QuantizedActivationsModel(network, RELU)
        assert flags(network) == before
        assert model.training
        model.describe(X)
        model.calibrate([X])
        assert flags(network) == before
        assert not QuantizedActivationsModel(trained("small_cnn"), RELU).training

    def test_wrapper_switches_between_train_and_eval_like_any_module(self, network: nn.Module) -> None:
        model = QuantizedActivationsModel(network, RELU)
        model.train()
        assert network.bn1.training
        model.eval()
        assert not network.bn1.training


class TestShells:
    def test_data_parallel_is_taken_off(self, network: nn.Module) -> None:
        model = QuantizedActivationsModel(nn.DataParallel(network), RELU)
        assert model.model is network
        assert list(model.activation_fake_quantizers) == ["input", "relu1", "relu2", "relu3"]

    def test_compiled_network_is_taken_out_of_its_shell(self, network: nn.Module) -> None:
        model = QuantizedActivationsModel(torch.compile(network, backend="eager"), RELU)
        assert model.model is network
        both = QuantizedActivationsModel(nn.DataParallel(torch.compile(trained("lstm"))), **wrapping("lstm"))
        assert type(both.model).__name__ == "LSTM"

    def test_network_compiled_in_place_is_refused(self, network: nn.Module) -> None:
        network.compile(backend="eager")
        with pytest.raises(ModelError, match=r"'the model' is compiled by torch\.compile"):
            QuantizedActivationsModel(network, RELU)

    def test_module_compiled_inside_is_refused_by_name(self) -> None:
        network = nn.Sequential(nn.Linear(8, 8), torch.compile(nn.Sequential(nn.ReLU()), backend="eager"))
        with pytest.raises(ModelError, match="'1' is compiled by torch.compile.*wrap the network before compiling it"):
            QuantizedActivationsModel(network, RELU)

    @pytest.mark.parametrize("how", ["script", "trace"])
    def test_scripted_and_traced_networks_are_refused_by_name(self, network: nn.Module, how: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jitted = torch.jit.script(network) if how == "script" else torch.jit.trace(network, digits().search.x[:2])
        with pytest.raises(ModelError, match="'the model' is a torch.jit module"):
            QuantizedActivationsModel(jitted, RELU)
        with pytest.raises(ModelError, match="'0' is a torch.jit module.*wrap the eager network it was made from"):
            QuantizedActivationsModel(nn.Sequential(jitted, nn.ReLU()), RELU)

    @pytest.mark.parametrize(
        "wrong", [None, 3, "resnet", nn.Linear, lambda x: x], ids=lambda wrong: type(wrong).__name__
    )
    def test_what_is_no_module_is_refused(self, wrong: Any) -> None:
        with pytest.raises(ModelError, match="the model must be a torch.nn.Module, got"):
            QuantizedActivationsModel(wrong, RELU)

    def test_second_wrapper_is_refused_and_the_first_goes_on(self, network: nn.Module) -> None:
        model, x = QuantizedActivationsModel(network, RELU), digits().search.x[:5]
        before, expected = network_state(network), model(x)
        for again in (network, model, nn.DataParallel(network), nn.Sequential(network)):
            with pytest.raises(ModelError, match=r"wrapped already: call detach\(\)"):
                QuantizedActivationsModel(again, RELU)
        assert network_state(network) == before
        assert torch.equal(model(x), expected)


class TestSelection:
    def test_predicate_that_selects_nothing_leaves_no_hook(self, network: nn.Module) -> None:
        before = network_state(network)
        with pytest.raises(SelectionError, match="selects no module of SmallCNN. There are:"):
            QuantizedActivationsModel(network, predicates.by_type(nn.Sigmoid))
        with pytest.raises(SelectionError, match=r"got ReLU: use predicates.by_type\(ReLU\)"):
            QuantizedActivationsModel(network, nn.ReLU)
        assert network_state(network) == before

    def test_selected_module_that_is_never_called_is_named(self) -> None:
        model = QuantizedActivationsModel(NeverCalled(), predicates.by_type(nn.Linear))
        for use in (model.describe, lambda x: model.calibrate([x])):
            with pytest.raises(SelectionError, match=r"calls: 'spare'\. .* leave them out: predicate & ~.*'spare'"):
                use(X)
        assert not model.activation_fake_quantizers["fc"].is_calibrated

    def test_attentions_output_projection_is_named_as_what_it_is(self) -> None:
        model = QuantizedActivationsModel(Attention(), predicates.by_type(nn.Linear))
        text = (
            r"'attention.out_proj' \(torch's MultiheadAttention uses the weights of attention.out_proj without calling"
        )
        with pytest.raises(SelectionError, match=text):
            model.describe(torch.randn(2, 4, 8))

    def test_integer_output_is_refused_by_name(self) -> None:
        for outputs, wanted in (("tensor", "be one floating tensor"), ("all", "hold a floating tensor")):
            model = QuantizedActivationsModel(integer_output(), predicates.by_type(Argmax), outputs=outputs)
            for use in (model, model.describe, lambda x, model=model: model.calibrate([x])):
                with pytest.raises(SelectionError, match=f"the output of '1' must {wanted}, got a tensor of int64"):
                    use(X)

    @pytest.mark.parametrize(
        ("name", "got"),
        [
            ("as_tuple", "a tuple of Tensor, Tensor"),
            ("as_list", "a list of Tensor, Tensor, str, NoneType, Tensor"),
            ("as_dict", "a dict with the keys 'left', 'right'"),
            ("as_named", "a Pair of Tensor, Tensor"),
        ],
    )
    def test_container_is_refused_by_name_with_the_way_out(self, name: str, got: str) -> None:
        model = QuantizedActivationsModel(AWKWARD["containers"].build(), predicates.by_name(name))
        with pytest.raises(SelectionError) as caught:
            model.describe(X)
        assert str(caught.value) == (
            f"the output of '{name}' must be one floating tensor, got {got}: "
            'wrap with outputs="all" to quantize every floating tensor in it with one quantizer, or leave this module '
            "out of the predicate"
        )

    def test_refused_network_is_float_again_after_detaching(self) -> None:
        model = QuantizedActivationsModel(trained("lstm"), predicates.by_type(nn.LSTM))
        with pytest.raises(SelectionError, match="got a tuple of Tensor, tuple"):
            model.calibrate(batches(digits().calibration))
        x = digits().search.x[:3]
        assert torch.equal(model.detach()(x), trained("lstm")(x))


@CASES
def test_forward_takes_what_the_network_takes(case: Case) -> None:
    model = QuantizedActivationsModel(case.build(), case.predicate, **case.options)
    output = call(model.eval(), case.inputs())
    assert output.shape == call(case.build().eval(), case.inputs()).shape
