"""What `dump` writes, the standard library's parser reads back the same."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.settings.toml_text import dump

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALAR = st.one_of(
    TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
VALUE = st.one_of(SCALAR, st.lists(TEXT, max_size=3))
TABLE: Any = st.recursive(
    st.dictionaries(TEXT, VALUE, max_size=4), lambda inner: st.dictionaries(TEXT, st.one_of(VALUE, inner), max_size=4)
)


@given(TABLE)
def test_round_trip(table: dict[str, Any]) -> None:
    assert tomllib.loads(dump(table, comment="two\nlines")) == table


def test_none_is_left_out_and_other_kinds_are_refused() -> None:
    assert tomllib.loads(dump({"a": {"b": None, "c": Path("/x"), "d": (1, 2)}})) == {"a": {"c": "/x", "d": [1, 2]}}
    with pytest.raises(TypeError, match="set"):
        dump({"a": {1}})
