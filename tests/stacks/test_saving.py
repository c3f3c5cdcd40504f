"""What files of quantized networks tell of the float network, and what they refuse."""

from __future__ import annotations

import gc
import json
import weakref
from collections import defaultdict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qexplore as qx
from qexplore.errors import TraceError, WorkflowError
from qexplore.stacks import STACKS
from qexplore.stacks.saving import describe_arguments, zero_arguments

X = torch.randn(4, 3, 8, 8)


def network(pool=2, slope=0.01, eps=1e-5, kind=nn.MaxPool2d):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, eps=eps), nn.LeakyReLU(slope))
    return nn.Sequential(first, kind(pool), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def quantized(stack):
    if stack == "float8":
        return qx.quantize_float8(network(), [X])
    return qx.quantize_dynamic(network(), X) if stack == "dynamic" else qx.quantize_static(network(), [X], stack=stack)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pool": 4}, r"'1' is MaxPool2d\(kernel_size=4.*in the file MaxPool2d\(kernel_size=2"),
        ({"slope": 0.2}, r"'0.2' is LeakyReLU\(negative_slope=0.2\), in the file LeakyReLU\(negative_slope=0.01\)"),
        ({"eps": 0.1}, r"'0.1' is BatchNorm2d\(8, eps=0.1.*in the file BatchNorm2d\(8, eps=1e-05"),
        ({"kind": nn.AvgPool2d}, r"'1' is AvgPool2d\(.*in the file MaxPool2d\("),
    ],
    ids=["pool", "slope", "eps", "kind"],
)
@pytest.mark.filterwarnings("ignore:.* of the float norm away")
@pytest.mark.parametrize("stack", ["fx", "eager", "float8", "dynamic"])
def test_network_of_other_hyperparameters_is_refused_with_the_difference(stack, change, named, tmp_path):
    result = quantized(stack)
    result.save(tmp_path / "file")
    assert torch.equal(qx.load_quantized(tmp_path / "file", network())(X), result.model(X))
    with pytest.raises(WorkflowError, match=f"another network than the Sequential given: {named}"):
        qx.load_quantized(tmp_path / "file", network(**change))


@pytest.mark.parametrize("stack", STACKS)
def test_a_result_does_not_keep_the_users_loader(stack):
    class Loader(list):
        pass

    loader = Loader([torch.randn(4, 4)])
    alive = weakref.ref(loader)
    result = qx.quantize_static(nn.Sequential(nn.Linear(4, 4)), loader, stack=stack)
    del loader
    gc.collect()
    assert alive() is None
    assert result.report.strategy


def test_file_of_version_1_loads_without_the_comparison(tmp_path):
    result = quantized("fx")
    result.save(tmp_path / "file")
    content = torch.load(tmp_path / "file", weights_only=True)
    old = {name: value for name, value in content.items() if name not in ("layers", "functions")}
    torch.save(old | {"version": 1}, tmp_path / "file")
    assert torch.equal(qx.load_quantized(tmp_path / "file", network())(X), result.model(X))


@pytest.mark.filterwarnings("ignore:.* of the float norm away")
@pytest.mark.parametrize("stack", ["fx", "eager", "float8", "dynamic"])
def test_damaged_text_of_the_structure_is_refused_by_the_files_name(stack, tmp_path):
    quantized(stack).save(tmp_path / "file")
    content = torch.load(tmp_path / "file", weights_only=True)
    known = json.loads(content["structure"])
    unknown = {**known, "example": [{"shape": [1], "dtype": "no_such"}]}
    for text in ("{", "[]", "{}", json.dumps(unknown)):
        torch.save(content | {"structure": text}, tmp_path / "torn")
        with pytest.raises(WorkflowError, match="torn' is no file of a quantized network"):
            qx.load_quantized(tmp_path / "torn", network())


def test_arguments_of_every_form_are_described():
    given = torch.ones(2, 3), (torch.ones(1), [None, 2.5]), {"mask": torch.ones(2, dtype=torch.bool), "name": "a"}
    back = zero_arguments(describe_arguments(given))
    assert back[0].shape == (2, 3) and back[1][1] == [None, 2.5] and isinstance(back[1], tuple)
    assert back[2]["mask"].dtype == torch.bool and back[2]["name"] == "a"
    with pytest.raises(WorkflowError, match="must be tensors, numbers, .*, got dtype"):
        describe_arguments((torch.float32,))


def test_onnxruntime_called_with_another_size_says_what_it_takes():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    model = qx.quantize_static(layers, [X], stack="onnxruntime").model
    with pytest.raises(qx.errors.DataError, match=r"takes the inputs .* \['batch', 3, 8, 8\], got .* \[4, 3, 9, 9\]"):
        model(torch.randn(4, 3, 9, 9))
    with pytest.raises(qx.errors.DataError, match="got 2 tensors"):
        model(X, X)


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_onnxruntime_quantizes_beside_an_embedding_bag(method):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(10, 8), nn.Linear(8, 4)

        def forward(self, x):
            return F.relu(self.head(self.bag(x)))

    layers, x = Bag().eval(), torch.randint(0, 10, (4, 5))
    options = {"stack": "onnxruntime"}
    result = (
        qx.quantize_dynamic(layers, x, **options) if method == "dynamic" else qx.quantize_static(layers, [x], **options)
    )
    assert {row.name for row in result.report.strategy if row.is_quantized} >= {"head"}
    assert result.report.error < 0.1


Named = namedtuple("Named", "first second")


@pytest.mark.parametrize(
    ("form", "name"), [(lambda y: Named(y, y + 1), "Named"), (lambda y: defaultdict(list, first=y), "defaultdict")]
)
def test_pt2e_refuses_forms_that_its_files_cannot_hold(form, name):
    class Giving(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 4)

        def forward(self, x):
            return [form(self.a(x))]

    with pytest.raises(TraceError, match=f"which a file can hold, got {name}: wrap it in a module whose forward"):
        qx.quantize_dynamic(Giving(), torch.randn(8, 8), stack="pt2e")


@pytest.mark.parametrize("stack", ["pt2e", "onnxruntime"])
def test_any_number_of_arguments_is_exported(stack, tmp_path):
    class Summing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 4)

        def forward(self, first, *others):
            return self.a(first + sum(others))

    network, x = Summing().eval(), tuple(torch.randn(3, 8, 8))
    result = qx.quantize_dynamic(network, x, stack=stack)
    result.save(tmp_path / "file")
    assert result.report.error < 0.05
    assert torch.equal(qx.load_quantized(tmp_path / "file", network)(*x), result.model(*x))


class Renaming(nn.Module):
    """Has one layer by three names, and a fourth once it ran."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = self.a
        self.c = nn.Sequential(nn.Tanh(), self.a)

    def forward(self, x):
        self.current = self.b
        return self.c(self.current(self.a(x)))


@pytest.mark.parametrize(("stack", "num_bits"), [("fx", 8), ("eager", 8), ("eager", 4)])
def test_a_layer_of_several_names_is_one_and_its_file_loads_into_a_network_that_never_ran(stack, num_bits, tmp_path):
    torch.manual_seed(0)
    x, network = torch.randn(16, 8), Renaming()
    network(x)
    result = qx.quantize_dynamic(network, x, stack=stack, linear_num_bits=num_bits)
    assert not [module for module in result.model.modules() if type(module) is nn.Linear]
    result.save(tmp_path / "file")
    loaded = qx.load_quantized(tmp_path / "file", Renaming())
    assert torch.equal(loaded(x), result.model(x))
