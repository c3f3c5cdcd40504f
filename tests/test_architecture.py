"""The floors of the package, read from its imports without importing it. CONTRIBUTING.md explains them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "qexplore"

# A room is a module or a subpackage right below the package's root.
FLOORS = {
    0: [
        "errors",
        "_arguments",
        "_choices",
        "_clock",
        "_coverage",
        "_direction",
        "_fingerprint",
        "_functions",
        "_optional",
        "_pickling",
        "_progress",
        "_quiet",
        "_random",
        "_references",
        "_sizes",
        "_table",
        "_trees",
        "_version",
        "_warnings",
        "_yaml",
    ],
    1: ["predicates", "quant", "metrics", "front", "tape", "_onnx"],
    2: ["model"],
    3: ["preparation", "cost", "evaluation"],
    4: ["search", "training", "stacks"],
    5: ["study", "distributed"],
    6: ["exploration", "workflows", "export"],
    7: ["report"],
    8: ["config", "pipeline"],
    9: ["cli"],
    10: ["__main__"],  # the door to cli, nothing else
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# Plain words that import no room but errors: every file may use them, those of floor 0 too.
OPEN_TO_ALL = {"errors", "_optional", "_version"}

# What is used in one place only: a room, or a single file.
HOME_OF_PACKAGE = {
    "pymoo": "search",
    "pytorch_quantization": "quant/upstream.py",
    "matplotlib": "report",
    "tqdm": "_progress.py",
    "torch.ao": "stacks/torch_ao.py",
    "torchao": "stacks",
    "transformers": "pipeline",
    "click": "cli",
    "plotly": "report",
    "sqlite3": "study",
    "ray": "distributed",
}
HOME_OF_CALL = {
    "register_forward_hook": "model/hooks.py",
    "register_forward_pre_hook": "model/hooks.py",
    "print": "cli",
}
MAX_LINES = 400
PAST_FACE = "import what the room shows in its __init__.py, not from behind it"


def broken_rules(package: Path) -> list[str]:
    """Check every file of a package; the root's own `__init__.py` may import from anywhere."""
    files = sorted(path.relative_to(package) for path in package.rglob("*.py"))
    problems = [problem for file in files if file != Path("__init__.py") for problem in check_file(package, file)]
    return problems + list(circles(package, files))


def floors_without_rooms(package: Path) -> list[str]:
    """Rows of FLOORS for which there is no module and no folder."""
    return [
        room
        for room in FLOOR_OF
        if not any((package / file).is_file() for file in (f"{room}.py", f"{room}/__init__.py"))
    ]


def floors_of_document(text: str) -> dict[int, list[str]]:
    """Rooms by floor, from the table of CONTRIBUTING.md."""
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", text, flags=re.MULTILINE)
    return {int(floor): re.findall("`(\\w+)`", rooms) for floor, rooms in rows}


def check_file(package: Path, file: Path) -> Iterator[str]:
    source = (package / file).read_text(encoding="utf-8")
    tree = ast.parse(source)
    here = f"{package.name}/{file.as_posix()}"

    if len(file.parts) > 2:
        yield f"{here}: rooms do not nest"
    if (length := len(source.splitlines())) > MAX_LINES:
        yield f"{here}: {length} lines, the limit is {MAX_LINES}"
    if room_of(file) not in FLOOR_OF:
        yield f"{here}: the room {room_of(file)!r} has no floor; give it one in FLOORS and in CONTRIBUTING.md"
        return

    for line, module, names in imported_modules(tree, package.name, file):
        if rule := broken_by_import(package.name, file, module):
            yield f"{here}:{line} imports {name_in_message(package, module)}: {rule}"
        else:
            for behind in behind_a_face(package, file, module, names):
                yield f"{here}:{line} imports {name_in_message(package, behind)}: {PAST_FACE}"
    for line, function in called_functions(tree):
        home = HOME_OF_CALL.get(function)
        if home and not is_at_home(file, home):
            yield f"{here}:{line} calls {function}: only {package.name}/{home} may"


