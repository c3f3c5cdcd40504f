"""The code in the documents runs, and the numbers beside it are true."""

from __future__ import annotations

import json
import re
import shlex
import sys
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_line import run as run_command
from networks import batches, digits, trained, wrapping
from problems import search_loader, tiny_network, tiny_problem
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.cli import main
from qexplore.config import described

ROOT = Path(__file__).resolve().parent.parent


def python_blocks(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def run(document: str, namespace: dict[str, object] | None = None) -> dict[str, object]:
    """Run the blocks of a document one after the other, as somebody who copies them does."""
    namespace = {} if namespace is None else namespace
    for block in python_blocks(document):
        exec(compile(block, document, "exec"), namespace)
    return namespace


def test_readme_example_runs_on_a_network_of_ones_own(tmp_path, monkeypatch):
    mine = {f"{name}_loader": batches(getattr(digits(), name)) for name in ("calibration", "search", "report")}
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(network=tiny_network(), **mine))
    monkeypatch.chdir(tmp_path)

    done = run("README.md")

    assert done["front"].verified and done["model"].num_bits.tolist() == list(done["front"].knee().num_bits)
    assert (tmp_path / "runs" / "mine.db").is_file()


@pytest.mark.slow
def test_code_of_the_start_page_runs_and_leaves_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example, turn_key = python_blocks("docs/start.md")
    namespace: dict[str, object] = {}

    exec(compile(example, "docs/start.md", "exec"), namespace)

    front = qx.Front.load("front.json")
    assert front.verified
    assert len(front) >= 5
    assert namespace["model"].num_bits.tolist() == list(namespace["point"].num_bits)
    for picture in ("front.png", "num_bits.png", "hypervolume.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
    assert (tmp_path / "runs" / "digits.db").is_file()
    assert (tmp_path / "model.onnx").is_file()
    assert (tmp_path / "model.widths.json").is_file()

    exec(compile(turn_key, "docs/start.md", "exec"), namespace)

    report = namespace["result"].report
    assert report.accuracy_after > report.accuracy_before - 0.02


def test_code_of_the_page_on_own_networks_runs_and_shows_its_table(capsys):
    (table,) = re.findall(r"^```text\n(.*?)^```", (ROOT / "docs/own_network.md").read_text(), re.DOTALL | re.MULTILINE)

    done = run("docs/own_network.md")

    printed = capsys.readouterr().out
    assert table in printed and "['input.x', 'input.t', 'act']" in printed
    assert done["metric"].name == done["problem"].metric.name == "within one"


def test_errors_of_the_page_on_own_networks_are_those_that_are_raised(capsys):
    done = run("docs/own_network.md")
    network, triples = done["network"], done["triples"]
    wrap = qx.QuantizedActivationsModel

    def fresh(**options):
        return wrap(done["Conditioned"](), predicates.by_type(nn.GELU), **options)

    calibrated = fresh()
    calibrated.calibrate(triples, unpack=done["unpack"])
    pose = partial(qx.LayerwiseQuantizationProblem, unpack=done["unpack"])
    mistakes = [
        lambda: wrap(network, predicates.by_type(nn.Conv2d)),
        lambda: wrap(nn.Sequential(nn.Linear(4, 4), Unused()), predicates.by_type(nn.ReLU)).calibrate(
            [torch.ones(1, 4)]
        ),
        lambda: wrap(network, predicates.by_name("lstm")).calibrate(done["loader"]),
        lambda: fresh().calibrate(triples),
        lambda: pose(fresh(), triples, qx.top1_accuracy),
        lambda: wrap(nn.Sequential(nn.ReLU()), predicates.leaves).calibrate([torch.full((1, 4), torch.nan)]),
        lambda: pose(calibrated, triples, lambda output, target: 1.0),
        lambda: pose(calibrated, triples, qx.top1_accuracy, min_accuracy=0.99),
        lambda: wrap(calibrated.model, predicates.leaves),
    ]
    rows = re.findall(r"^\| ([^|]*) \| [^|]* \|$", (ROOT / "docs/own_network.md").read_text(), flags=re.MULTILINE)
    rows = rows[rows.index("it says") + 1 :]
    for mistake, row in zip(mistakes, rows, strict=False):
        with pytest.raises(qx.QExploreError) as caught:
            mistake()
        for part in row.replace("`", "").split(" ..."):
            assert part.strip() in str(caught.value).replace("`", ""), row
    assert len(rows) == len(mistakes) + 1  # a point on another model: tests/front


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.never = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_code_of_the_page_on_predicates_prints_what_it_says(capsys):
    said = re.findall(r"# (\[.*\])$", "".join(python_blocks("docs/predicates.md")), flags=re.MULTILINE)

    run("docs/predicates.md")

    assert capsys.readouterr().out.splitlines() == said


def test_code_of_the_calibration_page_runs(capsys):
    done = run("docs/calibration.md")
    assert done["report"].method == "mse"
    printed = capsys.readouterr().out.splitlines()
    assert "{'input': 'mse', '1': 'percentile', '0.weight': 'max', '2.weight': 'auto'}" in printed
    assert printed[-1].split()[-2:] == ["asymmetric", "mse"]


def test_code_of_the_page_on_clusters_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problem = tiny_problem(upper=4, min_accuracy=0.5)
    monkeypatch.setattr(qx, "explore", partial(shorter, qx.explore))
    run("docs/clusters.md", {"qx": qx, "problem": problem, "report_loader": batches(digits().report)})
    assert sorted(path.name for path in (tmp_path / "runs").glob("*.*") if path.suffix in (".db", ".json")) == [
        "mine-1.db",
        "mine-2.db",
        "mine-3.db",
        "mine.db",
        "mine.json",
    ]


def shorter(explore, problem, *, max_evaluations, workers=None, **options):
    """In this process: what workers do is tested elsewhere."""
    return explore(problem, max_evaluations=10, **options)


def test_quantizer_page_prints_what_it_says(capsys):
    first, *_ = python_blocks("docs/quantizer.md")
    said = re.search(r"^# (\[.*\])$", first, flags=re.MULTILINE).group(1)

    exec(compile(first, "docs/quantizer.md", "exec"), {})

    assert capsys.readouterr().out.strip() == said


def test_hand_edits_of_the_quantizer_page_run():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = nn.ModuleDict({"relu": nn.ReLU()})
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.layer1["relu"](x))

    model = qx.QuantizedActivationsModel(Block(), predicates.leaves)
    edits = python_blocks("docs/quantizer.md")[-1]

    exec(compile(edits, "docs/quantizer.md", "exec"), {"model": model})

    assert float(model.activation_fake_quantizers["layer1.relu"].amax) == 4.0
    assert model.num_bits.tolist() == [8, 8, 0]


