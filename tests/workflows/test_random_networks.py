"""Random networks through the turn-key calls: near the float network, alarmed in the report, or refused by name.

The file gives the model again, the report's error is the one there is, and the network is left as it was.

``RANDOM_NETWORKS=3000 pytest -m slow tests/workflows/test_random_networks.py`` tries so many, other ones every time.
"""

from __future__ import annotations

import os
from collections import Counter

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from random_arithmetic import TurnKeyDraft, turn_key_drafts
from turn_key import judged

ASKED = int(os.environ.get("RANDOM_NETWORKS", "0"))
REFUSED_AT_MOST = 0.3
"""Of the networks: a net whose networks are all refused would catch nothing."""


def hold(number: int, *stacks: str) -> Counter[str]:
    """Judge so many drafts; how many there are of each verdict."""
    found: Counter[str] = Counter()

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=not ASKED,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(turn_key_drafts(*stacks))
    def judge(draft: TurnKeyDraft) -> None:
        verdict = judged(draft.build, draft.inputs(), draft.stack, draft.method)
        found[verdict.kind] += 1
        assert verdict.is_kept, verdict

    judge()
    return found


def test_a_handful_of_random_networks_is_near_float_alarmed_or_refused() -> None:
    assert hold(6, "eager", "fx")["near"]


@pytest.mark.slow
def test_random_networks_are_near_float_alarmed_or_refused() -> None:
    found = hold(ASKED or 300)
    print(found)
    assert found["refused"] <= REFUSED_AT_MOST * found.total()
