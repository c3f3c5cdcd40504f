"""Every turn-key result is held against the float network."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore import predicates
from qexplore.errors import StackError
from qexplore.stacks import Converted, Settings
from qexplore.workflows import holding


class Nested(nn.Module):
    """A dict of a tensor, a list with one, and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        y = torch.relu(self.bn(self.conv(x)))
        return {"classes": self.fc(y.mean((2, 3))), "maps": [y], "places": y.flatten(1).argmax(1)}


def _away(given: torch.Tensor, right: torch.Tensor) -> float:
    return float((given - right).norm() / right.norm())


@pytest.mark.parametrize("stack", ["fx", "eager"])
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_report_tells_relative_error_of_the_worst_floating_output(stack: str, method: str) -> None:
    network, batch = Nested().eval(), torch.randn(16, 3, 8, 8)
    quantize = qx.quantize_static if method == "static" else qx.quantize_dynamic
    result = quantize(network, [batch] if method == "static" else batch, stack=stack)
    with torch.no_grad():
        right, given = network(batch), result.model(batch)
    each = [_away(given["classes"], right["classes"]), _away(given["maps"][0], right["maps"][0])]
    assert result.report.error == pytest.approx(max(each), rel=1e-4)
    assert 0 < result.report.error < 0.1
    assert result.report.alarms == ()


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_error_of_a_layer_is_of_the_inputs_that_it_got(stack: str) -> None:
    network, batches = Nested().eval(), [torch.randn(8, 3, 8, 8) for _ in range(2)]
    strategy = {row.name: row for row in qx.quantize_static(network, batches, stack=stack).report.strategy}
    assert 0 < strategy["conv"].error < 0.05
    assert 0 < strategy["fc"].error < 0.05
    assert strategy["bn"].error is None


def _images() -> list[torch.Tensor]:
    return [torch.randn(8, 1, 8, 8) for _ in range(2)]


@pytest.mark.parametrize("method", ["static", "qat"])
@pytest.mark.parametrize("last", [nn.Conv2d(4, 4, 3), nn.Identity()], ids=["between", "last"])
def test_layer_whose_kernel_is_wrong_is_left_float_and_named(method: str, last: nn.Module) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(init=0.9), last).eval()  # torch's kernel takes half the slope
    if method == "static":
        report = qx.quantize_static(network, _images(), stack="fx").report
    else:
        batches = [(one, network(one).detach()) for one in _images()]
        report = qx.quantize_qat(network, batches, nn.functional.mse_loss, stack="fx").report
    row = next(row for row in report.strategy if row.name == "1")
    assert row.state == "float"
    assert "of the float norm away" in row.reason
    assert any("'1' is left float" in note for note in report.notes)
    assert report.error < 0.05
    assert report.alarms == ()
    assert report.strategy[0].state == "integers"


