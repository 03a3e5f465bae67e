"""What counts as the time a partition was out of use."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import structlog.testing
from prometheus_client import REGISTRY

from stream.kafka.membership import Rebalance, leave


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def exported(role: str) -> tuple[float, float]:
    name = "anchorstream_rebalance_seconds"
    return tuple(REGISTRY.get_sample_value(f"{name}_{x}", {"role": role}) or 0.0 for x in ("count", "sum"))  # type: ignore[return-value]


def test_a_member_that_joins_waits_for_its_state_only(clock: Clock) -> None:
    rebalance = Rebalance("joins", clock)
    clock.now += 50
    assert rebalance.given() == 0
    clock.now += 2
    assert rebalance.usable(0) == 2
    assert exported("joins") == (1, 2)


def test_from_the_loss_until_it_works_again(clock: Clock) -> None:
    rebalance = Rebalance("stays", clock)
    rebalance.given()
    clock.now += 60
    rebalance.lost()
    clock.now += 1
    rebalance.lost()
    clock.now += 2
    assert rebalance.given() == 3
    clock.now += 0.5
    assert rebalance.usable(0) == 3.5
    clock.now += 0.5
    assert rebalance.usable(1) == 4
    assert exported("stays") == (2, 7.5)


def test_waiting_for_the_first_event_does_not_count(clock: Clock) -> None:
    rebalance = Rebalance("idle", clock)
    rebalance.lost()
    clock.now += 3
    rebalance.given()
    clock.now += 3600
    assert rebalance.usable(0, opening=0.25) == 3.25


def test_opened_before_the_news_of_the_assignment(clock: Clock) -> None:
    rebalance = Rebalance("early", clock)
    rebalance.lost()
    clock.now += 3
    assert rebalance.usable(0, opening=1.0) == 3


def test_news_of_the_assignment_while_it_opens_counts_nothing_twice(clock: Clock) -> None:
    rebalance = Rebalance("overlap", clock)
    rebalance.lost()
    clock.now += 3
    rebalance.given()
    clock.now += 1
    assert rebalance.usable(0, opening=2.0) == 4


def test_a_consumer_that_never_closes_does_not_keep_its_role() -> None:
    """Random faults, seeds 319 and 414: thrown out of its group, ingest waited for its own client for good."""
    never, closed = threading.Event(), list[bool]()
    with structlog.testing.capture_logs() as told:
        assert not leave(SimpleNamespace(close=never.wait), 0.2)
    assert [line["event"] for line in told] == ["group_not_left"]
    never.set()
    assert leave(SimpleNamespace(close=lambda: closed.append(True)))
    assert closed == [True]

    def fail() -> None:
        raise RuntimeError("in a callback")

    with pytest.raises(RuntimeError, match="in a callback"):
        leave(SimpleNamespace(close=fail))
