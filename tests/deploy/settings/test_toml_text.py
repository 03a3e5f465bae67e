"""What `dump` writes, the standard library's parser reads back the same."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.settings.toml_text import dump
from store.base.settings import ModalityKind

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


def test_paths_enums_and_tuples_are_written_and_nothing_is_not() -> None:
    table = {"a": {"b": Path("/x"), "c": (1, 2), "d": ModalityKind.TABULAR}}
    assert tomllib.loads(dump(table)) == {"a": {"b": "/x", "c": [1, 2], "d": "tabular"}}
    with pytest.raises(TypeError, match="None"):
        dump({"a": {"b": None}})
