"""Every command once, on a tiny network of a user's own; its JSON, its exit codes, and what it leaves behind."""

import importlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from command_line import run, said
from networks import digits
from problems import tiny_model
from project import own_project

import qexplore as qx
from qexplore.cli import main

COMMANDS = list(main.commands)


@pytest.fixture(scope="module")
def _explored_once(tmp_path_factory):
    """The folder ``runs`` of a finished exploration of ``mine.yaml``."""
    folder, before = tmp_path_factory.mktemp("explored"), Path.cwd()
    os.chdir(folder)
    try:
        with own_project(folder):
            assert run("explore", "mine.yaml").exit_code == 0
    finally:
        os.chdir(before)
    return folder / "runs"


@pytest.fixture
def explored(mine, _explored_once):
    """A study of it, beside it."""
    shutil.copytree(_explored_once, mine / "runs")
    return "runs/mine.db"


def test_explore_writes_a_study_and_says_what_was_found_and_how_to_go_on(mine):
    done = run("explore", "mine.yaml")
    assert done.exit_code == 0 and "stopped by max_evaluations" in done.stdout and "Front of" in done.stdout
    assert done.stdout.endswith("Take a point: qexplore pick runs/mine.db --knee --output widths.json\n")
    with qx.Study.open("runs/mine.db") as study:
        assert study.runs[0].state == "ended"
        assert str(study.front()).splitlines()[0] in done.stdout


def test_a_flag_comes_before_the_file_in_the_search_and_in_what_is_kept(mine):
    facts = said("explore", "mine.yaml", "--costs", "total_bits,bops", "--seed", 3, "--study", "deep.db")
    assert facts["seed"] == 3 and facts["front"]["cost_names"] == ["total_bits", "bops"] and facts["study"] == "deep.db"
    kept = (mine / "deep.db.config.yaml").read_text()
    assert "seed: 3" in kept and "- bops" in kept and "study: deep.db" in kept


FORKED = """
import torch
from torch import nn
import mine

class Forked(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mine.network()

    def forward(self, x):
        return {"noise": torch.cos(x), "scores": self.body(x)}

def network():
    return Forked()
"""


def test_scheme_and_the_output_that_is_judged_are_fields_and_flags(mine):
    (mine / "forked.py").write_text(FORKED)
    fields = ["network: forked:network", "scheme: tensorrt", "calibration_loader: mine:calibration"]
    (mine / "forked.yaml").write_text("\n".join([*fields, "search_loader: mine:search", "max_evaluations: 9"]))
    assert "`output` must say which is judged" in run("explore", "forked.yaml").stderr
    facts = said("explore", "forked.yaml", "--judged-output", "scores")
    assert {width for widths in facts["front"]["num_bits"] for width in widths} <= {0, 8}
    assert "output: scores" in (mine / "runs" / "forked.db.config.yaml").read_text()
    whole = said("explore", "forked.yaml", "--judged-output", "1", "--num-bits-lower-limit", "5", "--study", "b.db")
    assert {width for widths in whole["front"]["num_bits"] for width in widths} <= {5, 6, 7, 8}


SUMMED = """
import torch
from torch import nn
import mine

class Summed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mine.network()

    def forward(self, x):
        return self.body(x + x.roll(1, -1)) + 0.5 * self.body(x)

def network():
    return Summed()
"""


def test_inputs_of_modules_calls_of_functions_and_methods_by_layer_are_fields_and_flags(mine):
    (mine / "summed.py").write_text(SUMMED)
    fields = ["network: summed:network", "calibration_loader: mine:calibration", "search_loader: mine:search"]
    fields += ["inputs: Linear", "functions: [operand of add, mul]", "calibration_method: {'*.input*': percentile}"]
    (mine / "summed.yaml").write_text("\n".join([*fields, "max_evaluations: 9"]))
    facts = said("describe", "summed.yaml")
    names = [one["point"]["name"] for one in facts["points"]]
    assert {"add.input", "add.input_1", "mul"} < set(names) and any(name.endswith("fc1.input") for name in names)
    done = run("explore", "summed.yaml", "--functions", "opernd of add")
    assert done.exit_code == 1 and "--functions: `functions` must select calls of functions, got" in done.stderr
    assert "`functions` must select a call" in run("explore", "summed.yaml", "--functions", "softmax").stderr
    assert (
        "method['nix'] matches no point" in run("explore", "summed.yaml", "--calibration-method", "{nix: max}").stderr
    )
    assert said("explore", "summed.yaml")["front"]["point_names"] == names
    kept = (mine / "runs" / "summed.db.config.yaml").read_text()
    assert "- operand of add" in kept and "'*.input*': percentile" in kept
    assert said("resume", "runs/summed.db", "--max-evaluations", 11)["front"]["point_names"] == names


