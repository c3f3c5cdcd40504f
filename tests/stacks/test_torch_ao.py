"""The one door to torch.ao: what is there, engines, observers."""

from __future__ import annotations

import importlib.abc
import sys

import pytest
import torch
from networks import batches, digits, trained
from torch import nn

import qexplore as qx
from qexplore.errors import WorkflowError
from qexplore.stacks import torch_ao as stack
from qexplore.stacks.base import Settings


class Absent(importlib.abc.MetaPathFinder):
    """Finds no module below ``package``, as if it were not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname, path=None, target=None):
        if f"{fullname}.".startswith(f"{self.package}."):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


@pytest.fixture
def without(monkeypatch):
    def remove(package: str) -> None:
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Absent(package), *sys.meta_path])

    return remove


def calibration():
    return batches(digits().calibration)


def test_torch_without_fx_quantization_is_explained_with_what_to_use_instead(without):
    without("torch.ao.quantization.quantize_fx")
    with pytest.raises(WorkflowError, match=r"quantize_fx\.convert_fx.*moved to.*torchao.*stack=\"pt2e\""):
        qx.quantize_static(trained("small_cnn"), calibration())
    assert not stack.has("convert_fx")


def test_torch_that_lost_one_function_is_explained(monkeypatch):
    monkeypatch.delattr(importlib.import_module("torch.ao.quantization.quantize_fx"), "convert_fx")
    with pytest.raises(WorkflowError, match=r"convert_fx, which torch .* does not have"):
        stack.require("convert_fx")


def test_missing_torchao_names_the_command_that_installs_it(without):
    without("torchao")
    with pytest.raises(qx.errors.MissingPackageError, match=r"pip install 'qexplore\[pt2e\]'"):
        qx.quantize_static(trained("small_cnn"), calibration(), stack="pt2e")


def test_unknown_engine_lists_those_there_are():
    with pytest.raises(WorkflowError, match=r"engine must be one of .*'x86'.* got 'tpu'"):
        qx.quantize_static(trained("small_cnn"), calibration(), engine="tpu")
    with pytest.raises(WorkflowError, match=r"'tpu' is not known; torch .* has .*qnnpack.* here"):
        stack.check_engine("tpu")


def test_engine_that_this_machine_lacks_lists_those_there_are(monkeypatch):
    # An ARM build of torch has qnnpack alone.
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["none", "qnnpack"])
    with pytest.raises(WorkflowError, match=r"'x86' is not on this machine; .* has qnnpack here"):
        qx.quantize_static(trained("small_cnn"), calibration(), engine="x86")


def test_machine_without_any_engine_is_told_what_works(monkeypatch):
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["none"])
    with pytest.raises(WorkflowError, match="onnxruntime"):
        stack.check_engine(None)


def test_engine_comes_back_after_a_block_and_after_an_error():
    before = torch.backends.quantized.engine
    with pytest.raises(RuntimeError, match="inside"), stack.using_engine("qnnpack"):
        assert torch.backends.quantized.engine == "qnnpack"
        raise RuntimeError("inside")
    assert torch.backends.quantized.engine == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_observer": "median"}, "must be \"minmax\".*got 'median'"),
        ({"activation_observer": 3}, "activation_observer must be .*, got 3"),
        ({"activation_observer": nn.ReLU}, r"got <class .*ReLU'>, which gives a ReLU"),
        ({"activation_observer": nn.Identity()}, "every layer gets an observer of its own"),
        ({"activation_observer": lambda: nn.Identity()}, "which gives a Identity"),
        ({"weight_observer": "histogram"}, "no per-channel form"),
    ],
)
def test_observer_that_is_none_is_refused_with_the_choices(options, message):
    with pytest.raises(WorkflowError, match=message):
        qx.quantize_static(trained("small_cnn"), calibration(), **options)


def test_observer_of_another_format_is_refused():
    signed = stack.require("MinMaxObserver").with_args(dtype=torch.qint8)
    with pytest.raises(WorkflowError, match=r"activation_observer must give torch.quint8, got torch.qint8"):
        qx.quantize_static(trained("small_cnn"), calibration(), activation_observer=signed)


def test_dynamic_quantization_has_no_ranges_to_observe():
    example = digits().report.x[:4]
    for options in ({"activation_observer": "minmax"}, {"activations": "symmetric"}):
        with pytest.raises(WorkflowError, match="run time"):
            qx.quantize_dynamic(trained("small_cnn"), example, **options)


@pytest.mark.parametrize(("num_bits", "low", "high"), [(8, -128, 127), (4, -8, 7), (2, -2, 1)])
def test_weights_of_linear_layers_have_the_range_of_their_width(num_bits, low, high):
    for method in ("dynamic", "static", "qat"):
        settings = Settings(method, "fx", linear_num_bits=num_bits)
        observer = stack.linear_qconfig_of(settings).weight()
        assert (observer.quant_min, observer.quant_max) == (low, high)
        assert stack.qconfig_of(settings).weight().quant_min == -128
