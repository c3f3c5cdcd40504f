"""`export_onnx`: a model with its present widths as an ONNX file, compared with the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from qexplore._arguments import checked_name, nearest_keyword
from qexplore._choices import choice_name
from qexplore._onnx import Optimization, as_onnx, check_opset, save_onnx
from qexplore._optional import import_optional
from qexplore._random import isolated
from qexplore._sizes import path_name
from qexplore.errors import ExportError, QExploreError
from qexplore.export.custom_operators import call_operators
from qexplore.export.manifest import save_manifest
from qexplore.export.nodes import translations
from qexplore.export.operands import float_operands
from qexplore.export.parity import Parity, compare_each
from qexplore.export.plan import ExportPlan, plan_export, refuse_unknown, refuse_unwritable
from qexplore.export.report import ExportedPoint, ExportReport
from qexplore.export.tensorrt import copy_of, in_tensorrt_form
from qexplore.export.tensorrt_file import finish_for_tensorrt, fitted_to_tensorrt
from qexplore.metrics import Output
from qexplore.model import (
    Loader,
    Placement,
    QuantizedModel,
    Unpack,
    alone,
    bake_weights,
    call,
    in_eval_mode,
    measuring,
    require_wrapped,
)

Target = Literal["onnxruntime", "tensorrt"]

_OPTIMIZATION: dict[Target, Optimization] = {"onnxruntime": "all", "tensorrt": "off"}
"""Of the comparison. Bare pairs of Q and DQ, as TensorRT wants them, onnxruntime turns into other numbers, or stops."""

DEFAULT_OPSET = 21
"""The first with 4-bit and 16-bit integers."""


@nearest_keyword
@alone
def export_onnx(
    model: QuantizedModel,
    path: str | Path,
    example_input: Any = None,
    data: Loader | None = None,
    *,
    opset: int | None = None,
    target: Target = "onnxruntime",
    allow: Collection[str] = (),
    unpack: Unpack | None = None,
    progress: bool | None = None,
    output: Any = None,
) -> ExportReport:
    """Write ``model`` with its present ``num_bits`` to an ONNX file, and a widths manifest beside it.

    Points become QuantizeLinear and DequantizeLinear, weights integers behind a DequantizeLinear; points that are off
    stay float. The batch size is free. The model comes back as it was, also after an error.

    Args:
        model: calibrated.
        path: of the file; the manifest has its name with ``.widths.json`` at the end.
        example_input: a tensor, a tuple of positional or a dict of keyword arguments; None takes what the model saw in
            its calibration.
        data: batches to compare the file, run by onnxruntime, with the model on; None does not compare. A file for
            TensorRT is compared with the model as changed for it, and with ``model``. Where that fails the file stays.
        opset: of the file; None takes 21. Widths above 8 and 4-bit storage need 21, float8 needs 19.
        target: whose rules the file keeps to. ``"onnxruntime"`` computes what the model computes, at every optimisation
            level. ``"tensorrt"`` has int8, float8 and int4 weights, signed and without zero points, and widens what is
            not among them.
        allow: points, by name or glob, or formats such as "MXE4M3", that may be written in float where ONNX has no form
            for them. Weights are rounded all the same.
        unpack: ``unpack(batch) -> (inputs, target)``.
        progress: show a bar while comparing; None shows it on a terminal.
        output: which of several outputs is compared, and holds the predictions: its place, its name, or a function of
            all, see `Metric`. None compares all of them, and takes the one called ``logits`` for the predictions.

    Raises:
        ModelError: no `QuantizedModel`, or a detached one.
        CalibrationError: points without a range.
        ExportError: no example input, an operator or a choice that cannot be written, an opset too low, an unknown
            target, an entry of ``allow`` that names nothing, a path that cannot be written, a network that TensorRT's
            rules do not allow.
        TraceError: a network that cannot be taken apart.
        DataError: ``data`` gives nothing.
        MetricError: ``output`` is none that the network gives; or ``data`` has labels, and there are several floating
            outputs that may be compared with them, none of which is chosen.
        MissingPackageError: onnx, onnxscript or onnxruntime is missing.
    """
    require_wrapped("export_onnx", model)
    checked_name("`target`", target, _OPTIMIZATION, ExportError)
    if isinstance(allow, str):
        allow = (allow,)
    refuse_unknown(model, allow)
    chosen = Output.of(output)
    example, left_out = _checked_example(model, example_input, chosen)
    opset = DEFAULT_OPSET if opset is None else opset
    check_opset(opset)
    written, plan, widened = _for_target(model, target, opset)
    refuse_unwritable(written, plan, allow, opset)
    _write(written, plan, path, example, opset=opset, guarded=target == "onnxruntime")
    if target == "tensorrt":
        finish_for_tensorrt(path)
    manifest = save_manifest(model, Path(path).with_suffix(".widths.json"))
    level = _OPTIMIZATION[target]
    compared = [written] if written is model else [written, model]
    found: tuple[Parity, ...] = ()
    if data is not None:
        with _file_stays(path):
            found = compare_each(
                compared, path, data, optimization=level, unpack=unpack, progress=progress, output=output
            )
    return ExportReport(
        path=Path(path),
        manifest=manifest,
        target=target,
        opset=opset,
        points=_points(model, plan),
        not_represented=_not_represented(written, plan),
        widened=widened,
        size=_size(Path(path)),
        parity=found[0] if found else None,
        parity_with_given=found[1] if len(found) > 1 else None,
        left_out=left_out,
        float_operands=float_operands(path),
    )


@contextmanager
def _file_stays(path: str | Path) -> Iterator[None]:
    """Have an error of the comparison say what becomes of the file."""
    try:
        yield
    except QExploreError as error:
        raise type(error)(
            f"{str(error).rstrip('.')}. '{path}' stays, and its manifest: it is valid ONNX, but was not compared to "
            "the end, so nothing shows that it computes what the model does"
        ) from error


def _checked_example(model: QuantizedModel, example_input: Any, chosen: Output | None) -> tuple[Any, tuple[str, ...]]:
    """The example, and the outputs that it gives beside tensors."""
    example = model.example_input if example_input is None else example_input
    if example is None:
        raise ExportError(
            "`example_input` must be given, for the model has seen no data: a tensor, a tuple of positional or a dict "
            "of keyword arguments"
        )
    placement = Placement.of(model.model)
    with in_eval_mode(model), torch.no_grad(), measuring(placement.device):
        try:
            output = call(model, placement.copy_inputs(example))
        except Exception as error:
            raise ExportError(
                f"`example_input` must be what the network takes, but it stops: {type(error).__name__}: {error}"
            ) from error
    if chosen is not None:
        chosen(output)
    return example, _beside_tensors(output)


def _beside_tensors(output: Any) -> tuple[str, ...]:
    """What a network returns that no file can hold: numbers, text, and objects that torch does not look into."""
    leaves = pytree.tree_flatten_with_path(output)[0]
    return tuple(
        f"output '{path_name(path)}' ({type(leaf).__name__})"
        for path, leaf in leaves
        if leaf is not None and not isinstance(leaf, Tensor)
    )


def _for_target(
    model: QuantizedModel, target: Target, opset: int
) -> tuple[QuantizedModel, ExportPlan, tuple[str, ...]]:
    """The model that the file is written from and compared with, its plan, and what the target has changed."""
    if target == "onnxruntime":
        return model, plan_export(model, opset), ()
    written, form = in_tensorrt_form(model)
    return written, fitted_to_tensorrt(plan_export(written, opset), form), form.notes


def _write(
    model: QuantizedModel, plan: ExportPlan, path: str | Path, example: Any, *, opset: int, guarded: bool
) -> None:
    onnx = import_optional("onnx", extra="onnx", purpose="writing an ONNX file")
    network = copy_of(model.model).cpu()
    bake_weights(network)
    call_operators(network, set(plan.written))
    nodes = translations(plan.activations, plan.weights, opset=opset, guarded=guarded)
    with isolated(torch.device("cpu")):
        program = as_onnx(network, Placement.of(network).copy_inputs(example), opset=opset, custom_translations=nodes)
    save_onnx(program, path)
    onnx.checker.check_model(str(path), full_check=True)


def _points(model: QuantizedModel, plan: ExportPlan) -> tuple[ExportedPoint, ...]:
    written = plan.written
    rows = []
    for point, code in zip(model.points, model.num_bits.tolist(), strict=True):
        encoding = written.get(point.name)
        kind, zero = ("float", 0) if encoding is None else (encoding.type, encoding.zero_point)
        rows.append(ExportedPoint(point.name, point.kind, choice_name(code), kind, zero))
    return tuple(rows)


def _not_represented(model: QuantizedModel, plan: ExportPlan) -> tuple[str, ...]:
    weights = model.weight_fake_quantizers
    how = {True: "written in float, rounded as in the model", False: "written in float, not quantized"}
    return tuple(f"'{name}': {why.reason}; {how[name in weights]}" for name, why in plan.unwritable.items())


def _size(path: Path) -> int:
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)