def test_code_of_the_report_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problem = tiny_problem(upper=8)
    qx.explore(problem, max_evaluations=20, seed=1, progress=False, study="runs/digits.db")
    namespace = {"qx": qx, "problem": problem, "loader": search_loader()}
    for block in python_blocks("docs/report.md"):
        exec(compile(block, "docs/report.md", "exec"), namespace)

    assert all((tmp_path / name).stat().st_size > 1_000_000 for name in ("run.html", "both.html"))


@pytest.mark.slow
def test_code_of_the_search_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = qx.QuantizedActivationsModel(trained("small_cnn"), **wrapping("small_cnn"))
    model.calibrate(batches(digits().calibration))
    namespace = {"qx": qx, "model": model, "loader": batches(digits().search)}
    for block in python_blocks("docs/searching.md"):
        # So fast a network needs no more, and the page's numbers are those of a better one.
        exec(compile(block.replace("[0.92, 0.40]", "[0.90, 0.60]"), "docs/searching.md", "exec"), namespace)
    assert sum(model.num_bits) == namespace["point"].total_bits <= 100
    assert (tmp_path / "sensitivity.png").stat().st_size > 10_000


def test_code_of_the_study_page_runs_and_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = qx.QuantizedActivationsModel(trained("small_cnn"), **wrapping("small_cnn"))
    model.calibrate(batches(digits().calibration))
    problem = qx.LayerwiseQuantizationProblem(model, batches(digits().search), min_accuracy=0.85)
    qx.explore(problem, max_evaluations=8, seed=3, study="runs/elsewhere.db", progress=False)
    namespace = {"qx": qx, "problem": problem}

    with pytest.warns(UserWarning, match="might be on this front"):  # for the other costs
        for block in python_blocks("docs/study.md"):
            exec(compile(block, "docs/study.md", "exec"), namespace)

    text = (ROOT / "docs/study.md").read_text(encoding="utf-8")
    said = re.search(r"^```\n(run  algorithm.*?)^```", text, re.DOTALL | re.MULTILINE).group(1).splitlines()
    printed = capsys.readouterr().out.splitlines()
    seconds, state = said[0].index("seconds"), said[0].index("state")  # times differ, and so do versions of torch
    first = max(number for number, line in enumerate(printed) if line.startswith("run  algorithm"))
    table = printed[first : first + len(said)]  # below it stands what limits the runs
    assert [(line[:38], line[state:]) for line in table] == [(line[:38], line[state:]) for line in said]
    assert table[0][:seconds] == said[0][:seconds]
    assert "were there already; the same call goes on with it" in printed[0]
    assert namespace["front"].verified and len(namespace["merged"].runs) == 3
    namespace["study"].close()
    namespace["merged"].close()


def test_code_of_the_preparation_page_runs_and_gains():
    loaders = {"calibration_loader": batches(digits().calibration), "report_loader": batches(digits().report)}
    namespace = {"network": trained("small_cnn"), **loaders}
    (example,) = python_blocks("docs/preparation.md")

    exec(compile(example, "docs/preparation.md", "exec"), namespace)

    steps = {name: namespace[name] for name in ("plain", "corrected", "equalized", "both")}
    assert all(accuracy > 0.93 for accuracy in steps.values()), steps
    for report in (namespace["report"], namespace["equalization"]):
        before, after = report.sqnr[4]
        assert after > before


