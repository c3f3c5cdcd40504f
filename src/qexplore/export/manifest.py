"""The widths manifest: choices and ranges of a model as a JSON file, and back onto a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qexplore._choices import MAX_NUM_BITS, choice_code, choice_name
from qexplore._fingerprint import Fingerprint
from qexplore.errors import ExportError, ManifestError
from qexplore.model import (
    Brought,
    Found,
    FoundLeft,
    FoundPoint,
    PointKind,
    QuantizedModel,
    Site,
    alone,
    bare_name,
    bias_corrections,
    correct_bias,
    fingerprint_of,
    require_wrapped,
    restore_biases,
    structure_of,
    undone_on_failure,
    weights_of,
)
from qexplore.quant import TensorQuantizer, min_num_bits

FORMAT = "qexplore widths"
VERSION = 5
"""1 had no fingerprint, 2 no points on inputs of modules and calls, 3 no corrections of biases, 4 no shared reads."""


@dataclass(frozen=True)
class PointWidth:
    """A point's choice and range.

    Attributes:
        name: of the point.
        kind: as `qexplore.QuantizationPoint` has it.
        num_bits: a width as a number, the name of a float format, or ``"off"``.
        signed: whether the grid has negative numbers; with a zero point it has those that the range needs.
        narrow_range: whether a signed grid leaves out its least number.
        zero_point: the integer that stands for 0; 0 unless the grid is asymmetric.
        low: least value of the range, flat, one per scale; empty without a range.
        high: greatest value of the range, which is ``amax`` where ``low`` is its negative.
        shape: of ``low`` and ``high``.
        granularity: ``"tensor"``, ``"channel"``, or the length of groups.
        axis: of the weight's output channels; None for others.
        is_asymmetric: whether ``low`` and ``high`` are ends of their own.
        sites: of a point that data have found: each module, with the argument that it reads or the call that it makes.
        operands: of an argument each module, with the operand of a call that is the same tensor.
    """

    name: str
    kind: PointKind
    num_bits: int | str
    signed: bool
    narrow_range: bool
    zero_point: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]
    granularity: str | int = "tensor"
    axis: int | None = None
    is_asymmetric: bool = False
    sites: tuple[Site, ...] = ()
    operands: tuple[Site, ...] = ()

    @property
    def code(self) -> int:
        """As it stands in a vector ``num_bits``."""
        code = choice_code(self.num_bits)
        assert code is not None, "checked when the manifest was read"
        return code


@dataclass(frozen=True)
class CorrectedBias:
    """A layer whose bias is corrected for its quantized weight.

    Attributes:
        layer: its qualified name in the network.
        mean_input: what the correction was measured from, flat.
        shape: of ``mean_input``.
    """

    layer: str
    mean_input: tuple[float, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """Choices and ranges of a model, as a widths manifest holds them.

    ``model.num_bits = manifest`` sets the choices; `apply` sets the ranges too.

    Attributes:
        network: class name of the float network.
        structure: digest of the network's parameters and points.
        weights: digest of the network's weights.
        points: in the order of ``num_bits``.
        fingerprint: of the model that it was written of, as a front has it; None from files of version 1.
        left: arguments and calls that were asked for and have no point of their own.
        calls: at points, in the order in which modules make them; of files before version 5 empty.
        corrections: biases that `qexplore.correct_biases` corrected; None from files before version 4, which leave a
            model's as they are.
    """

    network: str
    structure: str
    weights: str
    points: tuple[PointWidth, ...]
    fingerprint: Fingerprint | None = None
    left: tuple[FoundLeft, ...] = ()
    corrections: tuple[CorrectedBias, ...] | None = None
    calls: tuple[Site, ...] = ()

    @property
    def found(self) -> Found:
        """What data have found: on inputs of modules, and on calls."""
        points = (FoundPoint(one.name, one.kind, one.sites, one.operands) for one in self.points if one.sites)
        return Found(tuple(points), self.left, self.calls)

    @property
    def num_bits(self) -> tuple[int, ...]:
        """Choices as codes."""
        return tuple(point.code for point in self.points)

    def apply(self, model: QuantizedModel, *, other_weights: bool = False) -> None:
        """Give ``model`` these choices, ranges and corrected biases; one range serves all its widths afterwards.

        Args:
            model: wrapped as the manifest's was; it need not be calibrated. It gets the points of the manifest's model
                that calibration has found there: on inputs of modules, on calls, and on its own inputs: none, one for
                each of several, or, of an old file, one range for them all.
            other_weights: allow weights that are not those of the manifest, such as fine-tuned ones.

        Raises:
            ManifestError: names what does not fit. The model is as it was then.
        """
        self._check(model, other_weights)
        layers = self._corrected_layers(model)
        with model.lock, undone_on_failure(model.quantizers), model.inputs_reconsidered():
            self._apply(model)
        if self.corrections is not None:
            restore_biases(model.model)
        for layer, mean_input in layers:
            correct_bias(layer, mean_input)
        model.brought = Brought(self.fingerprint, self.num_bits, fingerprint_of(model))

    def _apply(self, model: QuantizedModel) -> None:
        model.set_inputs(list(map(bare_name, self._inputs(model))))
        if model.can_have_found(self.found):
            model.set_found(self.found)
        for point, quantizer in zip(self.points, model.fake_quantizers.values(), strict=True):
            _set_range(quantizer, point)
        model.num_bits = self.num_bits

    def _check(self, model: QuantizedModel, other_weights: bool) -> None:
        require_wrapped("Manifest.apply", model, calibrated=False)
        inputs = self._inputs(model)
        found = (self.found if model.can_have_found(self.found) else model.found).points
        ours = [point.name for point in self.points]
        theirs = model.names_with(inputs, found)
        if ours != theirs:
            raise ManifestError(f"the manifest must have the points of the model: {_difference(ours, theirs)}")
        if self.network != type(model.model).__name__ or self.structure != structure_of(model, inputs, found):
            raise ManifestError(
                f"the manifest is of a {self.network} whose parameters or scales have other names or shapes than those "
                f"of this {type(model.model).__name__}: wrap the same network in the same way"
            )
        if not other_weights and self.weights != weights_of(model):
            raise ManifestError(
                f"the manifest is of a {self.network} with other weights, to which its ranges belong: load those, or "
                "apply(model, other_weights=True)"
            )

    def _corrected_layers(self, model: QuantizedModel) -> list[tuple[nn.Module, Tensor]]:
        """The layers whose biases are corrected, each with the mean of its input."""
        layers = {module for point in model.weight_points for module, _ in point.holders}
        named = {name: module for name, module in model.model.named_modules() if module in layers}
        found = []
        for one in self.corrections or ():
            module: Any = named.get(one.layer)
            if module is None or module.bias is None:
                raise ManifestError(
                    f"the manifest corrects the bias of '{one.layer}', which must be a layer of the model with a "
                    "quantized weight and a bias: wrap the same network in the same way"
                )
            mean = torch.tensor(one.mean_input, device=module.bias.device).reshape(one.shape)
            found.append((module, mean))
        return found

    def _inputs(self, model: QuantizedModel) -> list[str]:
        """The input points that ``model`` is to have: the manifest's, where these may take the place of its own."""
        ours = [point.name for point in self.points if point.kind == "input"]
        theirs = [point.name for point in model.points if point.kind == "input"]
        calibrated = any(model.fake_quantizers[name].is_calibrated for name in theirs)
        return ours if model.can_have_inputs(map(bare_name, ours)) and (ours or not calibrated) else theirs

    def __str__(self) -> str:
        widths = ", ".join(f"{point.name} {point.num_bits}" for point in self.points)
        return f"widths of {self.network}: {widths}"


