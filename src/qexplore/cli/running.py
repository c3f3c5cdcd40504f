"""``qexplore explore``, ``resume`` and ``fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qexplore.cli.commands import INTERRUPTED, TERMINATED
from qexplore.cli.drawing import write_page
from qexplore.cli.options import BUDGET, PATH, config_flags, example, given, of_run, printing
from qexplore.cli.output import exploration_facts, say, widths_of
from qexplore.errors import ConfigError

if TYPE_CHECKING:
    from qexplore.config import ReadConfig
    from qexplore.exploration import Exploration

_CODES = {"interrupt": INTERRUPTED, "SIGTERM": TERMINATED}


@click.command(
    short_help="Search the widths that a configuration asks for.",
    epilog=example("qexplore explore network.yaml --min-accuracy 0.9 --max-evaluations 200"),
)
@click.argument("config", type=PATH)
@config_flags()
@printing
@click.pass_context
def explore(ctx: click.Context, /, config: Path, as_json: bool, **flags: Any) -> None:
    """Search the widths that CONFIG, a YAML file, asks for.

    Every field of the file is a flag too, and a flag comes before the file. Everything that is measured is written to a
    study, runs/NAME.db unless the file says otherwise; the same command goes on where one was stopped.
    """
    from qexplore.config import calibrated, posed, read_config, search_arguments, study_of
    from qexplore.exploration import explore as explored

    read = read_config(config, given(flags))
    study = study_of(read)
    problem = posed(read, calibrated(read))
    keep = _KeepBeside(study, read, config)
    exploration = explored(problem, study=study, callbacks=[keep], **search_arguments(read))
    keep()
    _tell(ctx, exploration, study, read, as_json)


@click.command(
    short_help="Go on with a study that was stopped.",
    epilog=example("qexplore resume runs/network.db --max-evaluations 800"),
)
@click.argument("study", type=PATH)
@click.option("--config", type=PATH, help="The configuration; without it the one beside the study.")
@config_flags(*BUDGET)
@of_run
@printing
@click.pass_context
def resume(
    ctx: click.Context, /, study: Path, config: Path | None, run: int | None, as_json: bool, **flags: Any
) -> None:
    """Go on with STUDY, to the result of a search that was never stopped.

    The configuration that it was begun with lies beside it, in STUDY.config.yaml; run this in the same folder, or where
    its factories can be imported.
    """
    from qexplore.config import calibrated, posed, read_config, report_arguments
    from qexplore.exploration import resume as resumed

    said = given(flags)
    read = read_config(config_of(study, config), said)
    limits: dict[str, Any] = {name: getattr(read.config, name) if name in said else None for name in BUDGET[:3]}
    problem = posed(read, calibrated(read))
    run = _last_search(study) if run is None else run
    exploration = resumed(study, problem, run=run, **limits, **report_arguments(read))
    _tell(ctx, exploration, study, read, as_json)


@click.command(
    short_help="Search one point instead of a front.",
    epilog=example("qexplore fit network.yaml --max-drop 0.01 --output widths.json"),
)
@click.argument("config", type=PATH)
@config_flags()
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Write the widths there, as JSON.")
@printing
def fit(config: Path, output: Path | None, as_json: bool, **flags: Any) -> None:
    """Search the one point that CONFIG asks for.

    The cheapest that reaches min_accuracy or max_drop, or the most accurate within max_total_bits; exactly one of them
    has to be said. It is written down only where a study is named.
    """
    from qexplore.config import calibrated, problem_arguments, read_config, report_arguments
    from qexplore.exploration import fit as fitted

    read = read_config(config, given(flags))
    arguments = {**problem_arguments(read), **report_arguments(read)}
    point = fitted(
        calibrated(read),
        read.parts.loaders["search_loader"],
        read.parts.metric,
        max_evaluations=read.config.max_evaluations,
        max_seconds=read.config.max_seconds,
        seed=read.config.seed,
        study=read.config.study,
        **arguments,
    )
    if output is not None:
        write_json(output, widths_of(point))
    say(point, {"point": point}, as_json=as_json)


def config_of(study: Path, config: Path | None) -> Path:
    """The configuration that was given, else the one beside a study.

    Raises:
        ConfigError: there is none beside it.
    """
    kept = beside(study)
    if config is None and study.exists() and not kept.exists():
        raise ConfigError(
            f"the study '{study}' has no configuration beside it ('{kept}'): it was begun elsewhere than on the "
            "command line, or moved alone. Give one with --config, or do it in Python, where the network is: "
            "qx.resume; or point.apply_to(model), then qx.save_manifest or qx.export_onnx"
        )
    return config or kept


def _last_search(study: Path) -> int | None:
    """The last run that looked for a front; None where every run looked for one point."""
    from qexplore.study import Study

    with Study.open(study) as opened:
        runs = [one.id for one in opened.runs if one.settings["goal"]["name"] == "WholeFront"]
    return runs[-1] if runs else None


def beside(study: Path) -> Path:
    """Where the configuration of a study is kept."""
    return Path(f"{study}.config.yaml")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, all or nothing; its folder is made."""
    import json

    from qexplore.front import write_text

    write_text(path, f"{json.dumps(value, indent=1)}\n")


class _KeepBeside:
    """Writes the configuration beside the study, once: at once where that is new, else as soon as it has gone on.

    A study of something else, which is refused, keeps its own.
    """

    def __init__(self, study: Path, read: ReadConfig, config: Path) -> None:
        self._path, self._text, self._is_written = beside(study), _as_yaml(read, study, config), False
        if not study.exists():
            self()

    def __call__(self, snapshot: Any = None) -> None:
        from qexplore.front import write_text

        if not self._is_written:
            write_text(self._path, self._text)
            self._is_written = True


def _as_yaml(read: ReadConfig, study: Path, config: Path) -> str:
    import yaml

    content = yaml.safe_dump({**read.config.given, "study": str(study)}, sort_keys=False, allow_unicode=True)
    return (
        f"# What `qexplore explore {config.name}` was asked for, flags included; `qexplore resume` reads it.\n{content}"
    )


def _tell(ctx: click.Context, exploration: Exploration, study: Path, read: ReadConfig, as_json: bool) -> None:
    """Print the result, write the page, and leave with the code of what ended it."""
    page = None if read.config.page is None else write_page([study], Path(read.config.page))
    facts = {**exploration_facts(exploration), "study": study, "page": page}
    told = [str(exploration), *([] if page is None else [f"\nwritten: {page}"])]
    say("\n".join(told), facts, as_json=as_json)
    code = _CODES.get(exploration.stopped_by, 0)
    if code:
        click.echo(f"Stopped by {exploration.stopped_by}. Go on with: qexplore resume {study}", err=True)
    elif not as_json:
        click.echo(f"\nTake a point: qexplore pick {study} --knee --output widths.json")
    ctx.exit(code)
