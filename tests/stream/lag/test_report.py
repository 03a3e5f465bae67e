"""What a report says of a whole group."""

from __future__ import annotations

from dataclasses import replace

from stream.lag.report import LagReport, PartitionLag
from stream.lag.status import Status

ROW = PartitionLag("worker", "g", "t", 0, 5, 0, 9, 4, 1.0, "record", 5, Status.OK, 1.0, eta_seconds=3.0)


def eta(*rows: PartitionLag) -> float | None:
    (group,) = LagReport(0, rows).groups()
    return group.eta_seconds


def test_a_group_is_done_when_its_slowest_partition_is() -> None:
    assert eta(ROW, replace(ROW, partition=1, eta_seconds=60.0)) == 60.0
    assert eta(ROW, replace(ROW, partition=1, eta_seconds=None)) is None  # it does not catch up
    assert eta(ROW, replace(ROW, partition=1, lag_messages=0, eta_seconds=None)) == 3.0
    assert eta(replace(ROW, lag_messages=0, eta_seconds=None)) == 0.0


def users(*rows: PartitionLag) -> tuple[int | None, float | None]:
    (group,) = LagReport(0, rows).groups()
    return group.users_left, group.drain_seconds


def test_users_left_are_all_partitions_and_unknown_where_one_is() -> None:
    """D4."""
    told = replace(ROW, users_left=3, drain_seconds=2.0)
    idle = replace(ROW, partition=1, lag_messages=0)
    assert users(ROW) == (None, None)
    assert users(told) == (3, 2.0)
    assert users(told, replace(told, partition=1, users_left=4, drain_seconds=9.0)) == (7, 9.0)
    assert users(told, replace(told, partition=1, users_left=0, drain_seconds=None)) == (3, 2.0)
    assert users(told, idle) == (3, 2.0)  # nothing was ever committed there
    assert users(told, replace(ROW, partition=1)) == (None, None)  # a worker that does not say
    assert users(replace(told, drain_seconds=None)) == (3, None)
    assert users(replace(told, users_left=0, drain_seconds=None, lag_messages=0)) == (0, None)


def test_what_could_not_be_read_is_no_part_of_the_sums_and_never_ok() -> None:
    report = LagReport(0, (ROW,), unreadable=("group g2: not authorized",))
    assert (report.lag_messages, report.whole, report.status) == (4, False, Status.UNKNOWN)
