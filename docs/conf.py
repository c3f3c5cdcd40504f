"""Sphinx settings of the guide: the pages of this folder as they are, and the public names from their docstrings."""

import importlib

import qexplore

project = "qexplore"
author = "qexplore contributors"
copyright = "qexplore contributors, Apache License 2.0"
version = release = qexplore.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "qexplore"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]

# The anchors of GitHub, so that a link works there and here.
myst_heading_anchors = 4
# `name` in a docstring is a link where there is such a name, and code where there is none.
default_role = "py:obj"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # a type such as numpy.str_ would be read as a link

linkcheck_anchors = False
linkcheck_timeout = 20
linkcheck_retries = 2

MARK = "<!-- public names -->"


def reference() -> str:
    """Every name of ``qexplore.__all__``, by the room that it is at home in: first as a table, then each in full."""
    rooms = {room: sorted(names.split(), key=str.lower) for room, names in qexplore._NAMES_BY_ROOM.items()}
    rooms = {room.strip("_"): rooms[room] for room in sorted(rooms, key=lambda room: room.strip("_"))}
    homes = {name.strip("_"): name for name in qexplore._NAMES_BY_ROOM}
    rows = [f"| [{room}](#{room}) | {', '.join(map(link, names))} |" for room, names in rooms.items()]
    parts = ["\n".join(["| room | names |", "|---|---|", *rows, ""])]
    for room, names in rooms.items():
        if homes[room] not in qexplore._ROOMS:  # which the page has as a whole
            says = (importlib.import_module(f"qexplore.{homes[room]}").__doc__ or "").strip().splitlines()[0]
            lines = [line for name in names for line in directive(name)]
            head = [f"## {room}", "", says, "", "```{eval-rst}", ".. currentmodule:: qexplore", ""]
            parts.append("\n".join([*head, *lines, "```", ""]))
    return "\n".join(parts)


def link(name: str) -> str:
    """The name, leading to where it is documented."""
    home = "qexplore.errors" if name.endswith("Error") else "qexplore"
    return f"{{py:obj}}`{name} <{home}.{name}>`"


def directive(name: str) -> list[str]:
    """How one name is documented: a class with its members, a function, or a value."""
    value = getattr(qexplore, name)
    if isinstance(value, type):
        return [f".. autoclass:: {name}", "   :members:", ""]
    return [f".. auto{'function' if callable(value) else 'data'}:: {name}", ""]


def fill_in(app: object, docname: str, source: list[str]) -> None:
    """Put the reference where the page asks for it."""
    source[0] = source[0].replace(MARK, reference())


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("source-read", fill_in)
