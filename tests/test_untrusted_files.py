"""Files from elsewhere: whatever they are called, reading one runs nothing of what is in it."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import qexplore as qx
from qexplore import predicates
from qexplore.cli import main
from qexplore.cli.terminal import Terminal
from qexplore.errors import QExploreError, WorkflowError
from qexplore.pipeline import Options, load_subject
from qexplore.report.num_bits import num_bits_record
from qexplore.study import Store

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "qexplore"


class Payload:
    """What makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def saved_by_torch(payload: object) -> bytes:
    stream = io.BytesIO()
    torch.save(payload, stream)
    return stream.getvalue()


class Silent:
    def show(self, text: str) -> None:
        pass

    def ask(self, question: str, default: bool = True) -> bool:
        return default


def by_the_command(path: Path) -> None:
    result = CliRunner().invoke(main, ["pipeline", "simplecnn", "--weights", str(path), "--no-progress"])
    assert result.exit_code == 1 and "must hold a state dict" in result.output
    raise WorkflowError(result.output)


LOADERS: dict[str, Callable[[Path], object]] = {
    "front.json": qx.Front.load,
    "model.widths.json": qx.load_manifest,
    "quantized.pt": qx.load_quantized,
    "quantized.pt with a network": lambda path: qx.load_quantized(path, nn.Sequential(nn.Linear(2, 2))),
    "study.db": lambda path: Store.open(path, writes=False),
    "study.db to write": lambda path: Store.open(path, writes=True),
    "latency.csv": qx.CostTable.from_csv,
    "weights.pt": by_the_command,
    "model.onnx": lambda path: qx.check_tensorrt(path),
}


@pytest.mark.parametrize("written", [pickle.dumps, saved_by_torch], ids=["pickle", "torch"])
@pytest.mark.parametrize("name", LOADERS)
def test_a_pickle_by_another_name_is_refused_and_not_read(name, written, tmp_path):
    mark, path = tmp_path / "made", tmp_path / name.partition(" ")[0]
    path.write_bytes(written(Payload(mark)))
    pickle.loads(path.read_bytes()) if written is pickle.dumps else torch.load(path, weights_only=False)
    assert mark.is_dir(), "the file does what it is feared for"
    mark.rmdir()
    content = path.read_bytes()

    with pytest.raises(QExploreError):
        LOADERS[name](path)

    assert not mark.exists()
    assert path.read_bytes() == content


def test_a_target_file_makes_no_objects(tmp_path):
    path = tmp_path / "target.yaml"
    path.write_text(f"widths: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    model = qx.QuantizedModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), lambda one: isinstance(one, nn.ReLU))

    with pytest.raises(QExploreError, match="target"):
        qx.plan_choices(model, target=str(path))

    assert not (tmp_path / "made").exists()


def test_a_planted_cifar_folder_is_not_unpickled(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "made")))

    with pytest.raises(QExploreError, match="torchvision refuses"):
        load_subject("simplecnn", Silent(), Options(data=tmp_path))

    assert not (tmp_path / "made").exists()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    data = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64))]
    path = tmp_path_factory.mktemp("pt2e") / "network"
    qx.quantize_static(network, data, stack="pt2e", progress=False).save(path)
    with zipfile.ZipFile(path) as read:
        return {name: read.read(name) for name in read.namelist()}


def ending(entries, end):
    return next(name for name in entries if name.endswith(end))


def changed(entries, end, change):
    name = ending(entries, end)
    content = json.loads(entries[name])
    change(content)
    return entries | {name: json.dumps(content).encode()}


def with_inputs(entries, payload):
    return entries | {ending(entries, "sample_inputs/model.pt"): saved_by_torch(payload)}


def with_pickled_weight(entries, payload):
    entries = entries | {ending(entries, "weights/weight_0"): saved_by_torch(payload)}
    return changed(entries, "weights_config.json", lambda one: first(one).update(use_pickle=True))


def with_an_object(entries, payload):
    place = ending(entries, "constants_config.json").rpartition("/")[0]
    entries = entries | {f"{place}/opaque_obj_0": pickle.dumps(payload)}
    said = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    return changed(entries, "constants_config.json", lambda one: one["config"].update(x=said))


def with_a_library(entries, payload):
    return entries | {"archive/data/aotinductor/model/model.so": b"\x7fELF"}


def calling(target):
    def plant(entries, payload):
        def call(model):
            model["graph_module"]["graph"]["nodes"][0]["target"] = target

        return changed(entries, "models/model.json", call)

    return plant


