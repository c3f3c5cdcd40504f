"""The guide says what is there: its links lead somewhere, its names and numbers are those of the code."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typing_extensions import get_type_hints

import qexplore as qx
from qexplore import predicates, study

ROOT = Path(__file__).resolve().parent.parent
GUIDE = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *GUIDE, *sorted(map(str, Path("experiments").glob("*/README.md")))]
DOCUMENTS = [name for name in DOCUMENTS if (ROOT / name).is_file()]


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def prose_of(document: str) -> str:
    """Without what stands between fences, where a bracket is code."""
    return re.sub(r"^```.*?^```$", "", text_of(document), flags=re.DOTALL | re.MULTILINE)


# ----------------------------------------------------------------------------------------------------- links


def anchors(document: str) -> set[str]:
    """What GitHub and the built guide call the headings of a document."""
    headings = re.findall(r"^#{1,6} (.*)$", prose_of(document), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


def broken_links(document: str, prose: str) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / document).parent / file if file else ROOT / document
        if not path.exists() or (anchor and anchor not in anchors(str(path.resolve().relative_to(ROOT)))):
            yield target


HOSTS = {"arxiv.org", "docs.nvidia.com", "github.com", "jfly.uni-koeln.de"}
"""Where links lead that cannot be opened without a network: a new one is looked at once, by hand, and named here."""


@pytest.mark.parametrize("document", [*DOCUMENTS, "setup.py", "docs/conf.py"])
def test_links_to_elsewhere_are_whole_and_lead_to_known_hosts(document):
    elsewhere = [
        urlsplit(link.rstrip(".,;:")) for link in re.findall(r"(?:https?|ftp)://[^\s<>()\"'`\]]+", prose_of(document))
    ]
    assert [one.geturl() for one in elsewhere if one.scheme != "https" or one.hostname not in HOSTS] == []
    assert [one.geturl() for one in elsewhere if one.path in ("", "/") or "//" in one.path] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_within_the_project_lead_to_a_file_and_a_heading(document):
    assert list(broken_links(document, prose_of(document))) == []


def test_a_link_to_a_missing_file_or_heading_is_found():
    prose = "[a](missing.md) [b](fronts.md#no-such-heading) [c](fronts.md#what-a-front-saves) [d](https://x.org/y)"
    assert list(broken_links("docs/index.md", prose)) == ["missing.md", "fronts.md#no-such-heading"]


def test_every_page_is_in_the_index():
    listed = re.findall(r"^(\w+)$", text_of("docs/index.md"), flags=re.MULTILINE)
    assert sorted(listed) == sorted({Path(name).stem for name in GUIDE} - {"index"})


# ----------------------------------------------------------------------------------------------------- names


ELSEWHERE = {"torch", "nn", "np", "F", "json", "pd"}
"""What calls in the documents begin with that are not ours."""


@functools.cache
def callables() -> dict[str, list[object]]:
    """Public functions, classes and methods by their last name."""
    found: dict[str, list[object]] = {}
    for room in (qx, predicates, study):
        for name in dir(room):
            value = getattr(room, name)
            if name.startswith("_") or not callable(value) or "qexplore" not in getattr(value, "__module__", ""):
                continue
            found.setdefault(name, []).append(value)
            for method in dir(value) if isinstance(value, type) else ():
                if not method.startswith("_") and callable(getattr(value, method, None)):
                    found.setdefault(method, []).append(getattr(value, method))
    return found


def takes(function: object, argument: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    rest = next((one.name for one in parameters.values() if one.kind is one.VAR_KEYWORD), None)
    if argument in parameters or rest is None:
        return argument in parameters
    handed_on = get_type_hints(inspect.unwrap(function)).get(rest)
    told = [one for one in typing.get_args(handed_on) if typing.is_typeddict(one)]  # Unpack[...]
    return any(argument in get_type_hints(one) for one in told) or (not told and is_handed_on(function, argument))


def is_handed_on(function: object, argument: str) -> bool:
    """Whether an argument that a signature does not name is one of the docstring, or of the functions it names."""
    says = inspect.getdoc(function) or ""
    named = [one for name in re.findall(r"`(\w+)`", says) for one in callables().get(name, ())]
    return f"``{argument}" in says or any(argument in inspect.signature(one).parameters for one in named)


def calls(text: str) -> Iterator[tuple[str, str]]:
    """``(function, argument)`` of each call in the code of a document: of whole blocks, and between backticks."""
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+\([^`]*\))`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    for code in [*blocks, *(re.sub(r"=(?=[,)])", "=0", span) for span in spans)]:
        try:
            tree = ast.parse(code)
        except SyntaxError:  # a part of a call, or another language
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).partition(".")[0] not in ELSEWHERE:
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                yield from ((name, keyword.arg) for keyword in node.keywords if keyword.arg)


def unknown(text: str) -> list[str]:
    names = [name for name in re.findall(r"\bqx\.(\w+)", text) if not hasattr(qx, name)]
    names += [
        name
        for name in re.findall(r"(?<!/)\bpredicates\.(\w+)(?!\.)", text)
        if name not in ("md", "py") and not hasattr(predicates, name)
    ]
    return names + [
        f"{function}({argument}=)"
        for function, argument in calls(text)
        if function in callables() and not any(takes(one, argument) for one in callables()[function])
    ]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_and_arguments_in_a_document_are_there(document):
    assert unknown(text_of(document)) == []


def test_names_and_arguments_that_are_not_there_are_found():
    text = (
        "`qx.explor`, `qx.explore(problem, seeds=1)` and `compare_workflows(stack=)`\n```python\nqx.fit(m, drop=1)\n```"
    )
    assert unknown(text) == ["explor", "fit(drop=)", "explore(seeds=)", "compare_workflows(stack=)"]


# --------------------------------------------------------------------------------------------------- numbers


def test_figures_of_the_readme_are_those_of_the_performance_page():
    said = text_of("README.md").partition("## What makes it different")[2].partition("\n## ")[0]
    items = [item for item in re.split(r"^- ", said, flags=re.MULTILINE) if "performance.md" in item]
    known = text_of("docs/performance.md")
    figures = [number for item in items for number in re.findall(r"(?<![\w-])\d[\d,.]*\d|(?<![\w-])\d", item)]
    assert len(figures) >= 8
    assert [number for number in figures if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]*\d)", known)] == []


def test_the_short_way_in_the_readme_has_ten_lines_at_most():
    (block,) = re.findall(r"^```python\n(.*?)^```", text_of("README.md"), flags=re.DOTALL | re.MULTILINE)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10


def test_extras_of_the_start_page_are_those_of_the_package():
    extras = re.findall(r'^        "([\w-]+)": \[', text_of("setup.py"), flags=re.MULTILINE)
    table = text_of("docs/start.md").partition("| extra | brings | for |")[2].partition("\n\n")[0]
    told = [name for row in table.splitlines() for name in re.findall(r"`([\w-]+)`", row.split(" | ")[0])]
    assert sorted([*told, "dev"]) == sorted(extras)


@pytest.mark.parametrize("script", sorted(ROOT.glob("experiments/*/run.py")), ids=lambda path: path.parent.name)
def test_experiment_says_question_command_time_and_result(script):
    says = (script.parent / "README.md").read_text(encoding="utf-8")
    assert f"python experiments/{script.parent.name}/run.py" in says
    assert [part for part in ("**Question.**", "**Time.**", "**Result") if part not in says] == []


# ----------------------------------------------------------------------------------------------------- pages


@pytest.mark.slow
def test_guide_builds_without_a_warning_and_documents_every_public_name(tmp_path):
    built = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "trees"), "docs"]
    done = subprocess.run([*command, str(built)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((built / "objects.inv").read_bytes(), uri="")
    documented = {name for kind, names in inventory.data.items() if kind.startswith("py:") for name in names}
    wanted = {f"qexplore.{name}" for name in qx.__all__} - {"qexplore.QExploreError"}  # at home in errors
    wanted |= {f"qexplore.errors.{name}" for name in vars(qx.errors) if name.endswith("Error")}
    plain = [
        name for name, value in vars(predicates).items() if getattr(value, "__module__", "") == predicates.__name__
    ]
    shown = {"Predicate", "by_name", "by_regex", "by_type", "everything", "leaves", "select_modules", "weighted"}
    assert shown <= {*plain, "everything", "leaves", "weighted"}
    wanted |= {f"qexplore.predicates.{name}" for name in shown}
    assert sorted(wanted - documented) == []
