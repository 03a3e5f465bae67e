"""Sums over spans against what one counts by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from encoder.learning.user_u.counts import Counts
from tests.support.small_data_set import DAY, START, history

PAST = history(8)
COUNTS = Counts(PAST)
moments = st.integers(START - 5 * DAY, START + 70 * DAY)


@given(st.integers(0, len(PAST.users) - 1), moments, st.integers(-3, 40 * DAY), st.sampled_from(["bill", "search"]))
def test_rows_and_totals_of_any_span(user: int, start: int, length: int, modality: str) -> None:
    own = PAST.modalities[modality]
    rows = slice(int(own.starts[user]), int(own.starts[user + 1]))
    within = (own.ts[rows] >= start) & (own.ts[rows] < start + length)
    span = (np.array([user]), np.array([start]), np.array([start + length]))
    assert COUNTS.rows(modality, *span).tolist() == [within.sum()]
    before = own.ts[rows][own.ts[rows] < start]
    assert COUNTS.newest(modality, span[0], span[1]).tolist() == [int(before.max()) if len(before) else 0]
    topics = np.arange(len(PAST.vectors))
    for topic in topics:
        seen = within & (own.vectors[rows] == topic)
        assert COUNTS.on_topic(modality, topics, int(topic), *span).tolist() == [seen.sum()]
    if modality == "bill":
        amounts = own.numbers[rows, 0][within]
        assert np.allclose(COUNTS.total(modality, 0, *span), amounts.sum(), atol=1e-3)
        assert COUNTS.positive(modality, 0, *span).tolist() == [(amounts > 0).sum()]


def test_the_end_is_behind_the_newest_event() -> None:
    assert COUNTS.end == 1 + max(int(own.ts.max()) for own in PAST.modalities.values())
