"""A network quantized by onnxruntime returns what the float network does, from a file too."""

from __future__ import annotations

import json
import sys
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import onnx
import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

import qexplore as qx
from qexplore._trees import structure
from qexplore.errors import WorkflowError


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass
class Fields:
    first: Tensor
    second: Tensor | None = None


class Ordered(OrderedDict[str, Tensor]):
    pass


_FORMS: dict[str, Any] = {
    "tensor": lambda a, b: a,
    "tuple": lambda a, b: (a, b),
    "tuple of one": lambda a, b: (a,),
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"logits": a, "aux": b},
    "dict of one": lambda a, b: {"logits": a},
    "nested": lambda a, b: {"z": [a, (b,)], "a": a + 1},
    "with none": lambda a, b: (a, None, b),
    "ordered": lambda a, b: OrderedDict(z=a, b=b),
    "named": lambda a, b: Pair(a, b),
}


class Forms(nn.Module):
    def __init__(self, form: Any) -> None:
        super().__init__()
        self.first, self.second, self.form = nn.Linear(4, 3), nn.Linear(4, 2), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.first(x), self.second(x))


_ALIKE = ("tuple of one", "list", "dict of one", "with none", "ordered")
"""Go the way of another form: tried with the slow tests."""


@pytest.mark.parametrize("form", [pytest.param(form, marks=[pytest.mark.slow] * (form in _ALIKE)) for form in _FORMS])
def test_output_has_the_form_of_the_float_network_s(form: str, tmp_path) -> None:
    network, x = Forms(_FORMS[form]).eval(), torch.randn(4, 4)
    result = qx.quantize_dynamic(network, x, stack="onnxruntime")
    result.save(tmp_path / "m.onnx")
    right = network(x)
    for given in (result.model(x), qx.load_quantized(tmp_path / "m.onnx")(x)):
        assert structure(given) == structure(right)
        assert type(given) is type(right)
    assert result.report.error < 0.05


class Calls:
    """What a file must not call."""

    called = False

    def __init__(self, **_: Any) -> None:
        Calls.called = True


@dataclass
class CallsAfter:
    first: Any = None

    def __post_init__(self) -> None:
        Calls.called = True


@dataclass
class CallsAtLast:
    first: Any = None

    def __del__(self) -> None:
        Calls.called = True


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    network, x = Forms(_FORMS["dict of one"]).eval(), torch.randn(4, 4)
    path = tmp_path_factory.mktemp("files") / "m.onnx"
    qx.quantize_dynamic(network, x, stack="onnxruntime").save(path)
    return path


def loaded_with(file: Any, told: Any) -> Any:
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {"qexplore.output": told if isinstance(told, str) else json.dumps(told)})
    onnx.save(model, file)
    return qx.load_quantized(file)


def form_of(kind: type, keys: Any) -> dict[str, Any]:
    return {"kind": f"{kind.__module__}:{kind.__qualname__}", "keys": keys, "parts": [{"tensor": 0}]}


@pytest.mark.parametrize(("kind", "key"), [(Fields, "first"), (Ordered, "z"), (SequenceClassifierOutput, "logits")])
def test_containers_of_imported_classes_come_back(file: Any, kind: Any, key: str) -> None:
    model = loaded_with(file, form_of(kind, [key]))
    x = torch.randn(4, 4)
    given = model(x)
    right = kind(**{key: given[key] if issubclass(kind, OrderedDict) else given.first})
    assert type(given) is kind
    assert structure(given) == structure(right)
    assert repr(given) == repr(right)


@pytest.mark.parametrize("kind", [Calls, CallsAfter, CallsAtLast])
@pytest.mark.parametrize("keys", [["first"], None])
def test_a_class_that_a_file_names_runs_nothing(file: Any, kind: type, keys: Any) -> None:
    told = form_of(kind, keys)
    assert kind.__module__ in sys.modules
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        loaded_with(file, told)(torch.randn(4, 4))
    assert not Calls.called


@pytest.mark.parametrize(
    "told", ["{", "[]", '{"kind": "list"}', '{"value": {}}', '{"kind": [], "keys": null, "parts": []}']
)
def test_a_form_that_nobody_wrote_is_refused(file: Any, told: str) -> None:
    with pytest.raises(WorkflowError, match=r"m\.onnx' must tell the form of its output as a result's save\(\) writes"):
        loaded_with(file, told)