def with_an_expression(entries, payload):
    text = json.dumps(json.loads(entries[ending(entries, "models/model.json")]))
    assert "Symbol(" in text
    begin = text.index('"expr_str": "') + len('"expr_str": "')
    text = f"{text[:begin]}__import__('os').mkdir('{payload.mark}') or {text[begin:]}"
    return entries | {ending(entries, "models/model.json"): text.encode()}


def first(config):
    return next(iter(config["config"].values()))


@pytest.mark.parametrize(
    "plant",
    [
        with_inputs,
        with_pickled_weight,
        with_an_object,
        with_a_library,
        calling("torch.os.system"),
        calling("torch.ops.load_library"),
        calling("torch.ops.aten.from_file.default"),
        calling("_operator.methodcaller"),
        with_an_expression,
    ],
)
def test_an_archive_of_a_graph_is_read_without_running_what_is_planted(archive, plant, tmp_path):
    path = tmp_path / "network"
    with zipfile.ZipFile(path, "w") as write:
        for name, content in plant(archive, Payload(tmp_path / "made")).items():
            write.writestr(name, content)

    with pytest.raises(WorkflowError, match="could run code of whoever wrote it"):
        qx.load_quantized(path)

    assert not (tmp_path / "made").exists()


def reads_pickles(source: str) -> list[int]:
    """Lines that may unpickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {*(one.name.partition(".")[0] for one in node.names), getattr(node, "module", "") or ""}
            if names & {"dill", "cloudpickle", "joblib", "shelve", "_pickle"}:
                found.append(node.lineno)
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
        unpickles = called.endswith(
            ("pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "Unpickler", "read_pickle")
        )
        unsafe_torch = called == "torch.load" and given.get("weights_only") != "True"
        unsafe_numpy = called in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False"
        if unpickles or unsafe_torch or unsafe_numpy:
            found.append(node.lineno)
    return found


SENT = {"distributed/measurer.py", "distributed/shipping.py"}
"""What reads no files, but what the exploring process sent to its own workers, as each call of Ray's is pickled."""


def test_nothing_in_the_package_unpickles_what_it_has_not_sent_itself():
    found = {file.relative_to(PACKAGE).as_posix(): reads_pickles(file.read_text()) for file in PACKAGE.rglob("*.py")}
    assert {name for name, lines in found.items() if lines} == SENT


@pytest.mark.parametrize(
    "planted",
    [
        "pickle.load(f)",
        "pickle.Unpickler(f).load()",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "import joblib",
        "from dill import loads",
    ],
)
def test_what_unpickles_is_found(planted):
    assert reads_pickles(planted) == [1]
    assert reads_pickles("torch.load(p, weights_only=True); np.load(p); pickle.dumps(x)") == []


NAMES = [
    "x'); DROP TABLE evaluations;--",
    "<script>alert(1)</script>",
    "red \x1b[31m\x07 and\nnew \u202e line\r",
    "$\\frac$ and $x^2$",
]


@pytest.fixture(scope="module")
def named():
    layers = {name: nn.ReLU() for name in NAMES}
    model = qx.QuantizedActivationsModel(nn.Sequential(OrderedDict(layers)).eval(), predicates.by_type(nn.ReLU))
    data = [(torch.rand(8, 5) - 0.2, torch.arange(8) % 5)]
    model.calibrate(data)
    problem = qx.LayerwiseQuantizationProblem(model, data)
    list(problem.measure([[2] * 5, [8] * 5]))
    return problem


def is_plain(text):
    return all(line.isprintable() for line in text.split("\n"))


def test_layer_names_show_as_text_in_tables(named):
    front = named.front()
    texts = [str(named.model.describe()), str(front[0]), str(front.diff(front[::-1], at=(0, 0))), front.table()]

    assert all(map(is_plain, texts))
    for name in (NAMES[0], NAMES[1], "red \\x1b[31m\\x07 and\\nnew \\u202e line\\r", NAMES[3]):
        assert name in texts[0] and name in texts[1]


def test_layer_names_show_as_text_in_pictures_and_stay_what_they_are_in_records_and_files(named, tmp_path):
    front = named.front()
    front.save(tmp_path / "front.json")

    assert num_bits_record(front).point_names == front.point_names == ("input", *NAMES)
    assert qx.Front.load(tmp_path / "front.json").point_names == front.point_names
    assert next(csv.reader(io.StringIO(front.to_csv())))[-4:] == NAMES
    figure = qx.plot_num_bits(front, path=tmp_path / "num_bits.png")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[1:3] == NAMES[:2] and all(map(is_plain, labels))


def test_the_command_line_writes_no_escapes(capsys):
    Terminal().show(f"Layers:\n  {NAMES[2]}")

    assert is_plain(capsys.readouterr().out)
