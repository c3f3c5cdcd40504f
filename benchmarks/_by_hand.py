"""What torch and onnxruntime give by their own recipes: prepare, show data, convert, with the default settings."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.ao import quantization as ao
from torch.ao.quantization import quantize_fx as fx
from turn_key import STILL, distance, outputs, relative_error

ENGINE = "x86"


def error_by_hand(network: nn.Module, inputs: tuple[Any, ...], stack: str, method: str) -> float:
    """The relative error of the output of what the recipe of ``stack`` makes of ``network``, a copy of its own."""
    expected = outputs(network, inputs)
    recipe = {"eager": _eager, "fx": _fx, "pt2e": _pt2e, "onnxruntime": _onnxruntime}[stack]
    return relative_error(outputs(recipe(network, inputs, method), inputs), expected)


def _shown(prepared: nn.Module, network: nn.Module, inputs: tuple[Any, ...], method: str) -> nn.Module:
    """``prepared`` after it has seen the data, or learned from it."""
    if method == "static":
        outputs(prepared, inputs)
        return prepared
    target = outputs(network, inputs)
    optimizer = torch.optim.Adam(list(prepared.parameters()), lr=STILL)
    for step in range(3):
        if step == 2:
            prepared.apply(ao.disable_observer)
        optimizer.zero_grad()
        distance(prepared(*copy.deepcopy(inputs)), target).backward()
        optimizer.step()
    return prepared


def _eager(network: nn.Module, inputs: tuple[Any, ...], method: str) -> nn.Module:
    if method == "dynamic":
        return ao.quantize_dynamic(copy.deepcopy(network))
    wrapped = ao.QuantWrapper(copy.deepcopy(network))
    if method == "static":
        wrapped.qconfig = ao.get_default_qconfig(ENGINE)
        return ao.convert(_shown(ao.prepare(wrapped), network, inputs, method))
    wrapped.qconfig = ao.get_default_qat_qconfig(ENGINE)
    return ao.convert(_shown(ao.prepare_qat(wrapped.train()), network, inputs, method).eval())


def _fx(network: nn.Module, inputs: tuple[Any, ...], method: str) -> nn.Module:
    own = copy.deepcopy(network)
    if method == "dynamic":
        mapping = ao.QConfigMapping().set_global(ao.default_dynamic_qconfig)
        return fx.convert_fx(fx.prepare_fx(own, mapping, inputs))
    if method == "static":
        prepared = fx.prepare_fx(own, ao.get_default_qconfig_mapping(ENGINE), inputs)
        return fx.convert_fx(_shown(prepared, network, inputs, method))
    prepared = fx.prepare_qat_fx(own.train(), ao.get_default_qat_qconfig_mapping(ENGINE), inputs)
    return fx.convert_fx(_shown(prepared, network, inputs, method).eval())


def _pt2e(network: nn.Module, inputs: tuple[Any, ...], method: str) -> nn.Module:
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e import quantize_pt2e as steps
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    exported = torch.export.export(copy.deepcopy(network), inputs).module()
    is_training, is_dynamic = method == "qat", method == "dynamic"
    config = x86.get_default_x86_inductor_quantization_config(is_qat=is_training, is_dynamic=is_dynamic)
    quantizer = x86.X86InductorQuantizer().set_global(config)
    if is_training:
        prepared = _shown(steps.prepare_qat_pt2e(exported, quantizer), network, inputs, method)
    else:
        prepared = _shown(steps.prepare_pt2e(exported, quantizer), network, inputs, "static")
    return steps.convert_pt2e(pt2e.move_exported_model_to_eval(prepared))


def _onnxruntime(network: nn.Module, inputs: tuple[Any, ...], method: str) -> nn.Module:
    from onnxruntime import quantization

    from qexplore._onnx import OnnxModel

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.onnx.export(copy.deepcopy(network), inputs, folder / "float.onnx", dynamo=True)
        quantization.quant_pre_process(folder / "float.onnx", folder / "ready.onnx")
        if method == "dynamic":
            quantization.quantize_dynamic(folder / "ready.onnx", folder / "quantized.onnx")
        else:
            reader = _Reader(folder / "ready.onnx", inputs)
            quantization.quantize_static(folder / "ready.onnx", folder / "quantized.onnx", reader)
        return OnnxModel(folder / "quantized.onnx", threads=1)


class _Reader:
    """One batch, as onnxruntime asks for it."""

    def __init__(self, path: Path, inputs: tuple[Any, ...]) -> None:
        import onnx

        names = [one.name for one in onnx.load(path).graph.input]
        arrays = [one.numpy() for one in torch.utils._pytree.tree_leaves(inputs)]
        self._batches = iter([dict(zip(names, arrays, strict=True))])

    def get_next(self) -> Any:
        return next(self._batches, None)
