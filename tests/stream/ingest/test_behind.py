"""How far behind ingest says it is."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.brokers.process import EmbeddedBroker
from stream.events import behind as header
from stream.ingest import behind
from stream.ingest.behind import FIRST_PACE, LIVE_MS, TELLING_MESSAGES, Behind
from stream.settings import IngestSettings
from tests.stream.ingest.test_ingest import NAMES, TOPICS, good, read_to_end, running, send, wait_committed

NOW = 1_700_000_000_000
HOUR_MS = 3_600_000


def test_messages_at_the_measured_pace_are_seconds() -> None:
    one = Behind()
    one.look(int(FIRST_PACE * 3))
    assert one.ms(NOW - HOUR_MS, NOW) == pytest.approx(3000)
    for _ in range(100):
        one.took(2000, 0.2)
    one.look(50_000)
    assert one.ms(NOW - HOUR_MS, NOW) == pytest.approx(5000, rel=0.01)


def test_a_small_batch_teaches_nothing() -> None:
    one = Behind()
    one.took(TELLING_MESSAGES - 1, 60.0)
    one.look(1000)
    assert one.ms(0, NOW) < 100


@given(st.integers(0, 2 * NOW), st.integers(0, 10**9))
def test_what_was_produced_a_moment_ago_is_live(newest: int, waiting: int) -> None:
    """A clock that is wrong makes nobody's events old, unless ingest is behind anyhow."""
    one = Behind()
    one.look(waiting)
    ms = one.ms(newest, NOW)
    assert ms in (0.0, pytest.approx(1000 * waiting / FIRST_PACE))
    if NOW - LIVE_MS <= newest <= NOW:
        assert ms == 0.0
    elif newest < NOW - LIVE_MS:
        assert ms == pytest.approx(1000 * waiting / FIRST_PACE)


def test_packs_of_a_backlog_say_so(
    start_embedded: Callable[[dict[str, int]], EmbeddedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages of a minute ago and more, at ten a second."""
    monkeypatch.setattr(behind, "FIRST_PACE", 10.0)
    monkeypatch.setattr(behind, "TELLING_MESSAGES", 1_000_000)
    monkeypatch.setattr("stream.ingest.ingest.BEHIND_LOOK_SECONDS", 0.0)
    connection = start_embedded(NAMES).connection
    now = int(time.time() * 1000)
    send(connection, [good(i, now) for i in range(9000)])
    with running(connection, IngestSettings(batch_messages=500)):
        wait_committed(connection)
    told = [header.read(dict(m.headers()).get(header.HEADER)) for m in read_to_end(connection, TOPICS.events)]
    assert max(told) > 100_000
    assert min(told) > 0