class Branches(nn.Module):
    """Layers that torch's kernel is right for behind PReLUs, of which it takes a wrong slope."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        kinds = [(nn.Conv2d(4, 4, 3, padding=1), nn.PReLU(init=-1.5)) for _ in range(depth)]
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), *(one for pair in kinds for one in pair))
        self.left, self.right, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(8, 5)
        for layer in (
            self.body[0],
            *self.body[1::2],
            self.left,
            self.right,
        ):  # sums, which wrong slopes drive out of their ranges
            nn.init.uniform_(layer.weight, -0.1, 0.3)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.head(torch.cat([self.left(x), self.right(x)], 1).mean((2, 3)))


@pytest.mark.parametrize("method", ["static", "qat"])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_layer_that_is_off_for_its_inputs_alone_is_integers_in_the_end(method: str, depth: int) -> None:
    torch.manual_seed(0)
    network = Branches(depth).eval()
    if method == "static":
        report = qx.quantize_static(network, _images(), stack="fx").report
    else:
        batches = [(one, network(one).detach()) for one in _images()]
        report = qx.quantize_qat(network, batches, nn.functional.mse_loss, stack="fx").report
    assert {row.type for row in report.strategy if row.state == "float"} == {"PReLU"}
    assert {"left", "right", "cat", "head"} <= {row.name for row in report.strategy if row.state == "integers"}
    assert report.alarms == ()
    assert report.error < 0.1


def test_file_of_a_network_with_a_layer_left_float_gives_equal_outputs(tmp_path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(init=0.9), nn.Conv2d(4, 4, 3)).eval()
    images = _images()
    result = qx.quantize_static(network, images)
    result.save(tmp_path / "network")
    loaded = qx.load_quantized(tmp_path / "network", network)
    assert torch.equal(loaded(images[0]), result.model(images[0]))


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.Hardswish, nn.PReLU], ids=lambda kind: kind.__name__)
def test_module_that_is_not_selected_stays_float_in_fx_between_integers(kind) -> None:
    layer = kind(4) if kind is nn.LayerNorm else kind()
    network = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 4)).eval()
    modules = ~predicates.by_name("1")
    report = qx.quantize_static(network, [torch.randn(8, 4)], modules=modules).report
    assert [row.state for row in report.strategy] == ["integers", "float", "integers"]


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_after_training_it_is_held_against_the_trained_weights(stack: str) -> None:
    torch.manual_seed(0)
    network, batch = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(32, 4)
    batches = [(batch, torch.randn(32, 4))] * 20
    options = {"optimizer": lambda parameters: torch.optim.SGD(parameters, 0.5), "stack": stack}
    result = qx.quantize_qat(network, batches, nn.functional.mse_loss, **options)
    with torch.no_grad():
        far = float((result.model(batch) - network(batch)).norm() / network(batch).norm())
    assert far > 0.3
    assert result.report.error < 0.05


class Two(nn.Module):
    """A large output that is right and a small one that ends in dust where ``is_dust``, else in a wrong kernel."""

    def __init__(self, is_dust: bool) -> None:
        super().__init__()
        self.conv, self.is_dust = nn.Conv2d(1, 4, 3), is_dust

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.conv(x)
        small = y.mean((2, 3), keepdim=True).expand_as(y)
        small = small - small.mean((2, 3), keepdim=True) if self.is_dust else torch.softmax(y.flatten(1), 1)
        return {"large": y * 1000, "small": small}


def test_output_of_float_dust_is_no_alarm() -> None:
    report = qx.quantize_static(Two(True).eval(), _images()).report
    assert report.alarms == ()


def test_each_of_several_outputs_is_held_by_itself_and_named() -> None:
    alarm = holding.Alarm("", 0.5, 0.1, "small")
    assert str(alarm) == "the output 'small' is 0.500 of the float norm away, where rounding explains 0.100"
    converted = Converted(_Off(), (), lambda path: None)
    torch.manual_seed(0)
    held = holding.hold(Two(False).eval(), converted, [(one,) for one in _images()])
    assert [one.output for one in held.alarms] == ["small"]
    assert held.error == pytest.approx(1.0)


class _Off(Two):
    """Its small output is nothing."""

    def __init__(self) -> None:
        super().__init__(False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        right = Two(False)(x)
        return {"large": right["large"], "small": 0 * right["small"]}


class _Probabilities(nn.Module):
    """Small numbers out of large ones; nothing of worth where it ``is_off``."""

    def __init__(self, is_off: bool = False) -> None:
        super().__init__()
        self.is_off = is_off

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        right = torch.softmax(images.flatten(1) / 255, 1) / 10
        return right.flip(1) if self.is_off else right


def test_small_output_of_large_inputs_is_held() -> None:
    converted = Converted(_Probabilities(True), (), lambda path: None)
    held = holding.hold(_Probabilities(), converted, [(255 * torch.rand(4, 1, 16, 16),)])
    assert held.error > 0.3
    assert held.alarms


class _BehindLayer(nn.Module):
    """Steps that stay float behind a layer, the last of which gives another shape than the layer."""

    def __init__(self, behind: str) -> None:
        super().__init__()
        self.first, self.lstm, self.last = nn.Linear(8, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)
        self.behind = behind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x).relu()
        y = self.lstm(y)[0] if self.behind == "lstm" else torch.matmul(y, x.transpose(1, 2)) @ x
        return self.last(y.mean(1))


@pytest.mark.parametrize(
    ("stack", "method", "behind"),
    [
        ("eager", "static", "matmul"),
        ("fx", "static", "matmul"),
        pytest.param("pt2e", "dynamic", "lstm", marks=pytest.mark.slow),
    ],
)
def test_layer_is_not_compared_with_steps_behind_it(stack: str, method: str, behind: str) -> None:
    network, batch = _BehindLayer(behind).eval(), torch.randn(8, 5, 8)
    quantize = qx.quantize_static if method == "static" else qx.quantize_dynamic
    report = quantize(network, [batch] if method == "static" else batch, stack=stack).report
    assert report.alarms == ()
    errors = {row.name: row.error for row in report.strategy}
    assert 0 < errors["first"] < 0.05
    assert 0 < errors["last"] < 0.05


FUNCTIONS_BEHIND = {
    "conv2d": lambda x, w: F.conv2d(x, w.reshape(4, 4, 1, 1)),
    "linear": lambda x, w: F.linear(x.flatten(1)[:, :4], w),
    "matmul": lambda x, w: torch.matmul(x.flatten(1)[:, :4], w),
}


class FunctionBehind(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.a, self.w, self.function = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(4, 4)), function

    def forward(self, x):
        return self.function(torch.relu(self.a(x)), self.w)


@pytest.mark.parametrize("name", FUNCTIONS_BEHIND)
def test_a_layer_in_front_of_a_function_that_stays_float_is_held_alone(name):
    torch.manual_seed(0)
    network = FunctionBehind(FUNCTIONS_BEHIND[name]).eval()
    result = qx.quantize_static(network, [(torch.randn(4, 3, 8, 8), None)], stack="eager")
    row = next(row for row in result.report.strategy if row.name == "a")
    assert row.is_quantized and row.error < 0.1 and not result.report.alarms


@pytest.mark.parametrize(
    "clamp",
    [nn.ReLU6(), nn.ReLU6(inplace=True), nn.Hardtanh(0, 2), F.relu_],
    ids=["relu6", "written", "hardtanh", "function"],
)
def test_a_layer_in_front_of_a_clamp_is_held_by_what_the_clamp_leaves(clamp):
    class Clamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)
            self.clamp = clamp

        def forward(self, x):
            x = self.conv(x)
            self.clamp(x)
            return self.last(self.clamp(x))

    result = qx.quantize_static(Clamped().eval(), [torch.randn(8, 1, 8, 8)])
    assert not result.report.alarms
    assert next(row.error for row in result.report.strategy if row.name == "conv") < 0.05


def test_fx_rounds_nothing_that_is_read_in_float_alone() -> None:
    class Stacking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.stack([self.a(x), 10 * x]).amin(0))

    torch.manual_seed(0)
    result = qx.quantize_static(Stacking(), [(torch.randn(16, 8), None)], stack="fx")
    rounded = [node for node in result.model.graph.nodes if node.target is torch.quantize_per_tensor]
    assert [next(iter(node.users)).target for node in rounded] == ["a", "b"]


def test_network_that_gives_integers_alone_is_noted_and_its_layers_held() -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x).argmax(1)

    report = qx.quantize_static(Choosing(), [(torch.randn(16, 8), None)]).report
    assert report.error is None
    assert 0 < report.strategy[0].error < 0.05
    assert any("no floating numbers" in note for note in report.notes)


class Alike(nn.Module):
    """Two layers of equal weights, the second of which reads more."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.b.load_state_dict(self.a.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(10 * x)) + torch.relu(self.a(x)))


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_onnxruntime_tells_layers_of_equal_weights_apart_and_holds_each(method: str) -> None:
    torch.manual_seed(0)
    network, x, left = Alike(), torch.randn(16, 8), ~predicates.by_name("a")
    if method == "static":
        report = qx.quantize_static(network, [(x, None)], stack="onnxruntime", modules=left).report
    else:
        report = qx.quantize_dynamic(network, x, stack="onnxruntime", modules=left).report
    rows = {row.name: row for row in report.strategy if row.type == "Linear"}
    assert {name: row.state for name, row in rows.items()} == {"a": "float", "b": "integers", "c": "integers"}
    assert rows["a"].error < 0.001 < min(rows["b"].error, rows["c"].error)
    assert max(rows["b"].error, rows["c"].error) < 0.02


def test_alarm_is_the_first_line_of_the_report() -> None:
    alarm = holding.Alarm("a", 0.3, 0.05)
    report = qx.quantize_dynamic(nn.Linear(8, 4), torch.randn(2, 8)).report
    assert str(replace(report, alarms=(alarm,))).splitlines()[0] == f"! {alarm}"


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_ranges_that_are_frozen_before_the_first_step_are_those_of_the_float_network(stack: str) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(16, 8), torch.randn(16, 4))] * 2
    report = qx.quantize_qat(nn.Sequential(nn.Linear(8, 4)), batches, F.mse_loss, stack=stack, freeze_after=0.0).report
    assert report.strategy[0].is_quantized
    assert 0 < report.error < 0.05


def test_a_network_that_a_stack_stops_at_everywhere_is_refused(monkeypatch) -> None:
    def stop(network, settings, data):
        if not settings.left_float:
            error = StackError("cannot")
            error.layer = "0"
            raise error
        return Converted(network, (), save=lambda path: None)

    home = SimpleNamespace(quantize=stop)
    with pytest.raises(StackError, match="cannot"):
        holding._quantized(home, nn.Sequential(nn.Linear(8, 4)), Settings("static"), None)
