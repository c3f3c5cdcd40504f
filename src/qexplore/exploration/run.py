"""A search on a problem, with what a user wants around it: progress, callbacks, an interrupt that loses nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

from qexplore._arguments import nearest_keyword
from qexplore._clock import Clock, own_clock
from qexplore._warnings import warn
from qexplore.distributed import RayWorkers, spread
from qexplore.exploration.arguments import check_search, checked_initial
from qexplore.exploration.budget import MAX_FAILURES, Budget
from qexplore.exploration.records import Exploration
from qexplore.exploration.state import Callback, Run
from qexplore.exploration.studying import StudyFile, Unrecorded, recorded
from qexplore.exploration.termination import Terminated, Termination
from qexplore.exploration.verification import Report, Reporter, Verification, chosen_by, verify, why_empty
from qexplore.model import Candidates, Loader, Unpack
from qexplore.search import Goal, LayerwiseQuantizationProblem, SearchSettings, calibrated_words


@nearest_keyword
def explore(
    problem: LayerwiseQuantizationProblem,
    *,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    patience: int | None = None,
    max_failures: int | None = MAX_FAILURES,
    seed: int,
    algorithm: Any = "nsga2",
    population_size: int = 40,
    generation_size: int | None = None,
    initial: Any = None,
    racing: bool = True,
    screening: bool = True,
    low_fidelity: bool = True,
    judge: str = "divergence",
    report_loader: Loader | None = None,
    unpack: Unpack | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    study: str | os.PathLike[str] | None = None,
    share: bool = False,
    on_mismatch: str = "refuse",
    workers: RayWorkers | None = None,
) -> Exploration:
    """Search the choices of ``problem`` for the trade-off between its metric and its costs.

    Ctrl-C ends the search, and the front so far is verified and measured on the report set; pressed again it returns
    the front as it is by then, unverified or without the report set. SIGTERM, in the main thread, ends it at once: the
    front so far comes back unverified, in time to be saved. The same seed gives the same result to the last bit, times
    apart; no global random state is changed, and callbacks find the user's.

    Args:
        problem: what to search.
        max_evaluations: budget in full passes over the search set; a candidate that is stopped early, and a sensitivity
            table, cost the share of the samples that they have seen. The search also ends when every candidate has been
            measured. At least one of this and the next two limits is needed.
        max_seconds: end the search in time, give or take a candidate, with everything that was measured until then.
            They count from the call on. Up to half of them are kept back for measuring the front again, on both sets,
            and uniform choices on the report set; that is done in full even where it takes longer.
        patience: end after so many full passes in which the hypervolume has not grown by 0.1 %.
        max_failures: end after so many candidates in a row that failed, of whatever; None bears any number.
        seed: of the search.
        algorithm: ``"nsga2"`` begins with a few guesses from a rough sensitivity table (where the problem has a
            ``min_accuracy``, and the budget is several times the uniform choices), every uniform choice and
            ``initial``, then measures what a model of everything measured so far finds most promising among the
            children of the front and of the population. ``"sms-emoa"`` and ``"nsga3"`` do so with other populations.
            ``"greedy"`` goes down a ladder from the widest candidate. ``"random"``, ``"nsga2-plain"`` (pymoo's own from
            a random start) and any algorithm object of pymoo know nothing but scores; the uniform choices are then
            measured beside the search, for comparison, and not counted.
        population_size: of the algorithm; ``"random"`` proposes so many at once.
        generation_size: candidates that a generation of ``"nsga2"``, ``"sms-emoa"`` and ``"nsga3"`` has at least; None
            is a quarter of ``population_size``. More of them keep more workers busy and take less of the search's own
            time, and it learns less often: the front is another one, so a study has it as another run.
        initial: candidates of your own to begin with, shape ``[N, L]``, or a front of an earlier search; for the
            algorithms that are not plain.
        racing: stop a candidate as soon as its errors prove that it is infeasible, or no better than a known point with
            no more cost. No point of better score can be lost by it; a stopped candidate takes no part in the judging.
            Off for plain algorithms, and where ``problem.describe()`` gives another reason.
        screening: on search sets of 8,192 samples and more, measure a random part of them first, a thirty-second, and
            go on only with candidates that may still matter; one is rejected wrongly with a probability of at most
            0.001. Part of early stop: off where ``racing`` is.
        low_fidelity: look at how far a few outputs of many candidates are from the float network's, and measure those
            that are near; where looks cost much (a pass buys fewer than ten) or say no more than sensitivities of
            single points do, none are taken. They count by their samples.
        judge: ``"divergence"``: of points that the search set cannot tell apart, in a paired comparison at 95 %, the
            one whose outputs are nearer to the float network's stands; ``"accuracy"``: the one that scores better
            there, by chance or not. The history counts scores alone.
        report_loader: data that neither calibration nor search has seen; front, uniform choices and float network are
            measured on it once, and what the front saves is claimed there. Without one it is claimed on the search set.
        unpack: for ``report_loader``, where its batches differ from the problem's.
        callbacks: called with a `Snapshot` whenever the front grows and at the end of a generation. `StopExploration`
            raised in one ends the search; any other exception passes through, and the problem remembers what it has
            measured. One that is a context manager is entered before the search and left at its end, also by an error.
            `LivePlot`, `log_to`, `log_to_tensorboard` and `log_to_mlflow` make some.
        progress: show a bar on stderr; None shows it on a terminal, and elsewhere a line every half minute.
        study: path of a file in which every evaluation is written down before it is used; made where there is none.
            The same call on a study that was stopped, by whatever, goes on where it stopped and ends with the result of
            one that was not, to the last bit where no ``max_seconds`` is given. With a larger budget, or another limit,
            it goes on with its run too; a smaller one answers for itself and leaves the run as it was. With another
            seed or algorithm it is another run in the same file, which measures nothing again that another has measured
            whole. See `qexplore.resume`.
        share: let other processes that share the study write to it at the same time; each knows what others measured,
            so that what it proposes depends on them.
        on_mismatch: ``"refuse"`` a study of other weights, ranges, data or whatever else decides a measurement;
            ``"new"`` goes on with another file beside it, ``name-2.db``.
        workers: measure candidates in other processes and on other machines, `qexplore.RayWorkers`: the result is that
            of one process, times apart. None measures here.

    Raises:
        WorkersError: the workers cannot be had, or do not measure as this process does.
        MissingPackageError: ``workers`` without Ray.
        StudyError: the study cannot be had, cannot be written to, or was measured otherwise.
        ProblemError: an argument is not what it must be.
        DataError, MetricError, EvaluationError: the report set cannot be measured; said before the search.
        EvaluationError: every candidate failed.
        ModelError: the model is detached from its network.
    """
    check_search(problem, callbacks)
    settings = SearchSettings(seed, algorithm, population_size, racing, screening, low_fidelity, judge, generation_size)
    with own_clock() as clock:
        return run_search(
            problem,
            settings,
            Budget(max_evaluations, max_seconds, patience, max_failures),
            initial=checked_initial(initial, problem, settings),
            report_loader=report_loader,
            unpack=unpack,
            callbacks=callbacks,
            progress=progress,
            file=StudyFile.asked(study, share, on_mismatch),
            workers=workers,
            clock=clock,
        )


def run_search(
    problem: LayerwiseQuantizationProblem,
    settings: SearchSettings,
    budget: Budget,
    *,
    initial: Candidates | None = None,
    report_loader: Loader | None = None,
    unpack: Unpack | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    goal: Goal | None = None,
    file: StudyFile | None = None,
    workers: RayWorkers | None = None,
    clock: Clock,
) -> Exploration:
    """As `explore`, with arguments that were checked, and a goal other than the whole front."""
    with (
        spread(workers, problem) as spreading,
        recorded(file, problem, settings, budget, clock, initial=initial, goal=goal, workers=spreading) as recording,
        entered(callbacks) as callbacks,
    ):
        exploration = _searched(
            recording,
            settings,
            budget,
            initial=initial,
            report_loader=report_loader,
            unpack=unpack,
            callbacks=callbacks,
            progress=progress,
            goal=goal,
        )
        report = None if spreading is None else spreading.report()
        return replace(exploration, study=recording.ended(exploration), workers=report)


@contextmanager
def entered(callbacks: Sequence[Callback]) -> Iterator[list[Callback]]:
    """The callbacks, those that are context managers entered; they are left at the end, also by an error.

    What entering gives is called in the place of one where it can be: as a function of a `contextmanager` gives it. An
    error that one of them would swallow is raised all the same, for there is no exploration to go on with.
    """
    failed: BaseException | None = None
    with ExitStack() as stack:
        try:
            entered = [
                stack.enter_context(callback) if isinstance(callback, AbstractContextManager) else callback
                for callback in callbacks
            ]
            yield [given if callable(given) else callback for given, callback in zip(entered, callbacks, strict=True)]
        except BaseException as error:
            failed = error
            raise
    if failed is not None:
        raise failed


def _searched(
    recording: Unrecorded,
    settings: SearchSettings,
    budget: Budget,
    *,
    initial: Candidates | None,
    report_loader: Loader | None,
    unpack: Unpack | None,
    callbacks: Sequence[Callback],
    progress: bool | None,
    goal: Goal | None,
) -> Exploration:
    problem = recording.problem
    # Built before the search, so that a report set that does not work is not found out at its end.
    reporter = None if report_loader is None else Reporter(problem, report_loader, unpack, recording.around_report)
    shared_data = "" if reporter is None else reporter.shared_data
    if shared_data:
        warn(f"{shared_data} Give report_loader= samples that neither calibration nor search has seen")
    to_report = 0.0 if reporter is None else reporter.float_seconds
    to_verify = (problem.direct.float_evaluation.seconds + to_report) * (1 + len(problem.further))
    termination = Termination()
    run = Run(
        problem,
        settings,
        budget,
        goal=goal,
        callbacks=(recording.note, *callbacks),
        progress=progress,
        seconds_afterwards=(to_verify, to_report),
        termination=termination,
        figures=recording.figures,
    )
    stopped_by = run.search(initial)
    recording.settled("reference point", run.reference_point)
    if not termination.received:
        run.require_success()
    judge, verification = "", Verification(run.archive.front())
    with suppress(Terminated), termination.interrupting():
        members, judge = chosen_by(problem, settings.judge, run.archive, run.complete)
        termination.check()  # the judging takes any interrupt for Ctrl-C
        verification = verify(problem, members, progress)
    # Whoever wants one point is told of that point; a front is held against the uniform widths.
    front = replace(
        verification.front,
        uniform=run.uniform if goal is None and len(run.uniform) else None,
        empty_because="" if len(verification.front) else why_empty(problem),
        coverage=recording.coverage,
    )
    report = Report(front, 0 if reporter is None else reporter.num_floats)
    if reporter is not None and front.verified:  # whoever interrupted the verification wants no more of it
        with suppress(Terminated), termination.interrupting():
            report = reporter.report_on(front, verification.members, progress)
    return Exploration(
        front=report.front,
        uniform=run.uniform if report.front.uniform is None else report.front.uniform,
        history=tuple(run.history),
        float_accuracy=problem.float_accuracy,
        report_float_accuracy=None if reporter is None else reporter.float_accuracy,
        reference_point=run.reference_point,
        num_evaluations=run.num_evaluations,
        num_passes=budget.num_passes,
        num_prepared_passes=run.num_prepared_passes,
        num_look_passes=run.num_look_passes,
        num_stopped=run.num_evaluations - len(run.complete) - len(run.failures),
        num_verifications=verification.num_points,
        num_moved=verification.num_moved,
        unverified=verification.failures,
        num_samples=problem.num_samples,
        num_report_passes=report.num_passes,
        optimism_interval=report.optimism_interval,
        seconds=budget.seconds,
        failures=tuple(run.failures),
        stopped_by="SIGTERM" if termination.received else stopped_by,
        algorithm=settings.algorithm_name,
        seed=settings.seed,
        engine=problem.evaluator.description,
        early_stop=run.early_stop,
        left_out=run.left_out,
        clipping=problem.clipping,
        judge=judge,
        shared_data=tuple(filter(None, (shared_data, calibrated_words(problem.direct)))),
    )