def test_resume_needs_the_study_alone_and_ends_where_a_whole_search_ends(mine):
    whole = said("explore", "mine.yaml", "--study", "whole.db", "--max-evaluations", 14)
    said("explore", "mine.yaml", "--max-evaluations", 7)
    (mine / "mine.yaml").unlink()
    resumed = said("resume", "runs/mine.db", "--max-evaluations", 14)
    assert resumed["front"] == whole["front"] and resumed["num_evaluations"] == whole["num_evaluations"]
    assert said("resume", "runs/mine.db")["front"] == whole["front"]


def test_resume_without_the_configuration_beside_the_study_asks_for_one(explored, mine):
    (mine / "runs/mine.db.config.yaml").unlink()
    done = run("resume", explored)
    assert done.exit_code == 1 and "Give one with --config" in done.stderr
    assert run("resume", explored, "--config", "mine.yaml").exit_code == 0
    other = run("resume", explored, "--config", "mine.yaml", "--report-loader", "mine:nothing")
    assert other.exit_code == 1 and "--report-loader: `report_loader` must name" in other.stderr


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "interrupt"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_signals_end_a_search_with_its_front_and_the_way_to_go_on(mine, monkeypatch, number, code, name):
    monkeypatch.syspath_prepend(mine)
    project = importlib.import_module("mine")
    project.acting |= {"at": 30, "do": lambda: os.kill(os.getpid(), number)}
    done = run("explore", "mine.yaml", "--metric", "mine:watched")
    assert done.exit_code == code and f"stopped by {name}" in done.stdout
    assert done.stderr.endswith(f"Stopped by {name}. Go on with: qexplore resume runs/mine.db\n")
    project.acting.clear()
    assert run("resume", "runs/mine.db").exit_code == 0


def test_ctrl_c_before_the_search_ends_with_130_and_no_traceback(mine, monkeypatch):
    monkeypatch.syspath_prepend(mine)
    project = importlib.import_module("mine")

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(project, "calibration", interrupted)
    done = run("explore", "mine.yaml")
    assert done.exit_code == 130 and "Error: stopped by Ctrl-C: what a study" in done.stderr


def test_fit_finds_one_point_and_writes_its_widths(mine):
    facts = said("fit", "mine.yaml", "--max-drop", "0.05", "--output", "widths.json")
    assert json.loads((mine / "widths.json").read_text()) == facts["point"]["widths"]
    refused = run("fit", "mine.yaml")
    assert refused.exit_code == 1 and "exactly one of min_accuracy, max_drop and max_total_bits" in refused.stderr


def test_a_picked_file_of_widths_is_read_by_python_and_by_export(explored, mine):
    facts = said("pick", explored, "--knee", "--output", "widths.json")
    model = tiny_model()
    model.num_bits = json.loads((mine / "widths.json").read_text())
    assert model.num_bits.tolist() == facts["point"]["num_bits"]
    pytest.importorskip("onnxruntime")
    report = said("export", "widths.json", "mine.onnx", "--config", "mine.yaml")
    assert {one["name"]: one["choice"] for one in report["points"]} == {
        name: str(width) for name, width in facts["point"]["widths"].items()
    }
    assert report["parity"]["num_samples"] == 100 and (mine / "mine.onnx").exists()


def test_a_picked_manifest_holds_ranges_too(explored, mine):
    pytest.importorskip("onnxruntime")
    said("pick", explored, "--index", 0, "--manifest", "mine.widths.json")
    model = tiny_model()
    qx.load_manifest("mine.widths.json").apply(model)
    with qx.Study.open(explored) as study:
        assert model.num_bits.tolist() == list(study.front()[0].num_bits)
    from_file = ("export", "mine.widths.json", "mine.onnx", "--config", "mine.yaml", "--no-check")
    assert run(*from_file).exit_code == 0
    assert "flags that pick a point are for fronts" in run(*from_file, "--index", 0).stderr


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--accuracy", 0.7], lambda front: front.cheapest(0.7)),
        (["--cost", 9], lambda front: front.most_accurate(9)),
        (["--cost", "total_bits=9", "--accuracy", 0.2], lambda front: front.cheapest(0.2, limits={"total_bits": 9})),
        (["--knee"], lambda front: front.knee()),
        (["--index", -1], lambda front: front[-1]),
    ],
)
def test_pick_takes_the_point_that_the_front_gives(explored, flags, expected):
    with qx.Study.open(explored) as study:
        front = study.front()
    front.save("front.json")
    for source in (explored, "front.json"):
        point = said("pick", source, *flags)["point"]
        assert point["index"] == expected(front).index
        assert said("pick", source, "--point", point["key"])["point"] == point


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        ([], 2, "pick a point by --accuracy, --cost or both, or by --knee, or by --index"),
        (["--knee", "--index", 1], 2, "pick a point by"),
        (["--cost", "bits=few"], 2, "--cost must be a number or NAME=NUMBER, got 'bits=few'"),
        (
            ["--cost", "total_bit=9"],
            1,
            "of this front's costs, total_bits, got 'total_bit', did you mean 'total_bits'?",
        ),
        (["--accuracy", 1], 1, "Error: no point meets --accuracy 1.0; the best that this front offers is"),
        (["--index", 99], 1, "no point 99, this front has the points 0 to "),
        (["--run", 7, "--knee"], 1, "7"),
        (["--point", "0123"], 1, "no point of this front has the key '0123'"),
        (["--point", "0123", "--knee"], 2, "pick a point by"),
    ],
)
def test_what_cannot_be_picked_is_said_with_what_can(explored, flags, code, sentence):
    done = run("pick", explored, *flags)
    assert done.exit_code == code and sentence in done.stderr and "Traceback" not in done.stderr


