"""The page that shows the schema shows the one there is."""

import re
from pathlib import Path

from qexplore.study.schema import APPLICATION_ID, COLUMNS, SCHEMA_VERSION

PAGE = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_the_page_shows_every_table_and_column_in_order():
    shown = {
        table: re.findall(r"`(\w+)`", columns) for table, columns in re.findall(r"^\| `(\w+)` \| (`.*?) \|", PAGE, re.M)
    }
    there = {table: [column.split()[0] for column in columns.split(", ")] for table, columns in COLUMNS.items()}
    assert shown == there


def test_the_page_names_version_and_kind():
    assert f"Schema {SCHEMA_VERSION}. `application_id` is {APPLICATION_ID:#x}" in PAGE
