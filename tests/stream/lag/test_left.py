"""What is left, in people's terms."""

from __future__ import annotations

from dataclasses import replace

from stream.lag.left import left
from stream.lag.report import LagReport, PartitionLag
from stream.lag.status import Status

ROW = PartitionLag("ingest", "g", "t", 0, 5, 0, 9, 4, 1.0, "record", 5, Status.OK, 1.0, eta_seconds=3.0)
PROCESSOR = replace(ROW, role="processor", lag_messages=7, eta_seconds=10.0)
WORKER = replace(ROW, role="worker", lag_messages=100, users_left=30, drain_seconds=60.0, eta_seconds=None)
SERVE = replace(ROW, role="serve", lag_messages=2, eta_seconds=0.1)
CAUGHT_UP = {"lag_messages": 0, "eta_seconds": 0.0}


def test_users_are_computed_when_the_rest_is_through() -> None:
    found = left(LagReport(0, (ROW, PROCESSOR, WORKER, SERVE)))
    assert found == (4, 7, 30, 2, 70.0, False)
    assert str(found) == "4 events to ingest, 7 packs of events to process, 30 users to compute, 2 embeddings to index"


def test_what_is_not_known_is_not_said() -> None:
    assert left(LagReport(0, (replace(ROW, eta_seconds=None), PROCESSOR, WORKER))).seconds is None
    silent = replace(WORKER, users_left=None, drain_seconds=None)
    assert left(LagReport(0, (silent,))) == (0, 0, None, 0, None, False)
    assert left(LagReport(0, (replace(silent, eta_seconds=8.0),))).seconds == 8.0


def test_nothing_is_left() -> None:
    rows = tuple(replace(row, **CAUGHT_UP, users_left=None) for row in (ROW, PROCESSOR, WORKER))  # type: ignore[arg-type]
    found = left(LagReport(0, rows))
    assert found.done
    assert (str(found), found.seconds) == ("", 0.0)
    assert not left(LagReport(0, rows, unreadable=("t:0",))).done
