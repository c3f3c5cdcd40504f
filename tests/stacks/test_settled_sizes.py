"""What a branch on a size, or an exporter, has settled: noted, held in the file, and refused by name otherwise."""

import pytest
import torch
from torch import nn

import qexplore as qx
from qexplore._onnx import LOWEST_OPSET, as_onnx
from qexplore._sizes import Sizes
from qexplore.errors import DataError, TraceError

STACKS = ["pt2e", "onnxruntime"]


class Branching(nn.Module):
    def __init__(self, decide):
        super().__init__()
        self.a, self.b, self.decide = nn.Linear(8, 8), nn.Linear(8, 8), decide

    def forward(self, x):
        return self.b(self.a(x)) if self.decide(x) else self.a(x)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, pair):
        return self.a(pair[0] + pair[1]) * (3 if pair[0].size(0) == 1 else 1)


def few(decide):
    return Branching(decide), torch.randn(4, 8), "x.shape[0] != 1", 1


KINDS = {
    "==": lambda: few(lambda x: x.shape[0] == 1),
    "size": lambda: few(lambda x: x.size(0) < 2),
    "numel": lambda: few(lambda x: x.numel() == 8),
    "squeeze": lambda: few(lambda x: x.squeeze(0).dim() == 1),
}
TORCHS = {
    "more": (lambda x: x.shape[0] > 3, "x.shape[0] > 3", 2),
    "even": (lambda x: x.shape[0] % 2 == 0, "(x.shape[0] % 2) == 0", 5),
    "another": (lambda x: x.shape[0] == 6, "x.shape[0] != 6", 6),
}


def check(network, x, condition, size, stack, tmp_path):
    other = torch.randn(size, *x.shape[1:])
    result = qx.quantize_dynamic(network.eval(), x, stack=stack)
    assert sum(f"where {condition}," in note for note in result.report.notes) == 1
    result.save(tmp_path / "file")
    for model in (result.model, qx.load_quantized(tmp_path / "file")):
        model(x)
        with pytest.raises(DataError, match=r"takes .*shape\[0\]") as caught:
            model(other)
        assert condition in str(caught.value) and str([*other.shape]) in str(caught.value)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_on_one_sample_is_noted_and_the_other_way_refused(kind, stack, tmp_path):
    check(*KINDS[kind](), stack, tmp_path)


@pytest.mark.parametrize("kind", TORCHS)
def test_conditions_of_the_exporter_are_noted_held_and_asked(kind, tmp_path):
    decide, condition, size = TORCHS[kind]
    check(Branching(decide), torch.randn(4, 8), condition, size, "pt2e", tmp_path)


@pytest.mark.parametrize("stack", STACKS)
def test_networks_without_branches_take_any_batch_and_say_nothing(stack):
    result = qx.quantize_dynamic(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), torch.randn(4, 8), stack=stack)
    assert [result.model(torch.randn(size, 8)).shape[0] for size in (1, 7)] == [1, 7]
    assert not [note for note in result.report.notes if "settled" in note]


@pytest.mark.parametrize("stack", STACKS)
def test_sizes_of_nested_arguments_are_named(stack):
    pair = (torch.randn(4, 8), torch.randn(4, 8))
    result = qx.quantize_dynamic(Nested().eval(), (pair,), stack=stack)
    result.model(pair)
    with pytest.raises(DataError, match=r"pair_0\.shape\[0\] != 1"):
        result.model(tuple(one[:1] for one in pair))


@pytest.mark.parametrize("stack", STACKS)
def test_a_network_of_one_sample_a_call_keeps_to_one(stack, tmp_path):
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 4)

        def forward(self, x):
            return self.a(x.reshape(8))

    network, x = Single().eval(), torch.randn(1, 8)
    result = qx.quantize_static(network, [x], stack=stack)
    result.save(tmp_path / "file")
    assert result.report.error < 0.1 and not result.report.alarms
    for model in (result.model, qx.load_quantized(tmp_path / "file", network)):
        assert model(x).shape == (4,)
        with pytest.raises(DataError, match=r"takes .*x .*\[1, 8\], got x .*\[2, 8\]"):
            model(torch.randn(2, 8))


def test_pt2e_refuses_another_image_size(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)).eval()
    result = qx.quantize_static(network, [(torch.randn(4, 3, 8, 8), None)], stack="pt2e")
    result.save(tmp_path / "file")
    for model in (result.model, qx.load_quantized(tmp_path / "file")):
        assert len(model(torch.randn(2, 3, 8, 8))) == 2
        for shape in [(2, 3, 12, 12), (3, 8, 8), (2, 1, 8, 8)]:
            with pytest.raises(DataError, match=r"takes input of shape \[any, 3, 8, 8\], got"):
                model(torch.randn(shape))


class Recurrent(nn.Module):
    """A recurrent layer, which reads steps in front; of samples in front where ``turned``."""

    def __init__(self, *, turned=False, **options):
        super().__init__()
        self.rnn, self.fc, self.turned = nn.LSTM(8, 8, **options), nn.Linear(8, 4), turned

    def forward(self, x):
        return self.fc(self.rnn(x.transpose(0, 1) if self.turned else x)[0])


def test_steps_in_front_are_told_apart_from_a_size_that_settled():
    x, told = torch.randn(3, 2, 8), r"without batch_first=True \('rnn'\) read that axis as steps.* x\.transpose\(0, 1\)"
    with pytest.raises(TraceError, match=told):
        qx.quantize_dynamic(Recurrent(), x, stack="pt2e")
    with pytest.raises(TraceError, match=told):
        as_onnx(Recurrent(), (x,), opset=LOWEST_OPSET)
    for ready in (Recurrent(turned=True), Recurrent(batch_first=True)):  # as the sentence says
        assert qx.quantize_dynamic(ready, x, stack="pt2e").report.error < 0.1


def test_a_size_that_settled_is_told_alone():
    network = Branching(lambda x: x.reshape(4, 8).dim())
    with pytest.raises(TraceError, match=r"settles on the example's size of the first axis\. Take the size from"):
        qx.quantize_dynamic(network, torch.randn(4, 8), stack="pt2e")


@pytest.mark.filterwarnings("ignore:the output is .* of the float norm away")
def test_random_outputs_tell_nothing_of_branches():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x):
            return self.a(x) + torch.randn_like(x)

    result = qx.quantize_dynamic(Noisy().eval(), torch.randn(4, 8), stack="pt2e")
    assert not [note for note in result.report.notes if "settled" in note]


@pytest.mark.parametrize(
    ("condition", "batch", "refused"),
    [
        ("L['x'].size()[0] % 2 == 0", 3, True),
        ("L['x'].size()[0] * 8 < 100 and L['x'].size()[0] > 1", 4, False),
        ("L['x'].size()[0] % 0 == 0", 4, True),
        ("__import__('os').abort()", 4, False),  # nothing but numbers is computed
        ("9 ** 9 ** 9 ** 9 == L['x'].size()[0]", 4, False),
        ("L['y'].size()[0] == 1", 4, False),
    ],
)
def test_conditions_are_numbers_and_nothing_else(condition, batch, refused):
    assert bool(Sizes({}, (condition,)).refusal({"x": (batch, 8)})) == refused
