"""One rule for user ids."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.user_id import PATTERN, user_id_fault


@pytest.mark.parametrize("user", ["a", "x" * 128, "🦊" * 128, "a b", "a/b", "...", "..x", "Zoë", "%2F", "\u200d", "-"])
def test_ids(user: str) -> None:
    assert user_id_fault(user) == ""


@pytest.mark.parametrize(
    "user", ["", "x" * 129, "a\n", "\n", "a\x00b", "\x7f", "\x85", "\u2028", "\u2029", ".", "..", "\ud800", "\t"]
)
def test_what_is_no_id(user: str) -> None:
    """C10: an id with a newline was accepted by ingest and could not be asked for."""
    assert user_id_fault(user)


@given(st.text(max_size=130))
def test_the_pattern_and_the_words_agree(user: str) -> None:
    if user in (".", ".."):
        return
    assert bool(re.fullmatch(PATTERN, user) and not user.endswith("\n")) == (user_id_fault(user) == "")
    if not user_id_fault(user):
        assert not any(unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs") for char in user)
