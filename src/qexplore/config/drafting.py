"""A commented configuration for a network, filled with what can be seen of it."""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from qexplore.config.config import SECTIONS, described
from qexplore.config.forms import is_reference
from qexplore.config.parts import Parts
from qexplore.config.selection import WORDS
from qexplore.errors import ConfigError
from qexplore.model import QuantizedModel

_ROLES = {
    "calibration_loader": ("calib", "train"),
    "search_loader": ("search", "val"),
    "report_loader": ("report", "test", "held"),
    "metric": ("metric",),
    "unpack": ("unpack",),
}
"""How words in the names of functions for these often begin, the likeliest first."""
_NEEDED = ("calibration_loader", "search_loader")
_ACTIVATIONS = ("relu", "gelu", "silu", "swish", "mish", "elu", "selu", "tanh", "sigmoid", "softplus", "prelu")
_SHOWN = 8


@dataclass(frozen=True)
class Template:
    """A configuration that can be written to a file.

    Attributes:
        text: YAML with comments.
        seen: what was seen of the network, in a line.
        lacking: functions that it names and that are not there yet.
    """

    text: str
    seen: str
    lacking: tuple[str, ...]


def template(network: str) -> Template:
    """The configuration for the network that ``network``, package.module:factory, gives.

    Raises:
        ConfigError: no such factory, one that fails, or one that gives no network.
    """
    mistakes: list[str] = []
    if not is_reference(network):
        raise ConfigError(f"a network must be named as package.module:factory, got {network!r}")
    parts = Parts({"network": network, "metric": "top1_accuracy"}, lambda field, text: mistakes.append(text))
    if mistakes:
        raise ConfigError(f"the network {mistakes[0]}") from parts.first_error
    module = _module_for_data(network.partition(":")[0])
    filled = {"network": network, **_roles(network)} | _selection(parts.network)
    lacking = tuple(f"{module}:{role}" for role in _NEEDED if role not in filled)
    filled = {role: f"{module}:{role}" for role in _NEEDED} | filled
    seen = f"{network} gives a {_seen(parts.network, filled)}"
    return Template("\n".join(_lines(filled, seen, lacking)) + "\n", seen, lacking)


def _module_for_data(module: str) -> str:
    """Where functions that are not there yet are to be written: beside the factory, unless that is someone else's."""
    file = Path(getattr(sys.modules[module], "__file__", None) or "")
    return module if file.is_relative_to(Path.cwd()) and "site-packages" not in file.parts else "data"


def _roles(network: str) -> dict[str, str]:
    """References to functions beside the factory, by the field that their names suggest."""
    name, _, own = network.partition(":")
    module = sys.modules[name]
    functions = [one for one, value in vars(module).items() if one != own and _is_own(value, name)]
    found = {role: _likeliest(functions, words) for role, words in _ROLES.items()}
    return {role: f"{name}:{one}" for role, one in found.items() if one}


def _is_own(value: Any, module: str) -> bool:
    return callable(value) and not isinstance(value, type) and getattr(value, "__module__", module) == module


def _likeliest(functions: list[str], words: tuple[str, ...]) -> str:
    return next((one for word in words for one in functions if _has(word, one)), "")


def _has(beginning: str, name: str) -> bool:
    return any(word.startswith(beginning) for word in name.lower().split("_"))


def _selection(network: nn.Module) -> dict[str, Any]:
    kinds = dict.fromkeys(type(module).__name__ for module in network.modules())
    activations = [kind for kind in kinds if kind.lower().rstrip("6").endswith(_ACTIVATIONS)]
    return {"activations": activations} if activations else {"weights": ["weighted"]}


def _seen(network: nn.Module, filled: dict[str, Any]) -> str:
    leaves = Counter(type(module).__name__ for module in network.modules() if next(module.children(), None) is None)
    kinds = ", ".join(f"{count} {kind}" for kind, count in leaves.most_common(_SHOWN))
    size = sum(parameter.numel() for parameter in network.parameters())
    return f"{type(network).__name__} of {size:,} parameters: {kinds}; {_points(network, filled)}"


def _points(network: nn.Module, filled: dict[str, Any]) -> str:
    kinds = tuple(filled.get("activations", ()))
    activations = (lambda module: type(module).__name__ in kinds) if kinds else None
    weights = None if kinds else WORDS["weighted"]
    count = len(QuantizedModel(network, activations=activations, weights=weights).points)
    return f"{count} quantization point{'' if count == 1 else 's'} as below"


def _lines(filled: dict[str, Any], seen: str, lacking: tuple[str, ...]) -> Iterator[str]:
    yield f"# {seen}"
    yield "# Every field is a flag of `qexplore explore` too: --min-accuracy 0.9"
    for one in described():
        if one.name in SECTIONS:
            yield f"\n# --- {SECTIONS[one.name]} ---"
        value = filled.get(one.name)
        hint = " Not there yet: write it." if value in lacking else ""
        yield ""
        yield from textwrap.wrap(
            f"{one.text}{hint} ({one.form.told})", 110, initial_indent="# ", subsequent_indent="#   "
        )
        yield f"{one.name}: {_yaml(value)}" if one.name in filled else f"# {one.name}: {_yaml(one.default)}"


def _yaml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml, value))}]"
    return value if isinstance(value, str) else json.dumps(value)