def test_diff_compares_a_study_with_a_front_file(explored):
    with qx.Study.open(explored) as study:
        study.front()[:2].save("front.json")
    assert "this one is" in run("diff", explored, "front.json", "--at", "0,1").stdout
    asked = run("diff", explored, "front.json", "--cost", "total_bit").stderr
    assert "Error: --cost must be among 'total_bits', got 'total_bit', did you mean 'total_bits'?" in asked
    facts = said("diff", explored, "front.json", "--at", "1")
    assert facts["compared"][0]["index"] == 1 and facts["num_points"][1] == 2
    assert run("diff", explored, "front.json", "--at", "first").exit_code == 2


def test_the_page_is_written_by_explore_and_by_report(mine):
    pytest.importorskip("plotly")
    facts = said("explore", "mine.yaml", "--max-evaluations", 4, "--page", "run.html")
    assert facts["page"] == "run.html" and "<html" in (mine / "run.html").read_text(encoding="utf-8")[:400]
    assert (
        "\nwritten: again.html\n" in run("explore", "mine.yaml", "--max-evaluations", 4, "--page", "again.html").stdout
    )
    said("pick", "runs/mine.db", "--index", 0)
    assert said("report", "runs/mine.db", "runs/mine.db", "--output", "both.html")["page"] == "both.html"
    assert run("report", "none.db").exit_code == 1


def test_sensitivity_and_analyze_measure_what_python_measures(explored, mine):
    table = said("sensitivity", "mine.yaml", "--measure", "sqnr", "--samples", 20, "--csv", "table.csv")
    assert table["point_names"] == ["input", "relu1", "relu2"] and table["num_samples"] == 20
    assert (mine / "table.csv").read_text().startswith("point,2,3,4\n")
    four, picked = (
        said("analyze", "mine.yaml", "--num-bits", 4),
        said("analyze", "mine.yaml", "--widths", explored, "--index", 0),
    )
    model = tiny_model()
    model.num_bits = [4] * 3
    report = [(digits().report.x[:100], digits().report.y[:100])]
    assert four["points"][0]["sqnr"] == qx.analyze(model, report).points[0].sqnr
    with qx.Study.open(explored) as study:
        assert [one["num_bits"] for one in picked["points"]] == list(study.front()[0].num_bits)
    assert run("analyze", "mine.yaml", "--num-bits", "4", "--widths", explored).exit_code == 2
    assert "flags that pick a point need --widths" in run("analyze", "mine.yaml", "--index", 0).stderr


def test_describe_says_what_is_covered_before_a_search_and_show_after_it(explored, mine):
    facts, text = said("describe", "mine.yaml"), run("describe", "mine.yaml").stdout
    coverage = said("show", explored)["runs"][0]["coverage"]
    assert facts["coverage"] == coverage and coverage["activation_macs"]["quantized"] > 0
    assert [one["point"]["name"] for one in facts["points"]] == said("show", explored)["front"]["point_names"]
    assert "MACs by activation" in text and "left float, and could be at points" in text
    assert "coverage at points: parameters" in run("show", explored).stdout and "\nat points:\n" in text


