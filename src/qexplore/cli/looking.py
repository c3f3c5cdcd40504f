"""``qexplore show``, ``pick``, ``diff`` and ``report``: what is read back, nothing is measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qexplore._table import text_table
from qexplore.cli.drawing import write_page
from qexplore.cli.options import PATH, example, of_run, picking, printing
from qexplore.cli.output import plain, say, widths_of
from qexplore.cli.running import config_of, write_json
from qexplore.cli.sources import in_flags, is_study, picked, read_front, study_front

if TYPE_CHECKING:
    from qexplore.front import FrontPoint
    from qexplore.study import Study

_MOST_POINTS = 40


@click.command(
    short_help="A front or a study as a table, also while it runs.",
    epilog=example("qexplore show runs/network.db --follow", "qexplore show front.json --csv > front.csv"),
)
@click.argument("source", type=PATH)
@of_run
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=_MOST_POINTS,
    show_default=True,
    help="Points that are shown; 0 for all.",
)
@click.option("--csv", "as_csv", is_flag=True, help="The front as CSV, every point and every width.")
@click.option("--follow", is_flag=True, help="Show a study again whenever it has grown, until it ends.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often --follow looks.",
)
@printing
def show(source: Path, run: int | None, limit: int, as_csv: bool, follow: bool, every: float, as_json: bool) -> None:
    """Show SOURCE, a front file or a study, as a table; a study also while it is written."""
    if as_csv and as_json or follow and (as_csv or as_json):
        raise click.UsageError("give one of --csv, --json and --follow")
    if as_csv:
        click.echo(read_front(source, run).to_csv(), nl=False)
    elif follow:
        _follow(source, run, limit, every)
    else:
        text, facts = _look(source, run, limit, with_facts=as_json)
        say(text, facts, as_json=as_json)


def _look(source: Path, run: int | None, limit: int, *, with_facts: bool = False) -> tuple[str, Any]:
    """Text and facts of a front or a study."""
    if not is_study(source):
        saved = read_front(source, run)
        return saved.table(most=limit or None), {"front": saved}
    from qexplore.study import Study

    with Study.open(source) as study:
        text, front = str(study), study_front(study, run) if study.runs else None
        runs = [one for one in study.runs if run in (None, one.id)]
        facts = {"study": source, "runs": [_run_facts(one) for one in runs], "front": front} if with_facts else None
    return "\n\n".join([text, *([] if front is None else [front.table(most=limit or None)])]), facts


def _run_facts(run: Any) -> dict[str, Any]:
    names = (
        "id",
        "state",
        "stopped_by",
        "algorithm",
        "seconds",
        "num_evaluations",
        "hypervolume",
        "budget",
        "notes",
        "coverage",
    )
    return {name: getattr(run, name) for name in names}


def _follow(source: Path, run: int | None, limit: int, every: float) -> None:
    """Show a study until no run of it is running; on a terminal each time in the place of the last."""
    from qexplore.study import Study

    if not is_study(source):
        raise click.UsageError(f"--follow is for studies, and '{source}' is none")
    before = ""
    while True:
        with Study.open(source) as study:
            is_running = _is_running(study)  # before it is looked at, so that its end is seen
        text, _ = _look(source, run, limit)
        if text != before:
            click.clear()
            say(text, None, as_json=False)
        if not is_running:
            return
        before = text
        time.sleep(every)


def _is_running(study: Study) -> bool:
    return any(one.state == "running" for one in study.runs)


@click.command(
    short_help="Take a point: its widths, as a file.",
    epilog=example(
        "qexplore pick runs/network.db --accuracy 0.9 --output widths.json",
        "qexplore pick front.json --cost model_bytes=65536 --cost bops=2e9",
    ),
)
@click.argument("source", type=PATH)
@picking
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Write the widths there, as JSON by name of the point.")
@click.option("--manifest", type=PATH, metavar="FILE", help="Write a widths manifest there, with ranges; calibrates.")
@click.option("--config", type=PATH, help="The configuration, for --manifest; without it the one beside the study.")
@printing
def pick(
    source: Path, run: int | None, output: Path | None, manifest: Path | None, config: Path | None, as_json: bool,
    **picks: Any,
) -> None:  # fmt: skip
    """Take a point of SOURCE, a front file or a study, and show its widths.

    In Python: model.num_bits = json.load(open("widths.json")), or qx.load_manifest("network.widths.json").apply(model).
    """
    point = picked(read_front(source, run), **picks)
    if output is not None:
        write_json(output, widths_of(point))
    if manifest is not None:
        _write_manifest(point, config_of(source, config), manifest)
    written = {"output": output, "manifest": manifest}
    told = [f"written: {path}" for path in written.values() if path is not None]
    say("\n".join([_described(point), *told]), {"point": point, **written}, as_json=as_json)


def _described(point: FrontPoint) -> str:
    """The point in a line, and a line for each width, in which a long name is last."""
    head = str(point).partition("; num_bits:")[0]
    widths = [(str(width), name) for name, width in widths_of(point).items()]
    return f"{head}\n{text_table(('num_bits', 'point'), widths, numeric=(0,))}"


def _write_manifest(point: FrontPoint, config: Path, path: Path) -> None:
    from qexplore.config import calibrated, read_config
    from qexplore.export import save_manifest

    model = calibrated(read_config(config))
    point.apply_to(model)
    save_manifest(model, path)


@click.command(short_help="Compare two fronts.", epilog=example("qexplore diff runs/before.db runs/after.db --at 3"))
@click.argument("source", type=PATH)
@click.argument("other", type=PATH)
@click.option("--at", metavar="N[,M]", help="Points whose layers are compared: of the first front, and of the other.")
@click.option("--cost", metavar="NAME", help="The cost by which points are paired.")
@printing
def diff(source: Path, other: Path, at: str | None, cost: str | None, as_json: bool) -> None:
    """Compare two fronts, in files or studies, point by point and layer by layer."""
    fronts = read_front(source), read_front(other)
    with in_flags():
        found = fronts[0].diff(fronts[1], at=_indices(at), cost=cost)
    say(found, plain(found), as_json=as_json)


def _indices(text: str | None) -> Any:
    if text is None:
        return None
    try:
        numbers = tuple(int(one) for one in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 2):
        raise click.UsageError(f"--at must be the number of a point, or two with a comma between, got '{text}'")
    return numbers[0] if len(numbers) == 1 else numbers


@click.command(short_help="Write the report page.", epilog=example("qexplore report runs/network.db --output run.html"))
@click.argument("sources", type=PATH, nargs=-1, required=True)
@click.option(
    "-o", "--output", type=PATH, metavar="FILE", help="The page.  [default: the first source, ending in .html]"
)
@printing
def report(sources: tuple[Path, ...], output: Path | None, as_json: bool) -> None:
    """Write SOURCES, studies or front files, as one HTML page that works offline; several stand side by side."""
    path = write_page(sources, output or sources[0].with_suffix(".html"))
    say(f"written: {path}", {"page": path}, as_json=as_json)
