"""The guided pipeline: one step after the other, each behind a question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from qexplore._random import isolated
from qexplore.errors import WorkflowError
from qexplore.exploration import Exploration
from qexplore.pipeline.dialogue import Dialogue, Prefixed
from qexplore.pipeline.exploring import explore_widths
from qexplore.pipeline.options import Options
from qexplore.pipeline.quantizing import Quantized, quantizer_for
from qexplore.pipeline.subject import Subject
from qexplore.preparation import GraphOptimization, GraphTable, counted, graph_table, optimize_graph
from qexplore.workflows import measure_accuracy

_MAX_ROWS = 120
"""Rows of a graph that are shown; all of them are written to the output folder."""


@dataclass(frozen=True)
class PipelineResult:
    """What came of it; None for what was declined.

    Attributes:
        graph: of the given network.
        optimization: what folding found and did; also where folding was declined, but analysing was not.
        folded: whether the optimized network was taken on.
        post_training: the network quantized without training.
        trained: the network quantized with training.
        exploration: the search over widths.
    """

    graph: GraphTable | None = None
    optimization: GraphOptimization | None = None
    folded: bool = False
    post_training: Quantized | None = None
    trained: Quantized | None = None
    exploration: Exploration | None = None

    @property
    def quantized(self) -> Quantized | None:
        """Of the two quantized networks, the one with the smaller error."""
        made = [one for one in (self.post_training, self.trained) if one is not None]
        return min(made, key=lambda one: one.error, default=None)


def run_pipeline(subject: Subject, dialogue: Dialogue, options: Options | None = None) -> PipelineResult:
    """Lead ``subject`` from float to quantized, asking ``dialogue`` for what ``options`` leave open.

    Args:
        subject: what `load_subject` gives, or one of your own; its network stays as it is.
        dialogue: answers and is shown everything.
        options: answers and numbers.

    Raises:
        QExploreError: what a step that was wanted cannot do.
    """
    options = options or Options()
    if options.output is not None:
        _make_folder(options.output)  # now, not after minutes of work
    talk = Prefixed(dialogue, options.everything)
    with isolated(torch.device("cpu"), options.seed):
        result = _lead(subject, talk, options)
    if options.output is not None:
        talk.show(f"Written to {options.output}: {', '.join(write_results(result, options.output)) or 'nothing'}")
    return result


def _lead(subject: Subject, talk: Prefixed, options: Options) -> PipelineResult:
    if subject.metric is not None:
        score = measure_accuracy(subject.network, subject.held_out, subject.metric, progress=options.progress)
        talk.show(f"Float {subject.metric.name} on held-out data: {score:.4f}")
    graph = _trace(subject, talk, options)
    post_training = trained = None
    if options.order == "before":
        post_training, trained = _quantize(subject, subject.network, talk, options)
    optimization, folded = _optimize(subject, graph, talk, options)
    network: nn.Module = optimization.network if optimization is not None and folded else subject.network
    if options.order == "after":
        post_training, trained = _quantize(subject, network, talk, options)
    exploration = _explore(subject, network, talk, options)
    return PipelineResult(graph, optimization, folded, post_training, trained, exploration)


def _trace(subject: Subject, talk: Prefixed, options: Options) -> GraphTable | None:
    if not talk.settle(options.trace, f"Trace {subject.name} into a graph?", "trace"):
        return None
    graph = graph_table(subject.network, subject.example)
    talk.show(f"The graph, by {graph.source}, {counted(len(graph), 'node')}:\n{graph.text(_MAX_ROWS)}")
    return graph


def _optimize(
    subject: Subject, graph: GraphTable | None, talk: Prefixed, options: Options
) -> tuple[GraphOptimization | None, bool]:
    """What there is to optimize, where that was asked for, and whether it was done."""
    if graph is None:
        talk.show("Not traced, so there is no graph to analyse or to fold.")
        return None, False
    analyzed = talk.settle(options.analyze, "Analyse the graph for what can be optimized?", "analyze")
    if graph.source != "torch.fx":
        talk.show("torch.fx cannot look into this network, and only its graphs can be rewritten: nothing to fold.")
        return None, False
    optimization = optimize_graph(subject.network, subject.example)
    if analyzed:
        talk.show(optimization.found)
    if not optimization.pairs and not optimization.dropped:
        talk.show("Nothing to fold.")
        return (optimization if analyzed else None), False
    if not talk.settle(options.fold, "Fold BatchNorm into the layers before it, and drop what is idle?", "fold"):
        return (optimization if analyzed else None), False
    after = optimization.after
    talk.show(
        f"Outputs on one batch differ by at most {optimization.difference:.1e} of the largest. The graph after "
        f"folding, {counted(len(after), 'node')}:\n{after.text(_MAX_ROWS)}"
    )
    return optimization, True


def _quantize(
    subject: Subject, network: nn.Module, talk: Prefixed, options: Options
) -> tuple[Quantized | None, Quantized | None]:
    """The network quantized post-training, and with training where that was offered and wanted."""
    question = f"Quantize (int8, linear layers int{options.linear_num_bits}, {options.order} folding)?"
    if not talk.settle(options.quantize, question, "quantize"):
        return None, None
    quantizer = quantizer_for(subject, network, options)
    first = quantizer.quantize()
    talk.show(f"Strategy of every layer, by {first.backend}:\n{first.table}")
    _show_measured(subject, first, "post-training", talk)
    if first.error <= options.threshold:
        talk.show(f"Not above the threshold of {options.threshold:g}: no training is needed.")
        return first, None
    question = f"Above the threshold of {options.threshold:g}. Train it for {counted(options.epochs, 'epoch')}?"
    if not talk.settle(options.qat, question, "qat"):
        return first, None
    second = quantizer.train(lambda record: talk.show(f"  {record}"))
    _show_measured(subject, second, "after training", talk)
    talk.show(_verdict(first, second))
    return first, second


def _show_measured(subject: Subject, quantized: Quantized, when: str, talk: Prefixed) -> None:
    talk.show(f"Quantization error, {when}: {quantized.error:.3e} (mean squared difference of outputs, held-out data)")
    if subject.metric is not None and quantized.accuracy is not None:
        talk.show(f"Quantized {subject.metric.name}, {when}: {quantized.accuracy:.4f}")


def _verdict(first: Quantized, second: Quantized) -> str:
    if second.error < first.error:
        return (
            f"Training made it better: the error falls from {first.error:.3e} to {second.error:.3e}. "
            "Going on with the trained network."
        )
    return (
        f"Training did not make it better: the error goes from {first.error:.3e} to {second.error:.3e}. "
        "Going on with the network quantized post-training."
    )


def _explore(subject: Subject, network: nn.Module, talk: Prefixed, options: Options) -> Exploration | None:
    if subject.metric is None:
        if options.explore:
            talk.show("No search over widths: there are no targets to score candidates with.")
        return None
    question = f"Search the widths of all layers ({options.evaluations} evaluations)?"
    if not talk.settle(options.explore, question, "explore"):
        return None
    exploration = explore_widths(subject, network, options)
    talk.show(str(exploration))
    return exploration


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkflowError(f"the output folder '{folder}' cannot be made: {error.strerror or error}") from error


def write_results(result: PipelineResult, folder: Path) -> list[str]:
    """Write tables, the quantized network and the front to ``folder``; returns the names of the files."""
    texts = {
        "graph_before.txt": None if result.graph is None else str(result.graph),
        "graph_after.txt": str(result.optimization.after) if result.optimization and result.folded else None,
        "strategy.txt": None if result.quantized is None else result.quantized.table,
    }
    for name, text in texts.items():
        if text is not None:
            (folder / name).write_text(text + "\n", encoding="utf-8")
    written = [name for name, text in texts.items() if text is not None]
    if result.quantized is not None:
        result.quantized.save(folder / "quantized.pt")
        written.append("quantized.pt")
    if result.exploration is not None:
        result.exploration.front.save(folder / "front.json")
        written.append("front.json")
    return written
