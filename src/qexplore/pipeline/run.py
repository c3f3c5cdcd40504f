"""The guided pipeline: one step after the other, each behind a question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from qexplore._random import isolated
from qexplore._table import counted
from qexplore.exploration import Exploration
from qexplore.model import in_eval_mode
from qexplore.pipeline.dialogue import Dialogue, Prefixed
from qexplore.pipeline.exploring import Explored, explore_widths
from qexplore.pipeline.options import Options
from qexplore.pipeline.quantizing import Quantized, quantizer_for
from qexplore.pipeline.subject import Subject
from qexplore.pipeline.trained import with_weights_of
from qexplore.pipeline.writing import make_folder, write_explored, write_texts
from qexplore.preparation import GraphOptimization, GraphTable, graph_table, optimize_graph
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
        explored: what the search over widths found, and the network that was searched at the front's cheapest point.
    """

    graph: GraphTable | None = None
    optimization: GraphOptimization | None = None
    folded: bool = False
    post_training: Quantized | None = None
    trained: Quantized | None = None
    explored: Explored | None = None

    @property
    def exploration(self) -> Exploration | None:
        """The search over widths."""
        return None if self.explored is None else self.explored.exploration

    @property
    def quantized(self) -> Quantized | None:
        """Of the two quantized networks, the one with the smaller error."""
        made = [one for one in (self.post_training, self.trained) if one is not None]
        return min(made, key=lambda one: one.error, default=None)


def run_pipeline(subject: Subject, dialogue: Dialogue, options: Options | None = None) -> PipelineResult:
    """Lead ``subject`` from float to quantized, asking ``dialogue`` for what ``options`` leave open.

    Args:
        subject: what `load_subject` gives, or one of your own; its network is taken in eval mode, and stays as it is.
        dialogue: answers and is shown everything.
        options: answers and numbers.

    Raises:
        QExploreError: what a step that was wanted cannot do.
    """
    options = options or Options()
    if options.output is not None:
        make_folder(options.output)  # now, not after minutes of work
    talk = Prefixed(dialogue, options.everything)
    result = PipelineResult()
    try:
        with isolated(torch.device("cpu"), options.seed), in_eval_mode(subject.network):
            for made in _lead(subject, talk, options):
                result = made
    finally:  # what was made is not lost with a later step
        if options.output is not None:
            written = write_results(result, options.output, talk.show)
            talk.show(f"Written to {options.output}: {', '.join(written) or 'nothing'}")
    return result


def _lead(subject: Subject, talk: Prefixed, options: Options) -> Iterator[PipelineResult]:
    """What is there after each step."""
    if subject.metric is not None:
        score = measure_accuracy(subject.network, subject.held_out, subject.metric, progress=options.progress)
        talk.show(f"Float {subject.metric.name} on held-out data: {score:.4f}")
    yield (result := PipelineResult(graph=_trace(subject, talk, options)))
    if options.order == "before":
        for first, second in _quantize(subject, subject.network, talk, options):
            yield (result := replace(result, post_training=first, trained=second))
    optimization, folded = _optimize(subject, result.graph, talk, options)
    yield (result := replace(result, optimization=optimization, folded=folded))
    network: nn.Module = optimization.network if optimization is not None and folded else subject.network
    if options.order == "after":
        for first, second in _quantize(subject, network, talk, options):
            yield (result := replace(result, post_training=first, trained=second))
    explored = _explore(subject, network, result, talk, options)
    yield replace(result, explored=explored)


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
) -> Iterator[tuple[Quantized, Quantized | None]]:
    """The network quantized post-training, and then with training where that was offered and wanted."""
    question = f"Quantize (int8, linear layers int{options.linear_num_bits}, {options.order} folding)?"
    if not talk.settle(options.quantize, question, "quantize"):
        return
    quantizer = quantizer_for(subject, network, options)
    first = quantizer.quantize()
    talk.show(f"Strategy of every layer, by {first.backend}:\n{first.table}")
    _show_measured(subject, first, "post-training", talk)
    yield first, None
    if first.error <= options.threshold:
        talk.show(f"Not above the threshold of {options.threshold:g}: no training is needed.")
        return
    question = f"Above the threshold of {options.threshold:g}. Train it for {counted(options.epochs, 'epoch')}?"
    if not talk.settle(options.qat, question, "qat"):
        return
    second = quantizer.train(lambda record: talk.show(f"  {record}"))
    _show_measured(subject, second, "after training", talk)
    talk.show(_verdict(first, second))
    yield first, second


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


def _explore(
    subject: Subject, network: nn.Module, result: PipelineResult, talk: Prefixed, options: Options
) -> Explored | None:
    if subject.metric is None:
        if options.explore:
            talk.show("No search over widths: there are no targets to score candidates with.")
        return None
    question = f"Search the widths of all layers ({options.evaluations} evaluations)?"
    if not talk.settle(options.explore, question, "explore"):
        return None
    explored = explore_widths(subject, _searched(subject, network, result, talk), options, talk.show)
    talk.show(str(explored.exploration))
    return explored


def _searched(subject: Subject, network: nn.Module, result: PipelineResult, talk: Prefixed) -> nn.Module:
    """The float network whose widths are searched: with the trained weights, where training was worth it."""
    if result.trained is None or result.quantized is not result.trained:
        return network
    trained = with_weights_of(network, result.trained.model)
    if trained is None:
        talk.show(
            "The search begins with the float network: the trained one has other layers, as BatchNorm is folded while "
            "training. Fold it before (--fold) to search with the trained weights."
        )
        return network
    assert subject.metric is not None
    score = measure_accuracy(trained, subject.held_out, subject.metric)
    talk.show(f"The search begins with the trained weights, in float: {subject.metric.name} {score:.4f}")
    return trained


def write_results(result: PipelineResult, folder: Path, say: Callable[[str], None]) -> list[str]:
    """Write tables, the quantized network, the front and its model to ``folder``; returns the names of the files."""
    texts = {
        "graph_before.txt": None if result.graph is None else str(result.graph),
        "graph_after.txt": str(result.optimization.after) if result.optimization and result.folded else None,
        "strategy.txt": None if result.quantized is None else result.quantized.table,
    }
    written = write_texts(texts, folder)
    if result.quantized is not None:
        result.quantized.save(folder / "quantized.pt")
        written.append("quantized.pt")
    return written + ([] if result.explored is None else write_explored(result.explored, folder, say))
