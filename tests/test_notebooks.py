"""The notebooks of the guide: a question on top, no outputs kept, and they run."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import nbformat
import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_asks_a_question_on_top_and_keeps_no_outputs(path):
    first, *others = read(path).cells
    assert first.cell_type == "markdown" and "?**" in first.source
    code = [cell for cell in others if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


def test_every_notebook_is_on_its_page():
    page = (FOLDER.parent / "notebooks.md").read_text(encoding="utf-8")
    assert NOTEBOOKS and [path.name for path in NOTEBOOKS if f"notebooks/{path.name}" not in page] == []


def test_digits_stand_in_where_fashion_mnist_is_not_there(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    small_data = importlib.import_module("small_data")
    monkeypatch.setattr(small_data, "FASHION_MNIST", ())

    data = small_data.loaders()

    assert "scikit-learn's digits, for want of Fashion-MNIST" in capsys.readouterr().out
    images = [loader.dataset.tensors[0] for loader in data.values()]
    assert {tuple(part.shape[1:]) for part in images} == {(1, 28, 28)}
    assert len(torch.cat(images).unique(dim=0)) == sum(map(len, images)) <= 1797


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(FOLDER.parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
    )
    NotebookClient(read(path), timeout=600, kernel_name="python3", resources={"metadata": {"path": FOLDER}}).execute()
