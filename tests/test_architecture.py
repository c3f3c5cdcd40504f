"""The floors of the package, read from its imports without importing it. CONTRIBUTING.md explains them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "qexplore"

# A room is a module or a subpackage right below the package's root.
FLOORS = {
    0: [
        "errors",
        "_arguments",
        "_choices",
        "_direction",
        "_optional",
        "_progress",
        "_quiet",
        "_random",
        "_table",
        "_version",
    ],
    1: ["predicates", "quant", "metrics", "front", "_onnx"],
    2: ["model"],
    3: ["preparation", "cost", "evaluation"],
    4: ["search", "training", "stacks"],
    6: ["exploration", "workflows", "export"],
    7: ["report", "pipeline"],
    8: ["cli"],
    9: ["__main__"],  # the door to cli, nothing else
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# Plain words without imports of their own: every file may use them, those of floor 0 too.
OPEN_TO_ALL = {"errors", "_version"}

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
}
HOME_OF_CALL = {
    "register_forward_hook": "model/hooks.py",
    "register_forward_pre_hook": "model/hooks.py",
    "print": "cli",
}
MAX_LINES = 400


def broken_rules(package: Path) -> list[str]:
    """Check every file of a package; the root's own `__init__.py` may import from anywhere."""
    files = sorted(path.relative_to(package) for path in package.rglob("*.py"))
    return [problem for file in files if file != Path("__init__.py") for problem in check_file(package, file)]


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

    for line, module in imported_modules(tree, package.name, file):
        if rule := broken_by_import(package.name, file, module):
            yield f"{here}:{line} imports {name_in_message(package, module)}: {rule}"
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


def imported_modules(tree: ast.AST, package_name: str, file: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every imported module, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # The parent package of a file is one level up: `from .` in quant/formats.py is qexplore.quant.
            parents = [package_name, *file.parent.parts]
            above = parents[: len(parents) + 1 - node.level] if node.level else []
            yield node.lineno, ".".join([*above, *filter(None, [node.module])])


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
            "from qexplore._optional import x",
            ":1 imports qexplore._optional: two rooms of floor 0 may not import from each other",
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
        ("model/hooks.py", "from ..quant.formats import x\nm.register_forward_hook(f)"),
        ("search/problem.py", "from pymoo.core.problem import Problem\nfrom qexplore.front import Front"),
        ("_progress.py", "def bar():\n    from tqdm import tqdm"),
        ("report/drawings.py", "import matplotlib.pyplot as plt\nfrom qexplore.exploration import x"),
        ("cli/app.py", "print('a')"),
        ("__main__.py", "from qexplore.cli import main"),
    ],
)
def test_allowed_import_is_not_reported(plant, file, source):
    assert broken_rules(plant({file: source})) == []
