"""What a rule says of a file that breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qexplore.export.onnx_graph import Step, node_name


@dataclass(frozen=True)
class Violation:
    """One place in a file that breaks a rule.

    Attributes:
        rule: name of the rule, a key of `qexplore.export.checker.RULES`.
        node: name of the node; empty where the file as a whole breaks the rule.
        tensor: the tensor at fault; empty where there is none.
        sentence: what is wrong, and what the rule asks for.
    """

    rule: str
    node: str
    tensor: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.sentence}"


def violation(rule: str, where: Step | Any, tensor: str, sentence: str) -> Violation:
    """A violation at a node, or at the node of a step."""
    return Violation(rule, node_name(where.node if isinstance(where, Step) else where), tensor, sentence)
