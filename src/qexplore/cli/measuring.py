"""``qexplore describe``, ``sensitivity``, ``analyze`` and ``export``: what needs the network, without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qexplore.cli.options import PATH, config_flags, example, given, picking, printing
from qexplore.cli.output import say
from qexplore.cli.running import config_of
from qexplore.cli.sources import are_given, is_study, set_widths

_MEASURES = ("auto", "kl", "mse", "sqnr", "accuracy")


@click.command(
    short_help="The points, their share of the network, and what stays float.",
    epilog=example("qexplore describe network.yaml --weights weighted"),
)
@click.argument("config", type=PATH)
@config_flags()
@printing
def describe(config: Path, as_json: bool, **flags: Any) -> None:
    """Show the points of CONFIG, which share of the network they are, and what stays float.

    Ranges are calibrated, nothing is searched.
    """
    from qexplore.config import calibrated, choices_of, read_config

    read = read_config(config, given(flags))
    model = calibrated(read)
    plan = model.describe(choices=choices_of(read, model))
    say(plan, plan, as_json=as_json)


@click.command(
    short_help="How much each point suffers alone.", epilog=example("qexplore sensitivity network.yaml --measure sqnr")
)
@click.argument("config", type=PATH)
@config_flags()
@click.option("--measure", type=click.Choice(_MEASURES), default="auto", show_default=True, help="What is measured.")
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Samples to measure on.")
@click.option("--csv", "csv_path", type=PATH, metavar="FILE", help="Write the table there too.")
@printing
def sensitivity(
    config: Path, measure: str, samples: int | None, csv_path: Path | None, as_json: bool, **flags: Any
) -> None:
    """Show how much each point of CONFIG suffers alone, at each choice that it may have."""
    from qexplore.config import calibrated, posed, read_config
    from qexplore.search import sensitivity as measured

    read = read_config(config, given(flags))
    table = measured(posed(read, calibrated(read)), measure, num_samples=samples)
    if csv_path is not None:
        table.to_csv(csv_path)
    say(table, table, as_json=as_json)


@click.command(
    short_help="SQNR and clipping at every point.",
    epilog=example(
        "qexplore analyze network.yaml --num-bits 4", "qexplore analyze network.yaml --widths runs/network.db --knee"
    ),
)
@click.argument("config", type=PATH)
@config_flags()
@click.option(
    "--widths", type=PATH, metavar="SOURCE", help="A study or front, of which a point is picked, or a file of widths."
)
@click.option("--num-bits", metavar="CHOICE", help="One choice for all points.  [default: 8]")
@picking
@click.option("--csv", "csv_path", type=PATH, metavar="FILE", help="Write the table there too.")
@printing
def analyze(
    config: Path, widths: Path | None, num_bits: str | None, run: int | None, accuracy: float | None,
    limits: tuple[str, ...], knee: bool, index: int | None, point: str | None, csv_path: Path | None, as_json: bool,
    **flags: Any,
) -> None:  # fmt: skip
    """Show the SQNR at each point of CONFIG, alone and as errors build up, and what is clipped."""
    from qexplore.config import calibrated, read_config
    from qexplore.evaluation import analyze as analyzed

    if widths is not None and num_bits is not None:
        raise click.UsageError("give --widths or --num-bits, not both")
    picks = {"run": run, "accuracy": accuracy, "limits": limits, "knee": knee, "index": index, "point": point}
    if widths is None and are_given(picks):
        raise click.UsageError("flags that pick a point need --widths, the study or front that it is of")
    read = read_config(config, given(flags))
    model = calibrated(read)
    if num_bits is not None:
        model.num_bits = [int(num_bits) if num_bits.isdecimal() else num_bits] * len(model.points)
    if widths is not None:
        set_widths(model, widths, picks)
    loaders = read.parts.loaders
    table = analyzed(model, loaders.get("report_loader", loaders["search_loader"]), unpack=read.parts.unpack)
    if csv_path is not None:
        table.to_csv(csv_path)
    say(table, table, as_json=as_json)


@click.command(
    short_help="Write an ONNX file with picked widths.",
    epilog=example(
        "qexplore export runs/network.db network.onnx --knee",
        "qexplore export widths.json network.onnx --config network.yaml",
    ),
)
@click.argument("source", type=PATH)
@click.argument("output", type=PATH)
@picking
@click.option("--config", type=PATH, help="The configuration; without it the one beside the study.")
@click.option(
    "--target",
    type=click.Choice(["onnxruntime", "tensorrt"]),
    default="onnxruntime",
    show_default=True,
    help="Whose rules the file keeps to.",
)
@click.option("--opset", type=int, metavar="N", help="Of the file.  [default: 21]")
@click.option(
    "--allow", multiple=True, metavar="POINT", help="Points or formats that may be written in float. May be repeated."
)
@click.option(
    "--check/--no-check", default=True, help="Compare the file with the model on the report set.  [default: check]"
)
@printing
def export(
    source: Path, output: Path, config: Path | None, target: Any, opset: int | None, allow: tuple[str, ...],
    check: bool, as_json: bool, **picks: Any,
) -> None:  # fmt: skip
    """Write OUTPUT, an ONNX file, with the widths of SOURCE: a study, a front, or a file that `pick` wrote.

    A widths manifest is written beside it. Needs the extra onnx.
    """
    from qexplore.config import calibrated, read_config
    from qexplore.export import export_onnx

    if config is None and not is_study(source):
        raise click.UsageError(f"--config is needed: '{source}' is no study, which has one beside it")
    read = read_config(config_of(source, config))
    model = calibrated(read)
    told = set_widths(model, source, picks)
    loaders = read.parts.loaders
    data = loaders.get("report_loader", loaders.get("search_loader")) if check else None
    judged = {"unpack": read.parts.unpack, "output": read.config.output}
    report = export_onnx(model, output, data=data, target=target, opset=opset, allow=allow, **judged)
    say(f"{told}\n{report}", report, as_json=as_json)
