"""Layers that a configuration has rules for: whether the network has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qexplore.config.parts import Parts
from qexplore.errors import QExploreError
from qexplore.model import KINDS_OF_WORD, PointModules, QuantizedModel
from qexplore.search import TIE_WORDS

LAYER_FIELDS = {
    "calibration_method": "activations",
    "weight_method": "weights",
    "choices": "everything",
    "pinned": "everything",
    "tied": "everything",
}
"""Fields that name layers, with the kind of the points that they are about."""


def layers_named(field: str, value: Any) -> list[str]:
    """The layers that ``value``, which may be wrong otherwise, names; words for structure are none."""
    if field != "tied":
        return [name for name in value if isinstance(name, str)] if isinstance(value, Mapping) else []
    groups = value if isinstance(value, (list, tuple)) else [value]
    parts = [part for group in groups for part in (group if isinstance(group, (list, tuple)) else [group])]
    return [part for part in parts if isinstance(part, str) and part not in TIE_WORDS]


def unknown_layers(given: Mapping[str, Any], model: QuantizedModel) -> Iterator[tuple[str, str]]:
    """Field and sentence of each layer in ``given``, values by field, that ``model`` has not.

    Before ``model`` has seen data it passes over what these may bring: points of inputs, and what a glob finds.
    """
    points = PointModules.of(model)
    for field, kind in LAYER_FIELDS.items():
        for name in layers_named(field, given.get(field)):
            if model.example_input is None and (name.startswith("input") or set(name) & set("*?[")):
                continue
            try:
                among = points.of_kinds(KINDS_OF_WORD[kind], QExploreError)
                among.select(name, f"{field}[{name!r}]", TIE_WORDS if field == "tied" else ())
            except QExploreError as error:
                yield field, f"must be about points of the network: {error}"


def unknown_layers_at_first(given: Mapping[str, Any], parts: Parts) -> Iterator[tuple[str, str]]:
    """As `unknown_layers`, before data are run, where these bring no points but those of inputs."""
    if not given.keys().isdisjoint({"inputs", "functions", "scheme"}) or parts.network is None:
        return
    if not any(layers_named(field, given.get(field)) for field in LAYER_FIELDS):
        return
    try:
        model = QuantizedModel(
            parts.network,
            activations=parts.activations,
            weights=parts.weights,
            outputs=given.get("outputs", "tensor"),
        )
    except QExploreError:  # posing says it
        return
    try:
        yield from unknown_layers(given, model)
    finally:
        model.detach()
