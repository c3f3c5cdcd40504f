"""The package keeps to its floors and every file to its length; and what is broken is found where it is planted."""

from pathlib import Path

import pytest
from floors import (
    BESIDE_PACKAGE,
    FLOORS,
    PACKAGE,
    PAST_FACE,
    REPOSITORY,
    broken_rules,
    floors_of_document,
    floors_without_rooms,
    long_files_beside,
)


def test_package_keeps_to_its_floors():
    problems = broken_rules(PACKAGE)
    assert not problems, "\n" + "\n".join(problems)


def test_every_row_of_the_floors_has_its_room():
    assert floors_without_rooms(PACKAGE) == []


def test_contributing_shows_the_same_floors():
    shown = floors_of_document((REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert shown == {floor: rooms for floor, rooms in FLOORS.items() if rooms != ["__main__"]}


def test_files_beside_the_package_keep_to_the_same_length():
    assert list(long_files_beside(REPOSITORY)) == []


@pytest.fixture
def plant(tmp_path):
    """Write a small package: the given files, beside one file in each of a few rooms."""

    def write(files: dict[str, str]) -> Path:
        rooms = dict.fromkeys(["__init__.py", "errors.py", "_random.py", "predicates.py", "front.py"], "")
        rooms |= dict.fromkeys(["quant/__init__.py", "quant/formats.py", "model/__init__.py", "model/hooks.py"], "")
        for name, source in (rooms | files).items():
            path = tmp_path / "qexplore" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return tmp_path / "qexplore"

    return write


ROOT = "import from the room itself, not from the package root"
HIGHER = "floor 1 may not import from the higher floor 2"


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("quant/formats.py", "from qexplore.model.hooks import x", f":1 imports qexplore/model/hooks.py: {HIGHER}"),
        ("quant/formats.py", "import qexplore.model.hooks", f":1 imports qexplore/model/hooks.py: {HIGHER}"),
        ("quant/formats.py", "from ..model.hooks import x", f":1 imports qexplore/model/hooks.py: {HIGHER}"),
        ("front.py", "from .model import x", f":1 imports qexplore/model/__init__.py: {HIGHER}"),
        ("front.py", "if TYPE_CHECKING:\n    from .model import x", f":2 imports qexplore/model/__init__.py: {HIGHER}"),
        ("front.py", "def f():\n    from .model import x", f":2 imports qexplore/model/__init__.py: {HIGHER}"),
        (
            "front.py",
            "from qexplore.predicates import x",
            ":1 imports qexplore/predicates.py: two rooms of floor 1 may not import from each other",
        ),
        (
            "_random.py",
            "from qexplore._table import x",
            ":1 imports qexplore._table: two rooms of floor 0 may not import from each other",
        ),
        ("model/hooks.py", "import qexplore", f":1 imports qexplore/__init__.py: {ROOT}"),
        ("model/hooks.py", "from qexplore import predicates", f":1 imports qexplore/__init__.py: {ROOT}"),
        ("model/hooks.py", "from .. import predicates", f":1 imports qexplore/__init__.py: {ROOT}"),
        ("front.py", "from . import predicates", f":1 imports qexplore/__init__.py: {ROOT}"),
        ("model/hooks.py", "from qexplore.utils import x", ":1 imports qexplore.utils: the room 'utils' has no floor"),
        ("front.py", "from pymoo.core.problem import x", ":1 imports pymoo.core.problem: only qexplore/search may"),
        (
            "quant/formats.py",
            "import pytorch_quantization.nn as q",
            ":1 imports pytorch_quantization.nn: only qexplore/quant/upstream.py may",
        ),
        ("front.py", "import matplotlib.pyplot", ":1 imports matplotlib.pyplot: only qexplore/report may"),
        ("front.py", "from tqdm import tqdm", ":1 imports tqdm: only qexplore/_progress.py may"),
        (
            "model/__init__.py",
            "m.register_forward_hook(f)",
            ":1 calls register_forward_hook: only qexplore/model/hooks.py may",
        ),
        (
            "model/__init__.py",
            "m.register_forward_pre_hook(f)",
            ":1 calls register_forward_pre_hook: only qexplore/model/hooks.py may",
        ),
        ("front.py", "print('a')", ":1 calls print: only qexplore/cli may"),
        ("front.py", "\n" * 401, ": 401 lines, the limit is 400"),
        ("quant/inner/deep.py", "", ": rooms do not nest"),
        ("utils.py", "", ": the room 'utils' has no floor; give it one in FLOORS and in CONTRIBUTING.md"),
    ],
)
def test_planted_violation_is_reported_with_both_files_and_the_rule(plant, file, source, message):
    assert broken_rules(plant({file: source})) == [f"qexplore/{file}{message}"]


