"""Quantization of ONNX files by onnxruntime: dynamic and static."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from qexplore._onnx import LOWEST_OPSET, SETTLED, as_onnx, save_onnx
from qexplore._optional import import_optional
from qexplore._quiet import silenced
from qexplore._trees import cloned, tensors_of
from qexplore.errors import ExportError, StackError, WorkflowError
from qexplore.stacks import reasons
from qexplore.stacks.base import Converted, Data, Settings
from qexplore.stacks.exported_modules import calls_of, float_modules
from qexplore.stacks.onnxruntime_beside import onnx_beside
from qexplore.stacks.onnxruntime_outputs import StructuredOnnxModel, written
from qexplore.stacks.onnxruntime_ranges import cannot_quantize, ranges_given, ranges_of
from qexplore.stacks.onnxruntime_strategy import OF_GEMM, Layer, owners_of, read_strategy
from qexplore.stacks.onnxruntime_ties import give_own_weights

_CALIBRATION = {"minmax": "MinMax", "moving_average": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
_CHOICES = f"{', '.join(map(repr, _CALIBRATION))}, a CalibrationMethod of onnxruntime.quantization, or None"
_NO_DATA: Any = ()
_FIRST_FIELD = b"\x08"
_SEVEN_BITS = (
    "weights have 7 bits: this processor has no VNNI instructions, and without them onnxruntime's sums of 8-bit "
    "products can overflow"
)

_OTHER_FORM = "the ONNX file gives other tensors than the float network, and returns a tensor or a tuple of them"


def quantize(network: nn.Module, settings: Settings, data: Data) -> Converted:
    """Write ``network`` to an ONNX file, quantize that with onnxruntime, and run it there. See `StackFile`.

    Raises:
        WorkflowError: an observer that onnxruntime does not have, or a network of which nothing can be quantized.
        TraceError: the network cannot be taken apart.
        ExportError: an operator of it has no ONNX form.
        SelectionError: the predicate selects nothing.
        MissingPackageError: onnx, onnxscript or onnxruntime is not installed.
    """
    calibration = _calibration(settings)
    kept_float = float_modules(network, settings, {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = as_onnx(copy.deepcopy(network), data.example, opset=LOWEST_OPSET)
        nodes = list(program.exported_program.graph.nodes)
        save_onnx(program, folder / "network.onnx")
        onnx, ready = _package("onnx"), folder / "ready.onnx"
        _pre_process(folder / "network.onnx", ready)
        modules = dict(network.named_modules())
        prepared = onnx.load(ready)
        owners = owners_of(prepared.graph, nodes, modules)
        excluded = _excluded(owners, kept_float, settings)
        per_channel = settings.weight_granularity == "channel"
        if give_own_weights(prepared.graph, per_channel=per_channel, excluded=excluded):
            onnx.save(prepared, ready)
        path = folder / "quantized.onnx"
        one_scale = _groups_turned(prepared.graph) if per_channel else []
        _write(ready, path, settings, data, calibration, excluded, one_scale)
        quantized = onnx.load(path)
        strategy = read_strategy(quantized.graph, owners, modules, calls_of(nodes), settings, kept_float)
        if not any(row.is_quantized for row in strategy):
            raise StackError(_nothing_quantized(network, settings))
        with torch.no_grad():
            output = network(*cloned(data.example))
        has_form = len(tensors_of(output)) == len(quantized.graph.output)
        told = written(output) if has_form else {}
        if settled := program.model.metadata_props.get(SETTLED):  # onnxruntime's quantizer loses it
            told[SETTLED] = settled
        if told:
            onnx.helper.set_model_props(quantized, told)
            onnx.save(quantized, path)
        model = StructuredOnnxModel(path, output)
        content = path.read_bytes()
    return Converted(
        model=model,
        strategy=strategy,
        save=lambda target: _save(content, target),
        notes=(
            *((_SEVEN_BITS,) if _can_overflow() else ()),
            *(() if has_form else (_OTHER_FORM,)),
            *(reasons.SETTLED_SIZE.format(condition=one) for one in model.conditions),
        ),
        beside=onnx_beside(prepared, quantized, owners, strategy, settings),
    )


def _pre_process(network: Path, ready: Path) -> None:
    """Fold and fuse what ``network`` holds, into the file ``ready``.

    Shapes are inferred by onnx alone where onnxruntime's own inference stops, as it does at loops.
    """
    pre_process = _package("onnxruntime.quantization").quant_pre_process
    with silenced(), _writing_nothing_here():
        try:
            pre_process(network, ready)
        except Exception:
            try:
                pre_process(network, ready, skip_symbolic_shape=True)
            except Exception as error:
                raise cannot_quantize(error) from error


@contextmanager
def _writing_nothing_here() -> Iterator[None]:
    """Keep the network out of the working folder, where onnxruntime writes it if its inference of shapes stops."""
    inference = _package("onnxruntime.tools.symbolic_shape_infer")
    onnx = inference.onnx
    inference.onnx = SimpleNamespace(**{**vars(onnx), "save_model": lambda *_, **__: None})
    try:
        yield
    finally:
        inference.onnx = onnx


def _nothing_quantized(network: nn.Module, settings: Settings) -> str:
    chosen = "" if settings.modules is None else f" that {settings.modules} chooses"
    return (
        f'stack="onnxruntime", method="{settings.method}" finds nothing in {type(network).__name__} that it can '
        f"quantize{chosen}"
    )


def reads(path: Path) -> bool:
    """See `StackFile`: a message of protobuf whose first field is the version of its format, a whole number."""
    with path.open("rb") as file:
        return file.read(1) == _FIRST_FIELD


def load(path: Path, network: nn.Module | None = None) -> nn.Module:
    """Run a quantized network that `Converted.save` has written; the file holds all of it, and ``network`` is not used.

    Raises:
        WorkflowError: no such file, or one that onnxruntime cannot run.
        MissingPackageError: onnxruntime is not installed.
    """
    try:
        return StructuredOnnxModel(path)
    except ExportError as error:
        raise WorkflowError(f"'{path}' must be a file written by a result's save(): {error}") from error


def check(settings: Settings) -> None:
    """Refuse what onnxruntime does not have.

    Raises:
        WorkflowError: with the settings that it can have.
    """
    if settings.engine is not None:
        raise WorkflowError(
            f'engine of stack="onnxruntime" must be None, for it has kernels of its own, got {settings.engine!r}'
        )
    if settings.weight_observer not in (None, "minmax"):
        raise WorkflowError(
            'weight_observer of stack="onnxruntime" must be None or "minmax", for it takes the range of weights as it '
            f"is, got {settings.weight_observer!r}"
        )
    if settings.method == "dynamic" and settings.activations == "symmetric":
        raise WorkflowError(
            "the dynamic kernels of onnxruntime choose a zero point at run time, so activations must be "
            '"affine", got "symmetric": quantize statically, or use stack="pt2e"'
        )


def _package(name: str) -> Any:
    with silenced():
        return import_optional(name, extra="onnx", purpose='the stack "onnxruntime"')


def _excluded(owners: dict[str, Layer], kept_float: frozenset[str], settings: Settings) -> list[str]:
    """Names of ONNX nodes that stay float. A predicate chooses modules, and a function is none."""
    takes_functions = settings.modules is None
    nodes = [
        node for node, owner in owners.items() if owner.name in kept_float or not (owner.is_module or takes_functions)
    ]
    return [*nodes, *(node + OF_GEMM for node in nodes)]


def _groups_turned(graph: Any) -> list[str]:
    """Weights of transposed convolutions of groups with a bias, which onnxruntime's quantizer stops at.

    Channels that come out lie along none of their axes, so scales for those that have one do not fit the bias.
    """
    turned = (node for node in graph.node if node.op_type == "ConvTranspose" and len(node.input) > 2)
    return [one.input[1] for one in turned if any(it.name == "group" and it.i > 1 for it in one.attribute)]


def _write(
    ready: Path,
    path: Path,
    settings: Settings,
    data: Data,
    calibration: tuple[Any, bool],
    excluded: list[str],
    one_scale: list[str],
) -> None:
    quantization = _package("onnxruntime.quantization")
    common = {
        "per_channel": settings.weight_granularity == "channel",
        "reduce_range": _can_overflow(),
        "weight_type": quantization.QuantType.QInt8,
        "nodes_to_exclude": excluded,
    }
    method, is_moving = calibration
    is_symmetric = settings.activations == "symmetric"
    ranges = None
    if settings.method == "static":
        assert data.calibrate is not None
        ranges = ranges_of(ready, data.calibrate, method, is_symmetric=is_symmetric, is_moving=is_moving)
    try:
        with silenced(), ranges_given(ranges):
            if ranges is None:
                quantization.quantize_dynamic(ready, path, **common)
                return
            quantization.quantize_static(
                ready,
                path,
                _NO_DATA,
                quant_format=quantization.QuantFormat.QDQ,
                # Symmetric integers have the zero point 0, which only signed ones can.
                activation_type=quantization.QuantType.QInt8 if is_symmetric else quantization.QuantType.QUInt8,
                calibrate_method=method,
                extra_options={
                    "ActivationSymmetric": is_symmetric,
                    "TensorQuantOverrides": {name: [{}] for name in one_scale},
                },
                **common,
            )
    except Exception as error:
        raise cannot_quantize(error) from error


def _calibration(settings: Settings) -> tuple[Any, bool]:
    """The method by which onnxruntime finds ranges, and whether they are means over batches.

    Raises:
        WorkflowError: an observer that onnxruntime does not have.
    """
    quantization = _package("onnxruntime.quantization")
    given = "minmax" if settings.activation_observer is None else settings.activation_observer
    if isinstance(given, quantization.CalibrationMethod):
        return given, False
    if not isinstance(given, str) or given not in _CALIBRATION:
        raise WorkflowError(f'activation_observer of stack="onnxruntime" must be {_CHOICES}, got {given!r}')
    method = getattr(quantization.CalibrationMethod, _CALIBRATION[given])
    return method, given == "moving_average"


def _can_overflow() -> bool:
    """Whether 8-bit weights times 8-bit activations can overflow in onnxruntime's kernels for this processor."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    has_vnni = known.get("avx512_vnni", False) or known.get("avx_vnni", False)
    return bool(known.get("architecture", "x86_64") == "x86_64" and not has_vnni)


def _save(content: bytes, path: Path) -> None:
    path.write_bytes(content)