@alone
def save_manifest(model: QuantizedModel, path: str | Path) -> Path:
    """Write the present choices, ranges and corrected biases of ``model`` to a JSON file.

    Raises:
        ModelError: no `QuantizedModel`, or a detached one.
        CalibrationError: points without a range.
        ExportError: the path cannot be written.
    """
    require_wrapped("save_manifest", model)
    network, digests = type(model.model).__name__, (structure_of(model), weights_of(model))
    found, corrections = model.found, _corrections(model)
    manifest = Manifest(network, *digests, _points(model), fingerprint_of(model), found.left, corrections, found.calls)
    content = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    try:
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ExportError(f"`path` must be a file that can be written, got '{path}': {error.strerror}") from error
    return Path(path)


def load_manifest(path: str | Path) -> Manifest:
    """Read a widths manifest.

    Raises:
        ManifestError: no such file, one that holds no manifest, or that of a later version.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"'{path}' holds no widths manifest: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ManifestError(f'\'{path}\' holds no widths manifest: its "format" must be "{FORMAT}"')
    if content.get("version") not in range(1, VERSION + 1):
        raise ManifestError(
            f"'{path}' is a widths manifest of version {content.get('version')!r}; this qexplore reads 1 to {VERSION}"
        )
    try:
        points = tuple(_read_point(row) for row in content["points"])
        network, structure, weights = (str(content[name]) for name in ("network", "structure", "weights"))
        left = tuple(FoundLeft(**{**row, "site": _pair(row["site"])}) for row in content.get("left", ()))
        fingerprint, corrections = Fingerprint.read(content.get("fingerprint")), _read_corrections(content)
        calls = tuple(map(_pair, content.get("calls", ())))
        return Manifest(network, structure, weights, points, fingerprint, left, corrections, calls)
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"'{path}' is a damaged widths manifest: {type(error).__name__}: {error}") from error


def _read_corrections(content: dict[str, Any]) -> tuple[CorrectedBias, ...] | None:
    if content["version"] < 4:
        return None
    read = tuple(CorrectedBias(row["layer"], *map(tuple, (row["mean_input"], row["shape"])))
                 for row in content["corrections"])  # fmt: skip
    for one in read:
        if len(one.mean_input) != torch.Size(one.shape).numel():
            raise ValueError(f"the mean input of '{one.layer}' has {len(one.mean_input)} numbers for {one.shape}")
    return read


def _corrections(model: QuantizedModel) -> tuple[CorrectedBias, ...]:
    names = {module: name for name, module in model.model.named_modules()}
    means = [(names[layer], one.mean_input.detach().float().cpu()) for layer, one in bias_corrections(model.model)]
    return tuple(CorrectedBias(name, tuple(mean.flatten().tolist()), tuple(mean.shape)) for name, mean in means)


def _read_point(row: dict[str, Any]) -> PointWidth:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    point = PointWidth(**fields | {name: tuple(map(_pair, row.get(name, ()))) for name in ("sites", "operands")})
    if choice_code(point.num_bits) is None:
        raise ValueError(f"point '{point.name}' has no width or format {point.num_bits!r}")
    sizes = len(point.low), len(point.high), torch.Size(point.shape).numel() if point.high else 0
    if len(set(sizes)) != 1:
        raise ValueError(f"point '{point.name}' has {sizes[0]} and {sizes[1]} ends of ranges for {sizes[2]} scales")
    return point


def _pair(site: Any) -> Site:
    module, part = site
    return str(module), str(part)


def _points(model: QuantizedModel) -> tuple[PointWidth, ...]:
    layouts = {point.name: point.layout for point in model.weight_points}
    found = {point.name: (point.sites, point.operands) for point in model.found.points}
    rows = []
    for point, code in zip(model.points, model.num_bits.tolist(), strict=True):
        quantizer, layout = model.fake_quantizers[point.name], layouts.get(point.name)
        low, high = (end.detach().float().cpu() for end in quantizer.range)
        is_one = layout is None or layout.granularity == "tensor"
        rows.append(
            PointWidth(
                point.name,
                point.kind,
                code if 0 < code <= MAX_NUM_BITS else choice_name(code),
                not quantizer.unsigned,
                bool(quantizer.narrow_range),
                _zero_point(quantizer),
                tuple(low.flatten().tolist()),
                tuple(high.flatten().tolist()),
                tuple(high.shape),
                "tensor" if is_one else layout.granularity,  # type: ignore[union-attr]
                None if is_one else layout.axis,  # type: ignore[union-attr]
                quantizer.asymmetric,
                *found.get(point.name, ()),
            )
        )
    return tuple(rows)


def _zero_point(quantizer: TensorQuantizer) -> int:
    has_one = quantizer.asymmetric and isinstance(quantizer.num_bits, int)
    return -int(quantizer.affine_parameters[1]) if has_one else 0


def _set_range(quantizer: TensorQuantizer, point: PointWidth) -> None:
    low, high = (torch.tensor(end).reshape(point.shape) for end in (point.low, point.high))
    sign = {"unsigned": torch.tensor(not point.signed), "asymmetric": torch.tensor(point.is_asymmetric)}
    width = max(quantizer.code, min_num_bits(unsigned=not point.signed or point.is_asymmetric))
    quantizer.load_state_dict({**quantizer.state_dict(), **sign, "num_bits": torch.tensor(width)})
    quantizer.narrow_range = point.narrow_range
    if point.is_asymmetric:
        code = point.code or quantizer.code
        quantizer.set_amax_table({code: high}, {code: low})
    else:
        quantizer.set_amax(high)


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    more, fewer = [name for name in ours if name not in theirs], [name for name in theirs if name not in ours]
    said = [f"it has {', '.join(map(repr, more))}, which the model has not"] if more else []
    said += [f"the model has {', '.join(map(repr, fewer))}, which it has not"] if fewer else []
    return "; ".join(said) or "they stand in another order"
