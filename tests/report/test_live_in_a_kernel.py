"""A notebook's cell that explores shows its picture, and draws it anew: in a kernel, by Jupyter's own client."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPLORED = """
import sys
sys.path.insert(0, "tests/shared")
import qexplore as qx
from problems import tiny_problem
qx.explore(tiny_problem(upper=8), max_evaluations=30, seed=1, progress=False, callbacks=[qx.LivePlot(every=1e-3)])
"""


@pytest.mark.slow
def test_the_cell_that_explores_holds_the_picture_in_its_last_state(monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(EXPLORED)])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    updates = []
    process = client.process_message

    def watched(message, *others):
        updates.extend([message] * (message["msg_type"] == "update_display_data"))
        return process(message, *others)

    client.process_message = watched
    client.execute()
    shown, *result = notebook.cells[0].outputs

    assert shown.output_type == "display_data"
    assert base64.b64decode(shown.data["image/png"]).startswith(b"\x89PNG")
    assert updates, "drawn anew, in the same place"
    assert updates[-1]["content"]["data"]["image/png"] == shown.data["image/png"]
    assert [one.output_type for one in result] == ["execute_result"]
    assert "<table" in result[0].data["text/html"] or "Front of" in result[0].data["text/plain"]
