"""What tells a wrapped network from another: in fronts, manifests and studies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from qexplore._fingerprint import DIGITS, Fingerprint, tensor_bytes, text_digest
from qexplore.errors import OtherModelError
from qexplore.model.biases import bias_corrections
from qexplore.model.points import FoundPoint
from qexplore.quant import TensorQuantizer

if TYPE_CHECKING:
    from qexplore.model.wrapped import WrappedNetwork

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PARAMETRIZATIONS = "parametrizations"


@dataclass(frozen=True)
class Brought:
    """What a manifest made of a model.

    Attributes:
        found_on: the model that the manifest was written of; None where that is not known.
        num_bits: its choices, at which both have the same ranges.
        here: the model right after it.
    """

    found_on: Fingerprint | None
    num_bits: tuple[int, ...]
    here: Fingerprint

    def stands_for(self, found: Fingerprint, here: Fingerprint) -> bool:
        """Whether a model that is ``here`` now is as the manifest left it, and that was of the one of ``found``."""
        return (self.found_on, self.here, found.weights) == (found, here, here.weights)


def fingerprint_of(model: WrappedNetwork) -> Fingerprint:
    """What ``model`` is now, its widths apart; equal in another process, on another device and after saving."""
    return Fingerprint(
        network=type(model.model).__name__,
        structure=text_digest([*_layer_lines(model.model), *map(_named_shape, _tensors(model.model))]),
        points=text_digest(_point_lines(model)),
        weights=weights_of(model)[:DIGITS],
        ranges=_ranges(model),
    )


def require_same_model(model: WrappedNetwork, point: Any) -> None:
    """Refuse a ``point`` of a front that says it was found on another model; choices of another kind say nothing.

    Raises:
        OtherModelError: names what differs.
    """
    found = getattr(point, "found_on", None)
    if not isinstance(found, Fingerprint):
        return
    here = fingerprint_of(model)
    if model.is_pending or not all(one.is_calibrated for one in model.fake_quantizers.values()):
        # Points that data find, and ranges, are not there to be compared yet.
        differs = replace(found, points=here.points, ranges=here.ranges).difference_text(here)
        raise OtherModelError(
            "a point of a front must be given to the model that it was found on, but this one is not calibrated: it "
            f"has points without a range{differs and ', and differs in ' + differs}. Calibrate as before, "
            "model.calibrate(loader), or bring ranges and widths with qexplore.load_manifest(path).apply(model)"
        )
    differs = found.difference_text(here)
    brought = model.brought
    if differs and brought is not None and brought.stands_for(found, here):
        if tuple(point.num_bits) == brought.num_bits:
            return
        raise OtherModelError(
            "a point of a front must be given to a model with its ranges, got one with those of a manifest of another "
            "point: a manifest brings the ranges at its own widths alone. Calibrate as before, by "
            "model.calibrate(loader), to take others; or point.apply_to(model, other_model=True), where scores need "
            "not hold"
        )
    if differs:
        raise OtherModelError(
            f"a point of a front must be given to the model that it was found on, got one that differs in {differs}. "
            "Its scores hold there alone. Load those weights, or calibrate as before; if the change is wanted, such as "
            "after fine-tuning, point.apply_to(model, other_model=True)"
        )


def structure_of(
    model: WrappedNetwork, inputs: Sequence[str] | None = None, found: Sequence[FoundPoint] | None = None
) -> str:
    """Digest of the network's class, of its tensors' names and shapes, and of the points.

    With these of ``inputs``, and these on inputs of modules and on calls; None takes those that the model has.
    """
    digest = hashlib.sha256(type(model.model).__name__.encode())
    for named in _tensors(model.model):
        digest.update(f"{_named_shape(named)}\n".encode())
    for line in _point_lines(model, inputs, found):
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def weights_of(model: WrappedNetwork) -> str:
    """Digest of the float values of the network's parameters and buffers."""
    digest = hashlib.sha256()
    for _, tensor in _tensors(model.model):
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _named_shape(named: tuple[str, Tensor]) -> str:
    name, tensor = named
    return f"{name} {tuple(tensor.shape)}"


def _point_lines(
    model: WrappedNetwork, inputs: Sequence[str] | None = None, found: Sequence[FoundPoint] | None = None
) -> Iterator[str]:
    if inputs is None:
        inputs = [point.name for point in model.points if point.kind == "input"]
    yield from (f"input {name} 1" for name in inputs)
    others = (point for point in model.points if point.kind in ("activation", "weight"))
    yield from (f"{point.kind} {point.name} {point.num_scales}" for point in others)
    # At the end, so that networks without any have the digests that they had before there were such points.
    for one in model.found[0] if found is None else found:
        yield f"{one.kind} {one.name} {one.sites}{one.operands or ''}"


def layers_of(network: nn.Module) -> dict[str, str]:
    """Every module's class and settings by its name, such as a stride, which change results and no tensor."""
    described = {}
    for name, module in network.named_modules():
        if _PARAMETRIZATIONS not in name.split("."):
            kind: Any = parametrize.type_before_parametrizations(module)
            described[name] = f"{kind.__name__} {_ADDRESS.sub('', module.extra_repr())}"
    return described


def _layer_lines(network: nn.Module) -> Iterator[str]:
    yield from (f"{name} {described}" for name, described in layers_of(network).items())


def _ranges(model: WrappedNetwork) -> str:
    """Digest of everything that a quantizer's arithmetic depends on but its width."""
    digest = hashlib.sha256()
    for name, quantizer in model.fake_quantizers.items():
        digest.update(f"{name} {_settings(quantizer)}\n".encode())
        _add(digest, quantizer)
    for point in model.weight_points:
        digest.update(f"{point.name} {point.layout.granularity} {point.layout.axis}\n".encode())
    for _, correction in bias_corrections(model.model):
        digest.update(f"{correction.name}\n".encode())
        _add(digest, correction)
    return digest.hexdigest()[:DIGITS]


def _settings(quantizer: TensorQuantizer) -> tuple[object, ...]:
    q = quantizer
    signs = bool(q.unsigned), bool(q.asymmetric), bool(q.narrow_range)
    return (*signs, q.axis, q.disabled, q.stages, bool(q.fake_quant), bool(q.scales_amax), q._scale_amax)


def _add(digest: Any, module: nn.Module) -> None:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor_bytes(tensor))


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by the names they have in the float network, in the order of the names."""
    named = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        owner, parametrized, rest = name.partition(f"{_PARAMETRIZATIONS}.")
        if not parametrized:
            named[name] = tensor
        elif not rest.endswith(".mean_input"):  # of a corrected bias, and so of the wrapper
            named[owner + rest.removesuffix(".original")] = tensor
    yield from sorted(named.items())
