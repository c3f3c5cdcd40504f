"""Layers that the stacks of torch.ao leave float, because torch's kernels of them fail or are wrong."""

import pytest
import torch
from torch import nn

import qexplore as qx
from qexplore.errors import WorkflowError

WRONG = "kernel of ConvTranspose{}d gives wrong numbers; engine='qnnpack' has a right one"


def network_of(dims):
    convolution, transposed = getattr(nn, f"Conv{dims}d"), getattr(nn, f"ConvTranspose{dims}d")
    torch.manual_seed(0)
    return nn.Sequential(convolution(3, 8, 3), nn.ReLU(), transposed(8, 6, 2, stride=2), convolution(6, 4, 1)).eval()


def quantized(method, network, x, **settings):
    if method == "static":
        return qx.quantize_static(network, [x], **settings)
    target = torch.zeros_like(network(x)).detach()
    return qx.quantize_qat(network, [(x, target)], nn.functional.mse_loss, epochs=1, learning_rate=1e-9, **settings)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("stack", ["fx", "eager"])
@pytest.mark.parametrize("method", ["static", "qat"])
def test_transposed_convolutions_stay_float_where_their_kernel_is_wrong(method, stack, dims):
    network, x = network_of(dims), torch.rand(8, 3, *[6] * dims)
    result = quantized(method, network, x, stack=stack, engine="x86")
    with torch.no_grad():
        for _ in range(3):
            assert float((result.model(x) - network(x)).abs().max()) < 0.05 * float(network(x).abs().max())
    rows = {row.name: row for row in result.report.strategy}
    assert not rows["2"].is_quantized and rows["0"].is_quantized
    assert WRONG.format(dims) in rows["2"].reason
    assert any(WRONG.format(dims) in note for note in result.report.notes)


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_transposed_convolutions_are_integers_on_qnnpack(stack):
    network, x = network_of(2), torch.rand(8, 3, 6, 6)
    result = quantized("static", network, x, stack=stack, engine="qnnpack")
    assert str({row.name: row for row in result.report.strategy}["2"].weights) == "int8 per tensor"
    with torch.no_grad():
        assert float((result.model(x) - network(x)).abs().max()) < 0.05 * float(network(x).abs().max())


def test_a_network_of_transposed_convolutions_alone():
    network, x = nn.Sequential(nn.ConvTranspose2d(3, 4, 2)).eval(), torch.rand(4, 3, 5, 5)
    with torch.no_grad():
        assert torch.equal(quantized("static", network, x, engine="x86").model(x), network(x))
    with pytest.raises(WorkflowError, match="'0' is left out: torch's x86 kernel of ConvTranspose2d gives wrong"):
        quantized("static", network, x, engine="x86", stack="eager")


def test_dynamic_quantization_passes_transposed_convolutions_by():
    network, x = (
        nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.Flatten(), nn.Linear(144, 3)).eval(),
        torch.rand(4, 3, 5, 5),
    )
    result = qx.quantize_dynamic(network, x)
    assert [row.is_quantized for row in result.report.strategy if row.type != "Flatten"] == [False, True]


@pytest.mark.parametrize("method", ["static", "qat"])
def test_embeddings_stay_float_in_fx(method):
    network = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4)).eval()
    result = quantized(method, network, torch.arange(10).reshape(5, 2), stack="fx")
    rows = {row.type: row for row in result.report.strategy}
    assert not rows["Embedding"].is_quantized and "embedding looks rows up" in rows["Embedding"].reason
    assert rows["Linear"].is_quantized


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0])


def test_the_strategy_says_why_recurrent_layers_stay_float():
    result = qx.quantize_static(Recurrent().eval(), [torch.rand(4, 5, 6)], stack="fx")
    reason = {row.name: row for row in result.report.strategy}["gru"].reason
    assert reason == "recurrent layers have integer kernels in dynamic quantization only"


@pytest.mark.parametrize("stack", ["fx", "eager"])
def test_a_file_of_another_network_is_refused_in_one_line(stack, tmp_path):
    network, x = network_of(2), torch.rand(8, 3, 6, 6)
    quantized("static", network, x, stack=stack).save(tmp_path / "network.pt")
    other = nn.Sequential(nn.Flatten(), nn.Linear(10, 5)).eval()
    with pytest.raises(WorkflowError, match="the file is of another network than the Sequential given") as caught:
        qx.load_quantized(tmp_path / "network.pt", other)
    assert "\n" not in str(caught.value)


def test_eager_says_of_a_layer_that_is_there_why_it_cannot_be_swapped():
    class Scaling(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x):
            return nn.functional.linear(x, self.fc.weight * 2, self.fc.bias)

    with pytest.raises(WorkflowError, match="swapped; 'fc' is left out: the network reads its parameters without"):
        qx.quantize_dynamic(Scaling(), torch.randn(8, 8), stack="eager")
