"""The code of docs/costs.md runs, and what it prints is what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from networks import batches, digits, trained
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.cost import COST_NAMES, build_costs

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "costs.md").read_text(encoding="utf-8")


def test_page_names_every_cost():
    assert tuple(sorted(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))) == COST_NAMES


def test_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = qx.QuantizedModel(trained("small_cnn"), predicates.by_type(nn.ReLU), predicates.by_type(nn.Linear))
    model.calibrate(batches(digits().calibration))
    names = {"qx": qx, "nn": nn, "np": np, "torch": torch, "Path": Path}
    names |= {"model": model, "loader": batches(digits().search)[:1]}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    for block in blocks:
        exec(compile(block, "docs/costs.md", "exec"), names)

    said = [line.removeprefix("# ") for line in blocks[1].splitlines()[1:]]
    assert capsys.readouterr().out.splitlines() == said
    assert [cost.name for cost in names["problem"].costs] == ["model_bytes", "bops"]
    assert names["table"].costs[("relu", 403)] == 0.34
    assert build_costs(names["widest"], model)[0].cost(np.array([[8, 0], [8, 4]])).tolist() == [32.0, 8.0]
