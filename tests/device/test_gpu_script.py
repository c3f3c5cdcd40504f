"""The script for GPUs: its contracts on the pretended device, its tables, and the whole of it on a CPU."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_device import num_transfers

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- GPU: written by benchmarks/gpu.py -->", "<!-- end of GPU -->"


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What imports a piece of the script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    # The experiments have a `networks.py`, as the tests do.
    spec = importlib.util.spec_from_file_location("networks", ROOT / "experiments" / "networks.py")
    assert spec is not None and spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    monkeypatch.setitem(sys.modules, "networks", networks)
    return lambda name: importlib.import_module(f"_gpu_{name}")


def test_a_row_that_fails_is_a_row(pieces: Any) -> None:
    rows = pieces("rows")

    def lacking() -> str:
        raise ModuleNotFoundError("No module named 'nowhere'")

    def broken() -> str:
        raise RuntimeError("two\n| devices")

    assert rows.checked("a", lambda: "fine") == rows.Check("a", "fine")
    assert rows.checked("a", lacking).is_met is None
    assert str(rows.checked("a", broken)) == "| a |  | RuntimeError: two / devices | FAULT |"


def test_networks_share_the_time_and_works_that_find_none_are_left_out(
    pieces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, now = pieces("rows"), [0.0]
    monkeypatch.setattr(rows.time, "perf_counter", lambda: now[0])
    clock = rows.Clock(1.0, start=0.0)
    now[0] = 20.0
    share = clock.share(4)  # of the 40 seconds that are left
    assert share.left == pytest.approx(10.0)

    def taking(seconds: float) -> float:
        now[0] += seconds
        return seconds

    works = {"short": lambda: taking(4.0), "long": lambda: taking(7.0), "late": lambda: taking(1.0)}
    assert rows.medians(works, 5, share) == {"short": 4.0, "long": 7.0}
    assert rows.medians({"short": lambda: taking(1.0)}, 2, clock) == {"short": 1.0}


def test_tables_of_one_device_leave_the_others_alone(pieces: Any) -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter"
    assert pieces("page").written(page, "GPU", ["new"]) == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter"
    with pytest.raises(ValueError, match="no place"):
        pieces("page").written(page, "CPU", ["new"])
    for marker in ("GPU", "CPU"):
        assert "new" in pieces("page").written((ROOT / "docs" / "gpu.md").read_text(), marker, ["new"])


def test_counts_are_those_of_the_plain_recipe(pieces: Any, accelerator: torch.device) -> None:
    contracts = pieces("contracts")
    subject = contracts.stage(accelerator, 64)
    problem = contracts.posed(subject)
    row = contracts.counts_row(subject, problem, [contracts.random_candidates(4, problem.n_var)])
    assert row.is_met, row


@pytest.mark.slow
def test_every_feature_holds_on_an_accelerator(
    pieces: Any, accelerator: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    contracts = pieces("contracts")

    def transfers(work: Any, device: torch.device) -> int:
        before = num_transfers()
        work()
        return num_transfers() - before

    monkeypatch.setattr(contracts, "waits", transfers)
    report: list[str] = []
    rows = list(contracts.feature_rows(contracts.stage(accelerator, 64), pieces("rows").Clock(60), report))
    assert len(rows) == len(contracts.FEATURES)
    assert [str(row) for row in rows if row.is_met is False] == [], "\n".join(report)


@pytest.mark.slow
def test_the_script_runs_on_a_cpu(tmp_path: Path) -> None:
    page = ROOT / "docs" / "gpu.md"
    before, log = page.read_bytes(), tmp_path / "log"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--no-write", "--log", str(log)]
    done = subprocess.run([*command, "--minutes", "20"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert page.read_bytes() == before
    text = log.read_text()
    assert "FAULT" not in text and "NOT MET" not in text, text
    for kind in ("ResNet-20", "ResNet-18", "transformer", "GPT-2", "(b) explore"):
        assert kind in text
