"""What the encoder makes of a window, whole or half read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from encoder.forward.user_tokens import prepare
from store.window.user_window import UserWindow
from tests.support.windows import DIM, MODALITIES, START_MS, Row, window

DAY_MS = 86_400_000
ROWS = st.lists(
    st.builds(
        Row,
        st.sampled_from(("bill", "search")),
        st.integers(0, 60 * DAY_MS).map(lambda ms: START_MS + ms),
        st.uuids().map(str),
        st.integers(0, 50),
    ),
    min_size=1,
    max_size=12,
)


@given(ROWS, ROWS)
def test_rows_ahead_of_their_summary_give_finite_features(old: list[Row], new: list[Row]) -> None:
    """A replica reads the log in pieces: rows of a batch may be there while their summaries are still to come."""
    before, after = window("u", old), window("u", old + new)
    half = {name: replace(w, summary=before.modalities.get(name, w).summary) for name, w in after.modalities.items()}
    got = prepare(UserWindow("u", half), MODALITIES, DIM)
    assert got.as_of == max(row.ts for row in old + new)
    assert all(np.isfinite(each).all() for each in (got.means, got.stats, got.match))


@given(ROWS)
def test_as_of_is_that_of_the_window(rows: list[Row]) -> None:
    assert prepare(window("u", rows), MODALITIES, DIM).as_of == window("u", rows).as_of
