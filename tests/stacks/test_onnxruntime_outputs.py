"""A network quantized by onnxruntime returns what the float network does, from a file too."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import qexplore as qx
from qexplore._trees import structure


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


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


@pytest.mark.parametrize("form", _FORMS)
def test_output_has_the_form_of_the_float_network_s(form: str, tmp_path) -> None:
    network, x = Forms(_FORMS[form]).eval(), torch.randn(4, 4)
    result = qx.quantize_dynamic(network, x, stack="onnxruntime")
    result.save(tmp_path / "m.onnx")
    right = network(x)
    for given in (result.model(x), qx.load_quantized(tmp_path / "m.onnx")(x)):
        assert structure(given) == structure(right)
        assert type(given) is type(right)
    assert result.report.error < 0.05