def broken_by_import(package_name: str, file: Path, module: str) -> str | None:
    """Name the rule that importing `module` from `file` breaks, if any."""
    top, _, inside = module.partition(".")
    if top != package_name:
        home = next((home for name, home in HOME_OF_PACKAGE.items() if f"{module}.".startswith(f"{name}.")), None)
        return f"only {package_name}/{home} may" if home and not is_at_home(file, home) else None
    if not inside:
        return "import from the room itself, not from the package root"

    own, other = room_of(file), inside.partition(".")[0]
    if other == own or other in OPEN_TO_ALL:
        return None
    if other not in FLOOR_OF:
        return f"the room {other!r} has no floor"
    if FLOOR_OF[other] > FLOOR_OF[own]:
        return f"floor {FLOOR_OF[own]} may not import from the higher floor {FLOOR_OF[other]}"
    if FLOOR_OF[other] == FLOOR_OF[own]:
        return f"two rooms of floor {FLOOR_OF[own]} may not import from each other"
    return None


def behind_a_face(package: Path, file: Path, module: str, names: list[str]) -> Iterator[str]:
    """The files of another room that an import reaches past what that room's `__init__.py` shows."""
    top, _, inside = module.partition(".")
    room, _, within = inside.partition(".")
    if top != package.name or room in ("", room_of(file)):
        return
    if within:
        yield module
    # A face may show a function that is called like the file it stands in.
    shown = set(names_bound_by(package / room / "__init__.py"))
    yield from (f"{module}.{name}" for name in names if (package / room / f"{name}.py").is_file() and name not in shown)


def names_bound_by(face: Path) -> Iterator[str]:
    """What the imports of a file bind."""
    for node in ast.walk(ast.parse(face.read_text(encoding="utf-8"))) if face.is_file() else ():
        if isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def circles(package: Path, files: list[Path]) -> Iterator[str]:
    """Files of one room that import each other when they are loaded.

    Imports for type checkers are none, nor is one inside a function: that one says itself that it has to wait.
    """
    arrows = {file: set(files_imported_at_load(package, file)) & set(files) for file in files if len(file.parts) == 2}
    reached = {file: reached_from(arrows, file) for file in arrows}
    for file in arrows:
        circle = sorted(other for other in reached[file] if file in reached[other])
        if circle and circle[0] == file:  # named once, at the first of its files
            names = ", ".join(one.name for one in circle)
            yield f"{package.name}/{file.parts[0]}: {names} import each other in a circle"


def reached_from(arrows: dict[Path, set[Path]], start: Path) -> set[Path]:
    """Every file that one leads to, over any number of arrows."""
    reached: set[Path] = set()
    ahead = [start]
    while ahead:
        new = arrows[ahead.pop()] - reached
        reached |= new
        ahead += new
    return reached


def files_imported_at_load(package: Path, file: Path) -> Iterator[Path]:
    """Files of its own room that a file imports when it is loaded."""
    room = file.parts[0]
    tree = without_what_waits(ast.parse((package / file).read_text(encoding="utf-8")))
    for _, module, names in imported_modules(tree, package.name, file):
        if module == f"{package.name}.{room}":
            inner = [Path(room, f"{name}.py") for name in names]
            is_file = [(package / one).is_file() for one in inner]
            yield from (one for one, found in zip(inner, is_file, strict=True) if found)
            if not all(is_file):
                yield Path(room, "__init__.py")
        elif module.startswith(f"{package.name}.{room}."):
            yield Path(room, f"{module.split('.')[2]}.py")


def without_what_waits(tree: ast.Module) -> ast.Module:
    """The statements that run when a file is loaded: neither those of functions nor those for type checkers."""

    class Pruned(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    return Pruned().visit(tree)


def imported_modules(tree: ast.AST, package_name: str, file: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Line and absolute name of every imported module and the names taken from it, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # The parent package of a file is one level up: `from .` in quant/formats.py is qexplore.quant.
            parents = [package_name, *file.parent.parts]
            above = parents[: len(parents) + 1 - node.level] if node.level else []
            yield node.lineno, ".".join([*above, *filter(None, [node.module])]), [alias.name for alias in node.names]


def called_functions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, node.func.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.lineno, node.func.attr


def room_of(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


def is_at_home(file: Path, home: str) -> bool:
    return home in (file.as_posix(), room_of(file))


def name_in_message(package: Path, module: str) -> str:
    """The file of a module of the package, so that both ends of a broken rule can be opened."""
    path = package.parent.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file.relative_to(package.parent).as_posix()
    return module


def test_package_keeps_to_its_floors():
    problems = broken_rules(PACKAGE)
    assert not problems, "\n" + "\n".join(problems)


def test_every_row_of_the_floors_has_its_room():
    assert floors_without_rooms(PACKAGE) == []


def test_contributing_shows_the_same_floors():
    shown = floors_of_document((REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert shown == {floor: rooms for floor, rooms in FLOORS.items() if rooms != ["__main__"]}


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
