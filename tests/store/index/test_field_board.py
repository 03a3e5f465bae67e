"""Shares of the last events that carried a field, over the reports of several ingests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from store.index.field_board import RECENT_MS, FieldBoard, FieldShare

NOW = 1_790_000_000_000
REPORTS = st.lists(
    st.integers(1, 1000).flatmap(lambda events: st.tuples(st.just(events), st.integers(0, events))), min_size=1
)


def test_nothing_was_reported() -> None:
    assert FieldBoard().shares(now_ms=NOW) == []


@given(REPORTS, st.randoms())
def test_reports_add_up_in_any_order(reports: list[tuple[int, int]], random: object) -> None:
    board = FieldBoard()
    for at, (events, carried) in enumerate(reports):
        board.put("bill", NOW + at, events, {"amount": carried})
    (share,) = board.shares(now_ms=NOW)
    assert share.events == sum(events for events, _ in reports)
    assert share.share == sum(carried for _, carried in reports) / share.events
    assert share.at_ms == NOW + len(reports) - 1


def test_old_reports_and_fields_that_are_configured_no_more_do_not_count() -> None:
    board = FieldBoard()
    board.put("bill", NOW - RECENT_MS, 1000, {"amount": 1000, "merchant": 1000})
    board.put("bill", NOW, 40, {"merchant": 10, "channel": 0})
    board.put("bill", NOW - 1, 60, {"merchant": 60})
    board.put("app", NOW, 20, {"page": 20})
    assert board.shares(now_ms=NOW) == [
        FieldShare("app", "page", 1.0, 20, NOW),
        FieldShare("bill", "merchant", 0.7, 100, NOW),
        FieldShare("bill", "channel", 0.0, 40, NOW),
    ]


def test_a_clock_that_went_back_does_not_make_new_reports_old() -> None:
    """For an hour the share was that of before."""
    board = FieldBoard()
    board.put("bill", NOW + 3_600_000, 100, {"amount": 100})
    board.put("bill", NOW, 40, {"amount": 0})
    assert board.shares(now_ms=NOW) == [FieldShare("bill", "amount", 0.0, 40, NOW)]
    ahead = FieldBoard()
    ahead.put("bill", NOW + 3_600_000, 100, {"amount": 50})  # ingest's clock is ahead for good
    assert [share.share for share in ahead.shares(now_ms=NOW)] == [0.5]