def test_a_long_file_beside_the_package_is_reported_and_a_folder_that_has_none_too(tmp_path):
    for folder in BESIDE_PACKAGE[1:]:
        for name, lines in (("short.py", 400), ("long.py", 401), ("deep/er/long.py", 402), ("long.md", 403)):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n" * lines)

    assert list(long_files_beside(tmp_path)) == [
        "tests: no file to look at",
        "benchmarks/deep/er/long.py: 402 lines, the limit is 400",
        "benchmarks/long.py: 401 lines, the limit is 400",
        "experiments/deep/er/long.py: 402 lines, the limit is 400",
        "experiments/long.py: 401 lines, the limit is 400",
    ]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("__init__.py", "import qexplore.model\nfrom qexplore import predicates"),
        ("errors.py", "from qexplore._version import x"),
        ("_random.py", "from qexplore.errors import x\nfrom ._version import y"),
        ("front.py", "import numpy\nfrom qexplore._random import x\nfrom .errors import y"),
        ("front.py", '"""\n>>> print(1)\n"""\n\n' + "\n" * 396),
        ("quant/formats.py", "from . import histogram\nfrom .histogram import x\nfrom qexplore.quant import y"),
        ("quant/upstream.py", "from pytorch_quantization import nn"),
        ("model/hooks.py", "from ..quant import x\nm.register_forward_hook(f)"),
        ("search/problem.py", "from pymoo.core.problem import Problem\nfrom qexplore.front import Front"),
        ("_progress.py", "def bar():\n    from tqdm import tqdm"),
        ("report/drawings.py", "import matplotlib.pyplot as plt\nfrom qexplore.exploration import x"),
        ("cli/app.py", "print('a')"),
        ("__main__.py", "from qexplore.cli import main"),
    ],
)
def test_allowed_import_is_not_reported(plant, file, source):
    assert broken_rules(plant({file: source})) == []


@pytest.mark.parametrize(
    "source",
    [
        "from qexplore.quant.formats import x",
        "import qexplore.quant.formats",
        "from ..quant.formats import x",
        "from qexplore.quant import formats",
        "from ..quant import formats as f",
        "def f():\n    from qexplore.quant.formats import x",
        "if TYPE_CHECKING:\n    from qexplore.quant import formats",
    ],
)
def test_an_import_past_the_face_of_another_room_is_reported(plant, source):
    line = len(source.splitlines())

    assert broken_rules(plant({"model/hooks.py": source})) == [
        f"qexplore/model/hooks.py:{line} imports qexplore/quant/formats.py: {PAST_FACE}"
    ]


def test_a_function_called_like_its_file_is_no_way_past_the_face(plant):
    face = "from qexplore.quant.formats import formats"

    assert (
        broken_rules(plant({"quant/__init__.py": face, "model/hooks.py": "from qexplore.quant import formats"})) == []
    )


CIRCLES = {
    "two files": {"a": "from qexplore.quant.b import x", "b": "from qexplore.quant.a import y"},
    "as modules": {"a": "from . import b", "b": "import qexplore.quant.a"},
    "under a condition": {"a": "try:\n    from .b import x\nexcept ImportError:\n    pass", "b": "from .a import y"},
    "in a class": {"a": "class A:\n    from .b import x", "b": "from .a import y"},
}


@pytest.mark.parametrize("files", CIRCLES.values(), ids=CIRCLES)
def test_files_of_a_room_that_import_each_other_are_reported_once(plant, files):
    planted = plant({f"quant/{name}.py": source for name, source in files.items()})

    assert broken_rules(planted) == ["qexplore/quant: a.py, b.py import each other in a circle"]


def test_a_long_circle_and_one_through_the_face_are_reported(plant):
    long = plant({f"quant/{one}.py": f"from .{other} import x" for one, other in ("ab", "bc", "ca", "da")})
    assert broken_rules(long) == ["qexplore/quant: a.py, b.py, c.py import each other in a circle"]

    face = plant({"model/__init__.py": "from qexplore.model.hooks import x", "model/hooks.py": "from . import y"})
    assert "qexplore/model: __init__.py, hooks.py import each other in a circle" in broken_rules(face)


@pytest.mark.parametrize(
    "back",
    [
        "if TYPE_CHECKING:\n    from .a import y",
        "def f():\n    from .a import y",
        "async def f():\n    from .a import y",
    ],
)
def test_what_waits_until_it_is_used_makes_no_circle(plant, back):
    assert broken_rules(plant({"quant/a.py": "from .b import x", "quant/b.py": back})) == []


def test_a_floor_without_a_room_is_reported(plant):
    missing = floors_without_rooms(plant({}))

    assert {"search", "cli", "__main__"} <= set(missing)
    assert not {"errors", "front", "quant"} & set(missing)


def test_floors_are_read_from_the_table_of_the_document():
    text = "| floor | rooms | holds |\n|---|---|---|\n| 0 | `errors` `_table` | words |\n| 8 | `cli` | `print` |\n"

    assert floors_of_document(text) == {0: ["errors", "_table"], 8: ["cli"]}
