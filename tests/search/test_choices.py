"""Sets of choices: codes in their order, and their short form."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qexplore._choices import FLOAT_FORMATS, is_float_code, stored_bits
from qexplore.front import by_stored_bits
from qexplore.search.choices import choices_text, parsed_choices

E4M3, E2M1, MXE2M1 = 403, 201, 1201
codes = st.one_of(st.integers(0, 16), st.sampled_from([known.code for known in FLOAT_FORMATS]))


@given(st.lists(codes, min_size=1), st.randoms())
def test_codes_are_ordered_by_stored_bits_then_integers_first_whatever_their_order(given_codes, random):
    result = tuple(by_stored_bits(given_codes))
    shuffled = [*given_codes, *given_codes]
    random.shuffle(shuffled)
    assert tuple(by_stored_bits(shuffled)) == parsed_choices(result, "rule") == result
    assert sorted(result) == sorted(set(given_codes))
    keys = [(stored_bits(np.array(code)), is_float_code(code), code) for code in result]
    assert keys == sorted(keys)


@given(st.lists(codes, min_size=1, unique=True))
def test_the_short_form_tells_all_choices(given_codes):
    parts = choices_text(given_codes).split(",")
    spans = [re.fullmatch(r"(\d+)-(\d+)", part) for part in parts]
    widths = [width for span in spans if span for width in range(int(span[1]), int(span[2]) + 1)]
    others = [int(part) if part.isdigit() else part for part, span in zip(parts, spans, strict=True) if not span]
    assert set(parsed_choices([*widths, *others], "rule")) == set(given_codes)


@pytest.mark.parametrize(
    ("given_codes", "text"),
    [
        ((2, 3, 4, 5, 6, 7, 8), "2-8"),
        ((2, 3, 4, 6, 8), "2-4,6,8"),
        ((2, 4, 8, E4M3), "2,4,8,E4M3"),
        ((4, E2M1, MXE2M1, 5, 6, 8, E4M3, 0), "4-6,8,E2M1,MXE2M1,E4M3,off"),
        ((2, 3), "2,3"),
        ((0,), "off"),
    ],
)
def test_short_forms(given_codes, text):
    assert choices_text(given_codes) == text
