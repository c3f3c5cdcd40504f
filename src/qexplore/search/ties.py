"""Points that share one choice: groups given by selectors, and groups that the network's structure gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from torch import nn

from qexplore.cost import Groups, Observed, observe, unite
from qexplore.errors import ProblemError
from qexplore.model import PointModules, QuantizedModel, selector_text

_QKV_NAMES = (("q", "k", "v"), ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("to_q", "to_k", "to_v"))


def tied_groups(model: QuantizedModel, points: PointModules, tied: Any) -> Groups:
    """Groups of two or more points that share one choice; groups that overlap are one.

    Args:
        model: wrapped; for "weights_with_activations" and "residual" it has seen an example.
        points: its points.
        tied: None, or a sequence of groups, each a sequence of selectors, a selector, or a word: "residual" (points
            that meet in an addition), "qkv" (projections beside each other: their weights, and their outputs),
            "weights_with_activations" (a weight with the point that feeds it).

    Raises:
        ProblemError: a selector that matches nothing, a group of one point, a word that finds no group.
    """
    if tied is None:
        return ()
    is_one = isinstance(tied, str) or callable(tied)
    if not is_one and (isinstance(tied, Mapping) or not isinstance(tied, Iterable)):
        raise ProblemError(f"`tied` must be a sequence of groups, each a sequence of selectors, got {tied!r}")
    entries = [tied] if is_one else list(tied)
    return unite(group for entry in entries for group in _groups_of(entry, model, points))


def scheme_groups(model: QuantizedModel, points: PointModules) -> Groups:
    """What the scheme of ``model`` ties, as far as the network has it.

    Raises:
        ProblemError: that cannot be known before the model has seen an example.
    """
    ties = () if model.scheme is None else model.scheme.tied
    if model.example_input is None and any(one in _WORDS for one in ties if isinstance(one, str)):
        raise ProblemError(
            f"the scheme '{model.scheme and model.scheme.name}' ties points, for which it must know what one forward "
            "does, but none was observed yet: call model.calibrate(loader) or model.describe(example_input) first, or "
            "give tied=() for none"
        )
    found: list[tuple[int, ...]] = []
    for entry in ties:
        with suppress(ProblemError):  # what it names and the network has not is no mistake
            found += _groups_of(entry, model, points)
    return unite(found)


def _groups_of(entry: Any, model: QuantizedModel, points: PointModules) -> Groups:
    if isinstance(entry, str) and entry in _WORDS:
        find, missing = _WORDS[entry]
        groups = unite(find(model, points))
        if not groups:
            raise ProblemError(f"tied[{entry!r}] finds no group: {missing}")
        return groups
    group = _selected(entry, points)
    if len(group) < 2:
        raise ProblemError(
            f"{_rule(entry)} matches '{points.named(group)}' alone, and a group needs two points or more: put the "
            'selectors of one group into a sequence of their own, as in tied=[("conv1.weight", "conv2.weight")]'
        )
    return (group,)


def _selected(entry: Any, points: PointModules) -> tuple[int, ...]:
    if isinstance(entry, (list, tuple, set, frozenset)):
        chosen = {index for selector in entry for index in points.select(selector, _rule(selector))}
        return tuple(sorted(chosen))
    return points.select(entry, _rule(entry), TIE_WORDS)


def _rule(entry: Any) -> str:
    if isinstance(entry, (list, tuple, set, frozenset)):
        return f"tied[({', '.join(map(selector_text, entry))})]"
    return f"tied[{selector_text(entry)}]"


def _observed(model: QuantizedModel, word: str) -> Observed:
    if model.example_input is None:
        raise ProblemError(
            f"tied[{word!r}] must know what one forward does, but none was observed yet: call "
            "model.calibrate(loader) or model.describe(example_input) first"
        )
    return observe(model)


def _with_activations(model: QuantizedModel, points: PointModules) -> Iterator[tuple[int, ...]]:
    yield from _observed(model, "weights_with_activations").feeds.items()


def _residual(model: QuantizedModel, points: PointModules) -> Iterator[tuple[int, ...]]:
    yield from _observed(model, "residual").meetings


def _qkv(model: QuantizedModel, points: PointModules) -> Iterator[tuple[int, ...]]:
    siblings: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, module in model.model.named_modules():
        parent, _, own = name.rpartition(".")
        names = next((names for names in _QKV_NAMES if own in names), None)
        if names is not None and isinstance(module, nn.Linear):
            siblings.setdefault((parent, names), []).append(name)
    for together in siblings.values():
        for kind in ("weight", "activation"):
            yield tuple(
                point.index
                for point, modules in zip(points.points, points.modules, strict=True)
                if point.kind == kind and not modules.keys().isdisjoint(together)
            )


_WORDS: dict[str, tuple[Callable[[QuantizedModel, PointModules], Iterator[tuple[int, ...]]], str]] = {
    "weights_with_activations": (_with_activations, "no quantized activation or input feeds a quantized weight"),
    "residual": (_residual, "no two points meet in an addition"),
    "qkv": (
        _qkv,
        "no two points belong to Linear modules beside each other that are named "
        + ", or ".join("/".join(names) for names in _QKV_NAMES),
    ),
}

TIE_WORDS = tuple(_WORDS)
"""Words for groups that the network's structure gives."""
