"""The HTML of a page: its parts put into one file that neither asks for nor sends anything."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources

from qexplore._optional import import_optional
from qexplore.report._page_record import PageRecord

_SCRIPTS = (
    "page_words.js",
    "page_charts.js",
    "page_uniform.js",
    "page_layers.js",
    "page_point.js",
    "page_table.js",
    "page.js",
)
_IN_SCRIPT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
"""JSON stands in a script element, which ends at the first end tag, be it in a text or not."""


def page_html(record: PageRecord) -> str:
    """The whole page.

    Raises:
        MissingPackageError: plotly is not installed.
    """
    scripts = [_plotly(), "\n".join(map(_part, _SCRIPTS))]
    parts = {
        "policy": _policy(scripts),
        "title": html.escape(record.title),
        "style": _part("page.css"),
        "data": page_json(record),
        "plotly": scripts[0],
        "script": scripts[1],
    }
    page = _part("page.html")
    # One pass: what is put in is not looked at again.
    first, *rest = page.split("{{")
    return first + "".join(parts[name] + text for name, _, text in (piece.partition("}}") for piece in rest))


def page_json(record: PageRecord) -> str:
    """The data of a page as JSON that can stand in a script element."""
    text = json.dumps(record, default=vars, allow_nan=False, separators=(",", ":"))
    for letter, escaped in _IN_SCRIPT.items():
        text = text.replace(letter, escaped)
    return text


def _policy(scripts: list[str]) -> str:
    """Only these very scripts run, and nothing is loaded from or sent to anywhere."""
    digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _part(name: str) -> str:
    return resources.files("qexplore.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    offline = import_optional("plotly.offline", extra="report", purpose="The page of a report")
    text: str = offline.get_plotlyjs()
    return text