def test_code_of_the_fine_tuning_page_runs_and_gains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = qx.QuantizedModel(trained("small_cnn"), predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate(batches(digits().calibration), method="mse", weight_method="mse")
    widths = [[4] + [2] * 7, [4] + [2] * 6 + [3], [6] + [5] * 7]
    front = qx.Front(
        num_bits=widths, accuracy=[0.8, 0.85, 0.9], costs=[[18], [19], [41]], point_names=tuple(model.fake_quantizers)
    )
    namespace = {"model": model, "front": front, "point": front.cheapest(), "train_loader": batches(digits().train, 69)}
    namespace |= {f"{name}_loader": batches(getattr(digits(), name)) for name in ("calibration", "report")}
    namespace |= dict.fromkeys(("validation_loader", "search_loader"), batches(digits().search))

    for block in python_blocks("docs/fine_tuning.md"):
        exec(compile(block, "docs/fine_tuning.md", "exec"), namespace)

    assert namespace["result"].recovered > 0.3
    assert len(namespace["refinement"].refined) == 2
    assert (tmp_path / "fine_tuning.png").stat().st_size > 10_000


def test_code_of_the_float8_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaders = {"calibration_loader": batches(digits().calibration), "report_loader": batches(digits().report)}
    namespace = {"network": trained("small_cnn"), **loaders}
    (example,) = python_blocks("docs/float8.md")

    exec(compile(example, "docs/float8.md", "exec"), namespace)

    with torch.no_grad():
        assert torch.equal(namespace["loaded"](digits().report.x), namespace["result"].model(digits().report.x))
    assert namespace["result"].report.accuracy_after > 0.95


def test_code_of_the_workflows_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {
        "network": trained("small_cnn"),
        "calibration_loader": batches(digits().calibration),
        "report_loader": batches(digits().report),
        "train_loader": batches(digits().train),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch(\.|$)")  # a page does not show how to silence torch
        for block in python_blocks("docs/workflows.md"):
            exec(compile(block, "docs/workflows.md", "exec"), namespace)

    x = digits().report.x
    with torch.no_grad():
        assert torch.equal(namespace["loaded"](x), namespace["result"].model(x))
        assert torch.equal(namespace["scripted"](x), namespace["result"].model(x))
    assert [row.name for row in namespace["wide"].report.left_float] == ["conv1"]
    printed = capsys.readouterr().out
    assert "int8 per channel" in printed and "conv1 not selected by modules=~by_name('conv1')" in printed
    assert all(row.is_done and row.accuracy > 0.95 for row in namespace["comparison"].rows)


def test_code_of_the_onnx_page_runs(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    model, other = (
        qx.QuantizedModel(trained("small_cnn"), predicates.by_type(nn.ReLU), predicates.weighted) for _ in range(2)
    )
    model.calibrate(batches(digits().calibration))
    namespace = {"qx": qx, "model": model, "another_model": other, "report_loader": batches(digits().report)}
    namespace |= {"point": [7, 5, 4, 3, 8, 3, 2, 8], "example_input": digits().report.x[:1]}
    (example,) = python_blocks("docs/onnx.md")

    exec(compile(example, "docs/onnx.md", "exec"), namespace)

    assert namespace["report"].num_different == 0
    assert torch.equal(other.eval()(digits().report.x), model.eval()(digits().report.x))


def test_commands_of_the_command_line_page_lead_from_a_fresh_folder_to_an_exported_point(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    commands = re.search(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE).group(1).splitlines()
    (factory,) = python_blocks("docs/cli.md")
    (tmp_path / "digits.py").write_text(factory, encoding="utf-8")

    assert len(commands) <= 4
    for command in commands:
        done = run_command(*shlex.split(command)[1:])
        assert done.exit_code == 0, done.output
    sys.modules.pop("digits")

    widths = json.loads((tmp_path / "widths.json").read_text())
    assert list(widths) == ["input", "1", "4"] and (tmp_path / "digits.onnx").exists()
    assert "0 predictions differ" in done.stdout


def test_the_command_line_page_names_every_command_and_every_field_with_its_default():
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, flags=re.MULTILINE))
    for one in described():
        default = ", ".join(one.default) if isinstance(one.default, tuple) else str(one.default).lower()
        assert rows[one.name] == f"{one.text} | {'' if one.default in (None, '') else f'`{default}`'}"
    assert [name for name in main.commands if f"| `{name}" not in text] == []


def rows_of_changes():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## To change X, open Y")[2]
    rows = re.findall(r"^\| (.*) \| (.*) \|$", text.partition("\n## ")[0], flags=re.MULTILINE)
    return {change: re.findall("`([^`]+)`", places) for change, places in rows[1:]}


@pytest.mark.parametrize(("change", "places"), rows_of_changes().items(), ids=rows_of_changes())
def test_a_change_is_at_home_in_three_files_at_most_that_are_there(change, places):
    assert 1 <= len(places) <= 3, change
    assert [place for place in places if not (ROOT / place).is_file()] == []


def test_the_changes_that_are_made_most_have_a_row():
    words = " ".join(rows_of_changes())
    for change in (
        "float format",
        "cost",
        "calibrator",
        "algorithm",
        "plot",
        "stack",
        "module kind",
        "ranked",
        "command",
    ):
        assert change in words
    assert "file holds" in words
