"""One rule for queries, and it is the same as a regular expression."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.query_text import PATTERN, text_fault
from store.base.settings import ScenarioSettings
from store.records.scenario import Registered

texts = st.text(max_size=20) | st.text(st.sampled_from("a \t\n\x00\x1f\x7f\x85\x9f\xa0\u2028\u2029\u3000"), max_size=6)


@given(texts)
def test_the_pattern_says_the_same(text: str) -> None:
    assert (re.fullmatch(PATTERN, text) is None) == bool(text_fault(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [("a\x00", "character 2 is U+0000"), ("\u2028", "U+2028"), (" \u3000", "blank"), ("\ud800", "UTF-8")],
)
def test_a_fault_is_told(text: str, says: str) -> None:
    assert says in text_fault(text)


def test_what_was_recorded_before_is_read() -> None:
    before = Registered(ScenarioSettings(query="Will it\nleave?"), 7)
    assert Registered.unpack(before.pack()) == before
