"""Files of one room do not import each other in a circle, wherever in the file the import stands."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "qexplore"
ROOMS = ("model", "preparation")


def imports_within(room: Path) -> dict[str, set[str]]:
    """For each file of a room but its face, the files of the room that it imports from; all imports are absolute."""
    found: dict[str, set[str]] = {}
    for file in room.glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        places = [str(node.module).split(".") for node in nodes]
        found[file.stem] = {place[2] for place in places if place[:2] == ["qexplore", room.name] and len(place) > 2}
    found.pop("__init__", None)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_files_of_a_room_stand_on_each_other_without_a_circle(room: str) -> None:
    assert list(TopologicalSorter(imports_within(PACKAGE / room)).static_order())


def test_a_circle_is_found_also_inside_functions_and_for_types_alone(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (room / "one.py").write_text("if TYPE_CHECKING:\n    from qexplore.room.two import Two\n")
    (room / "two.py").write_text("def two():\n    from qexplore.room.one import One\n")
    with pytest.raises(CycleError):
        TopologicalSorter(imports_within(room)).prepare()
