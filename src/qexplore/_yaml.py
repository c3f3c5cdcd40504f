"""YAML as users of today write it: yes, no, on and off are words, 1e-3 is a number, and nothing is lost in silence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_BOOLEAN, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"


@dataclass(frozen=True)
class Document:
    """A YAML document.

    Attributes:
        content: what it holds.
        lines: the line of each key of its mapping; empty where it holds no mapping.
        repeated: keys that stand twice in one mapping, with those around them and a dot before, and the second line.
    """

    content: Any
    lines: dict[str, int] = field(default_factory=dict)
    repeated: tuple[tuple[str, int], ...] = ()


def read_yaml(text: str) -> Document:
    """The document that ``text`` is; only plain data, whatever its tags ask for.

    Raises:
        ValueError: it is no YAML, or asks for more than plain data.
    """
    import yaml

    class Words(yaml.SafeLoader):  # type: ignore[misc]
        """YAML 1.2's booleans: yes, no, on and off are words, such as names of modules or a choice."""

    Words.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag != _BOOLEAN]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Words.add_implicit_resolver(_BOOLEAN, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    Words.add_implicit_resolver(_FLOAT, re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))
    try:
        loader = Words(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None)
        lines = {key.value: key.start_mark.line + 1 for key, _ in _pairs(node) if isinstance(key.value, str)}
        repeated = tuple(_repeated(node, "", set()))
        return Document(loader.construct_document(node), lines, repeated)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        told = " ".join(str(error).split()).replace(' in "<unicode string>",', " in")
        raise ValueError(told or type(error).__name__) from error


def _pairs(node: Any) -> Any:
    return node.value if node.id == "mapping" else ()


def _repeated(node: Any, around: str, seen: set[int]) -> Iterator[tuple[str, int]]:
    """Keys that a mapping has twice, those of what it holds too."""
    if node.id == "scalar" or id(node) in seen:
        return
    seen.add(id(node))
    known: set[str] = set()
    for key, value in _pairs(node):
        name = f"{around}{key.value}"
        if name in known:
            yield name, key.start_mark.line + 1
        known.add(name)
        yield from _repeated(value, f"{name}.", seen)
    for part in node.value if node.id == "sequence" else ():
        yield from _repeated(part, around, seen)
