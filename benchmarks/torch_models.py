"""The networks of torch's own quantization tests through every stack and method: near float, alarmed, or refused?

    python benchmarks/torch_models.py --results torch_models.json

A row for each network, stack and method: the relative error of the output beside the float network's, and whether that
is near (within a tenth), alarmed in the report, refused by a sentence of ours, beyond a tenth without a word, or an
error of another project. The file is loaded into the network with other weights, and the network compared with what it
was. `--by-hand` runs the stack's own recipe beside (prepare, show data, convert), and lists where that gives something
else. A cut run goes on from its `--results`; what a network took the whole process down with is a row too. Exit code 1
where anything is beyond or raw, or the file or the network is not what it should be.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _results import Results
from _torch_cases import Case, cases

from turn_key import KINDS, METHODS, NEAR, STACKS, Verdict, judged, runs, sentence  # isort: skip

HERE = Path(__file__).name


FLOAT = 1e-6
"""An error below which nothing was quantized."""
CRASHED = "took the process down"


class TookTooLong(BaseException):
    """Passes by whatever catches exceptions on the way."""


def main() -> int:
    """The rows, then how many there are of each kind."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--results", type=Path, help="what was found so far, to go on from")
    options.add_argument("--models", nargs="+", default=[], help="parts of names; all without")
    options.add_argument("--stacks", nargs="+", choices=STACKS, default=STACKS)
    options.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options.add_argument("--by-hand", action="store_true", help="the stack's own recipe beside")
    options.add_argument("--limit", type=int, default=60, help="seconds a row, of the processor")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    try:
        networks = cases()
    except ImportError as error:
        print(f"torch's tests cannot be imported: {error}; pip install expecttest")
        return 2
    chosen = {name: case for name, case in networks.items() if any(part in name for part in arguments.models or [""])}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    rows = list(table(chosen, arguments))
    print("\n".join(counts(rows)))
    if arguments.by_hand:
        print("\n".join(("", "where the stack's own recipe gives something else:", *differing(rows))))
    return int(any(not verdict.is_kept for _, _, _, verdict, _ in rows))


Row = tuple[str, str, str, Verdict, str]
"""Network, stack, method, what became of it, and what the recipe by hand gives."""


def table(networks: dict[str, Case], arguments: argparse.Namespace) -> Iterator[Row]:
    """All rows, each printed as it is there."""
    found = Surviving(arguments.results)
    ways = [(stack, method) for stack in arguments.stacks for method in arguments.methods if runs(stack, method)]
    for name, case in networks.items():
        for stack, method in ways:
            of, given = (name, stack, method), (case, stack, method, arguments.limit)
            verdict = as_verdict(found.get(("ours", *of), ours, *given))
            by_hand = str(found.get(("by hand", *of), hand, *given)) if arguments.by_hand else ""
            row = (*of, verdict, by_hand)
            print(in_words(row), flush=True)
            yield row


class Surviving:
    """Results of runs that may take the process down: what was running then is found in a file beside the results."""

    def __init__(self, path: Path | None) -> None:
        self._results = Results(path)
        self._marker = path and path.with_name(path.name + ".running")
        if self._marker and self._marker.exists():
            of = tuple(self._marker.read_text().split("\n"))
            self.get(of, lambda: CRASHED if of[0] == "by hand" else fallen(CRASHED))

    def get(self, of: tuple[str, ...], run: Callable[..., Any], *given: Any) -> Any:
        """``run(*given)``, remembered as ``of``."""

        def marked() -> Any:
            if self._marker:
                self._marker.write_text("\n".join(of))
            try:
                return run(*given)
            finally:
                if self._marker:
                    self._marker.unlink(missing_ok=True)

        return self._results.get(of, marked)


def fallen(said: str) -> dict[str, Any]:
    """A row without a verdict of its own."""
    return asdict(Verdict("raw error", said=said))


def ours(case: Case, stack: str, method: str, limit: int) -> dict[str, Any]:
    """The verdict on a turn-key call, as plain values."""
    try:
        with at_most(limit):
            return asdict(judged(case.build, case.data(), stack, method))
    except TookTooLong:
        return fallen(f"took over {limit} s")


def hand(case: Case, stack: str, method: str, limit: int) -> float | str:
    """The error of the recipe by hand, or the error it raises."""
    from _by_hand import error_by_hand

    from qexplore._quiet import silenced

    try:
        with at_most(limit), silenced():
            return error_by_hand(case.build(0), case.data(), stack, method)
    except TookTooLong:
        return f"took over {limit} s"
    except Exception as error:
        return sentence(error)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise `TookTooLong` after so many seconds of this process: on a busy machine a row takes longer, not more."""

    def stop(*_: Any) -> None:
        raise TookTooLong

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def as_verdict(plain: dict[str, Any]) -> Verdict:
    return Verdict(**{**plain, "faults": tuple(plain["faults"])})


def in_words(row: Row) -> str:
    name, stack, method, verdict, by_hand = row
    error = "" if verdict.error is None else f"{verdict.error:.4f}"
    said = "; ".join((*verdict.faults, *filter(None, [verdict.said])))
    beside = f"  by hand {shown(by_hand):8}" if by_hand else ""
    return f"{name:52} {stack:11} {method:7} {verdict.kind:9} {error:>8}{beside}  {said[:600]}".rstrip()


def shown(by_hand: str) -> str:
    return f"{as_error(by_hand):.4f}" if as_error(by_hand) is not None else by_hand[:100]


def as_error(by_hand: str) -> float | None:
    try:
        return float(by_hand)
    except ValueError:
        return None


def counts(rows: list[Row]) -> Iterator[str]:
    """A line a stack and method, a column a kind."""
    kinds = [*KINDS, "other fault"]
    yield ""
    yield f"{'stack':11} {'method':7} " + " ".join(f"{kind:>11}" for kind in ("runs", *kinds))
    by_way: dict[tuple[str, str], Counter[str]] = {}
    for _, stack, method, verdict, _ in rows:
        for way in ((stack, method), ("all", "")):
            by_way.setdefault(way, Counter()).update([verdict.kind, "runs", *["other fault"] * bool(verdict.faults)])
    for way in sorted(by_way, key=lambda way: way[0] == "all"):
        yield f"{way[0]:11} {way[1]:7} " + " ".join(f"{by_way[way][kind]:11}" for kind in ("runs", *kinds))


def differing(rows: list[Row]) -> Iterator[str]:
    """Rows where one gives a result near float and the other does not."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        _, _, _, verdict, by_hand = row
        theirs = as_error(by_hand)
        its_kind = "raises" if theirs is None else "float" if theirs < FLOAT else "near" if theirs <= NEAR else "beyond"
        groups.setdefault(f"ours {verdict.kind}, by hand {its_kind}", []).append(in_words(row))
    for group, lines in sorted(groups.items()):
        yield f"\n{group}: {len(lines)}"
        if group != "ours near, by hand near":
            yield from lines


if __name__ == "__main__":
    sys.exit(main())
