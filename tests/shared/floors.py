"""The floors of the package and what else CONTRIBUTING.md says of its files, read from them without importing any."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
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
BESIDE_PACKAGE = ("tests", "benchmarks", "experiments")
"""Folders whose files keep to the limit as those of the package do."""
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


def long_files_beside(repository: Path) -> Iterator[str]:
    """Files beside the package that are too long; a folder in which there are none is named, for it has moved."""
    for folder in BESIDE_PACKAGE:
        files = sorted((repository / folder).rglob("*.py"))
        if not files:
            yield f"{folder}: no file to look at"
        for file in files:
            yield from too_long(file.relative_to(repository).as_posix(), file.read_text(encoding="utf-8"))


def too_long(here: str, source: str) -> Iterator[str]:
    if (length := len(source.splitlines())) > MAX_LINES:
        yield f"{here}: {length} lines, the limit is {MAX_LINES}"


def check_file(package: Path, file: Path) -> Iterator[str]:
    source = (package / file).read_text(encoding="utf-8")
    tree = ast.parse(source)
    here = f"{package.name}/{file.as_posix()}"

    if len(file.parts) > 2:
        yield f"{here}: rooms do not nest"
    yield from too_long(here, source)
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
