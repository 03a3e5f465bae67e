"""What `tokens` says of when events came in, and that no more come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.events import behind
from stream.events.event import Event, pack
from stream.processor.arrivals import IDLE_SECONDS, LATE_MS, MISSED_BATCHES, Arrivals
from stream.processor.faust_app import Message
from stream.processor.read_packs import read_packs
from tests.stream.processor.test_batch_writer import MODALITIES

NOW = 1_700_000_000_000


def message(ingested_at: list[int], behind_ms: int = 0) -> Message:
    events = [
        Event("u", "click", NOW, f"e{i}", "t", (), None, "raw", 0, i, NOW, at) for i, at in enumerate(ingested_at)
    ]
    return Message(0, 0, pack(NOW, events), behind.header(behind_ms))


def test_the_newest_event_counts_less_what_ingest_was_behind() -> None:
    messages = [message([NOW, NOW + 5]), message([NOW + 9_000], behind_ms=60_000), message([NOW + 4])]
    assert read_packs(messages, "events", MODALITIES).arrived == NOW + 5
    assert read_packs(messages[1:2], "events", MODALITIES).arrived == NOW - 51_000
    assert read_packs([Message(0, 0, b"no pack")], "events", MODALITIES).arrived is None


@given(st.binary() | st.none())
def test_what_others_wrote_there_is_nothing(value: bytes | None) -> None:
    assert behind.read(value) >= 0


def test_a_little_is_not_said() -> None:
    assert behind.header(behind.LEAST_MS - 1) == ()
    assert behind.read(dict(behind.header(1234.5))[behind.HEADER]) == 1234


def test_the_end_of_a_backlog_is_told_once() -> None:
    arrivals = Arrivals()
    arrivals.batch({0: NOW - LATE_MS, 1: NOW, 2: None}, NOW, 100.0)
    assert arrivals.ended(100.0 + IDLE_SECONDS / 2) == []
    assert arrivals.ended(100.0 + IDLE_SECONDS) == [0]
    assert arrivals.ended(200.0) == []


def test_a_partition_has_ended_though_the_others_go_on() -> None:
    arrivals = Arrivals()
    arrivals.batch({0: 0, 1: 0}, NOW, 100.0)
    at = 100.0
    for _ in range(MISSED_BATCHES):
        assert arrivals.ended(at + 0.4) == []
        at += 0.4
        arrivals.batch({0: 0}, NOW, at)
    assert arrivals.ended(at + 0.4) == [1]
    arrivals.batch({0: 0, 1: 0}, NOW, 200.0)
    arrivals.batch({1: NOW}, NOW, 200.0)  # it caught up by itself
    arrivals.forget([0])
    assert arrivals.ended(300.0) == []