def test_init_writes_a_configuration_that_explore_takes(mine):
    (mine / "mine.yaml").unlink()
    facts = said("init", "mine:network")
    assert (
        facts["seen"]
        == "mine:network gives a Tiny of 1,374 parameters: 3 Linear, 2 ReLU; 3 quantization points as below"
    )
    assert facts["lacking"] == [] and said("explore", "mine.yaml", "--max-evaluations", 3)["num_passes"] <= 4
    again = run("init", "mine:network")
    assert again.exit_code == 1 and "is there already, and is left as it is" in again.stderr
    misspelt = run("init", "mine:netwrok")
    assert misspelt.exit_code == 1 and "did you mean 'network'?" in misspelt.stderr
    assert run("init", "mine:network", "--force").exit_code == 0


def test_init_says_which_functions_have_to_be_written(mine):
    (mine / "bare.py").write_text("from problems import tiny_network as network\nevaluate = lambda model: None\n")
    done = run("init", "bare:network", "--output", "bare.yaml")
    sys.modules.pop("bare")
    assert "Not there yet, write it: bare:calibration_loader\n" in done.stdout
    assert "Not there yet, write it: bare:search_loader\n" in done.stdout, "`evaluate` gives no data"
    assert "Not there yet: write it." in (mine / "bare.yaml").read_text()
    assert said("init", "torch.nn:ReLU", "--output", "other.yaml")["lacking"] == [
        "data:calibration_loader",
        "data:search_loader",
    ]
    (mine / "other.yaml").unlink()
    wrong = run("init", "mine:netwrok", "--output", "other.yaml")
    assert wrong.exit_code == 1 and "did you mean 'network'?" in wrong.stderr and not (mine / "other.yaml").exists()


def test_doctor_says_what_is_there_and_how_to_get_what_is_not(mine, monkeypatch):
    from qexplore.cli import doctor

    monkeypatch.setattr(doctor, "extras", lambda: {"onnx": ["no-such-package"], "demo": ["click"]})
    rows = {row["name"]: row for row in said("doctor")}
    assert rows["qexplore"]["value"] == qx.__version__ and rows[str(mine)]["value"] == "can be written to"
    assert rows["extra onnx"]["advice"] == "pip install 'qexplore[onnx]': ONNX files and onnxruntime"
    assert rows["extra demo"]["advice"] == "" and "fused kernel" in run("doctor").stdout


def test_doctor_knows_the_extras_of_the_distribution():
    from qexplore.cli.doctor import extras

    assert extras()["text"] == ["transformers"] and "dev" not in extras()


def test_doctor_knows_every_extra_of_a_checkout_whatever_its_stale_installation_says(monkeypatch, tmp_path):
    from qexplore.cli import doctor

    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["onnx>=1.17; extra == 'onnx'"])
    assert set(doctor.extras()) == set(doctor.PURPOSES)
    assert doctor.extras()["onnx"] == ["onnx", "onnxruntime", "onnxscript"]
    assert doctor.extras(tmp_path / "setup.py") == {"onnx": ["onnx"]}  # of a distribution
    (tmp_path / "setup.py").write_text('setup(name="other", extras_require={"a": ["b>=1"]})')
    assert doctor.extras(tmp_path / "setup.py") == {"onnx": ["onnx"]}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_an_example(name):
    done = run(name, "--help")
    assert done.exit_code == 0 and "Example:" in done.stdout and f"  qexplore {name}" in done.stdout


def test_errors_are_one_json_document_where_that_is_asked_for(mine):
    for arguments, code, kind in (
        (["explore", "none.yaml"], 1, "ConfigError"),
        (["show", "none.db"], 1, "MissingStudyError"),
        (["pick", "none.json", "--knee"], 1, "MissingFrontFileError"),
        (["explore"], 2, "MissingParameter"),
        (["show", "none.db", "--limit", "-1"], 2, "BadParameter"),
    ):
        done = run(*arguments, "--json")
        told = json.loads(done.stdout)
        assert (done.exit_code, told["exit_code"], told["error"]["kind"]) == (code, code, kind)
        assert done.stderr == ""
    (mine / "mine.yaml").write_text("seed: one\n")
    assert len(json.loads(run("explore", "mine.yaml", "--json").stdout)["error"]["mistakes"]) == 5


def test_a_mistake_has_no_traceback_unless_it_is_asked_for(mine):
    plain, debug = run("explore", "mine.yaml", "--network", "mine:failing"), None
    assert "Traceback" not in plain.output
    debug = run("explore", "mine.yaml", "--network", "mine:failing", "--debug")
    assert "Traceback" in debug.stderr and "no weights here" in debug.stderr and debug.exit_code == 1


def test_completion_of_the_shell_knows_commands_and_fields():
    words = {"_QEXPLORE_COMPLETE": "bash_complete", "COMP_WORDS": "qexplore explore --min", "COMP_CWORD": "2"}
    assert "--min-accuracy" in run(env=words).stdout
