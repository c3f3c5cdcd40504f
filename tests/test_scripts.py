"""The scripts beside the package: what they take from it is there, also of those that no test has the time to run."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import qexplore as qx

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path for folder in ("benchmarks", "experiments") for path in (ROOT / folder).rglob("*.py"))


def missing_names(source: str) -> list[str]:
    """Names of the package that a script imports, or asks ``qx`` for, and that are not there."""
    missing = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "qexplore":
            missing += [alias.name for alias in node.names if not is_there(node.module or "", alias.name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "qx":
            missing += [] if hasattr(qx, node.attr) else [node.attr]
    return missing


def is_there(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_script_takes_from_the_package_what_is_there(path: Path) -> None:
    assert missing_names(path.read_text(encoding="utf-8")) == []


def test_names_that_are_not_there_are_found() -> None:
    source = "from qexplore.front import Front, Back\nfrom qexplore.nowhere import x\nqx.explore\nqx.ignore\n"
    assert missing_names(source) == ["Back", "x", "ignore"]
