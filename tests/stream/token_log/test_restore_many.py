"""Many records of `tokens` on real Kafka (a million in the long form): what is restored is what was written.

Also after an interruption.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka.admin import NewTopic
from msgspec.structs import replace

from deploy.brokers.local import LocalKafka
from store.base.settings import ModalitySettings
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer
from store.window.encoded_event import EncodedEvent
from store.window.rows import EventRow, Summary, event_key, pack_event, pack_summary, summary_key
from stream.kafka.client import Connection
from stream.token_log.ownership import OWNER_HEADER
from stream.token_log.restore import restore
from tests.models.events import open_buffer

DIM = 16
EVENTS = 231
DROPPED = 9
"""Events of each user that expire again, at the end."""
SUMMARIES = 10
"""Summaries of each user, of which the last counts."""
RECORDS = EVENTS + DROPPED + SUMMARIES
"""Of each user."""
MODALITIES = {"bill": ModalitySettings(topic="bill", window_days=30, max_events=250)}
OWNER = (7).to_bytes(4, "big") + bytes(4)
START_MS = 1_700_000_000_000

Row = tuple[bytes, bytes | None]


class Written:
    """A log with seeded content: events of all users interleaved, summaries now and then, at the end some deletions."""

    def __init__(self, users: int) -> None:
        rng = np.random.default_rng(5)
        grid = np.rint(rng.uniform(-1, 1, (64, DIM)) * 2**10) / 2**10
        self.vectors = grid.astype("<f2")
        self.values = [pack_event(EventRow(i, np.zeros(0, np.float32), v)) for i, v in enumerate(self.vectors)]
        self.users = [f"user-{i:05d}" for i in range(users)]

        classes = [[self.vectors[self.content(user, n)] for n in range(EVENTS)] for user in range(64)]
        self.sums = np.concatenate([np.zeros((64, 1, DIM)), np.cumsum(classes, axis=1, dtype=np.float64)], axis=1)
        """(user modulo 64, n): sum over the first n events; exact."""

    def content(self, user: int, n: int) -> int:
        """Which vector a user's n-th event has; also its digest."""
        return (user * 31 + n * 7) % 64

    def key(self, user: int, n: int) -> bytes:
        return event_key(self.users[user], "bill", START_MS + n * 1000, f"e{n}")

    def summary(self, user: int, first: int, last: int) -> tuple[bytes, bytes]:
        """Over the user's events [first, last)."""
        sums = self.sums[user % 64]
        times = START_MS + first * 1000, START_MS + (last - 1) * 1000
        covers = {"behavior.bill:0": last * len(self.users) + user}
        total = (sums[last] - sums[first]).astype(np.float32)
        summary = Summary(last - first, *times, total, (), (), covers, START_MS)
        return summary_key(self.users[user], "bill"), pack_summary(summary)

    def records(self) -> Iterable[Row]:
        """In log order."""
        marks = {EVENTS * (i + 1) // SUMMARIES for i in range(SUMMARIES - 1)}
        for n in range(EVENTS):
            yield from ((self.key(user, n), self.values[self.content(user, n)]) for user in range(len(self.users)))
            if n + 1 in marks:
                yield from (self.summary(user, 0, n + 1) for user in range(len(self.users)))
        for user in range(len(self.users)):
            yield from ((self.key(user, n), None) for n in range(DROPPED))
            yield self.summary(user, DROPPED, EVENTS)

    def left(self) -> Iterable[tuple[bytes, bytes]]:
        """What a buffer must hold."""
        for user in range(len(self.users)):
            yield from ((self.key(user, n), self.values[self.content(user, n)]) for n in range(DROPPED, EVENTS))
            yield self.summary(user, DROPPED, EVENTS)


def digest(rows: Iterable[tuple[bytes, bytes]]) -> tuple[int, str]:
    """(count, digest) in any order."""
    count = total = 0
    for key, value in rows:
        count += 1
        total += int.from_bytes(hashlib.blake2b(key + b"\x00" + value, digest_size=16).digest())
    return count, f"{total % 2**128:032x}"


def fill(connection: Connection, topic: str, records: Iterable[Row]) -> int:
    producer = connection.producer(
        **{"linger.ms": 50, "batch.size": 1_000_000, "queue.buffering.max.messages": 500_000}
    )
    headers = [(OWNER_HEADER, OWNER)]
    count = 0
    for key, value in records:
        count += 1
        while True:
            try:
                producer.produce(topic, value, key, 0, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0
    return count


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("users", [1000, pytest.param(4000, marks=pytest.mark.long)])
def test_many_rows_are_restored(kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path, users: int) -> None:
    """Stopped in the middle and opened again, it goes on where it was; content, sums and both indexes are whole."""
    connection, topic = kafka_broker.connection, f"{topic_prefix}.tokens"
    admin = connection.admin()
    admin.create_topics([NewTopic(topic, 1, 1, config={"cleanup.policy": "compact"})])[topic].result()
    written, records = Written(users), users * RECORDS
    assert fill(connection, topic, written.records()) == records
    shared = BufferResources.create()

    def opened() -> TokenBuffer:
        return open_buffer(tmp_path / "b", shared, modalities=MODALITIES, dim=DIM)

    buffer = opened()
    stop = threading.Event()
    part = records * 3 // 10
    first = restore(connection, topic, 0, buffer, stop=stop, on_progress=lambda rows, _: rows > part and stop.set())
    assert not first.complete
    assert buffer.log_offset == first.rows > part
    buffer.close()
    buffer = opened()
    assert buffer.log_offset == first.rows
    second = restore(connection, topic, 0, buffer)
    assert second.complete
    assert first.rows + second.rows == records
    assert (second.recomputed, second.stale) == (0, 0)
    assert buffer.owner == OWNER
    assert buffer.stream_time == START_MS + (EVENTS - 1) * 1000
    assert digest(buffer.rows()) == digest(written.left())

    def event(user: int, n: int) -> EncodedEvent:
        at = written.content(user, n)
        return EncodedEvent(written.users[user], "bill", START_MS + n * 1000, f"e{n}", at, np.zeros(0, np.float32),
                            written.vectors[at], None, "behavior.bill:0", n, START_MS)  # fmt: skip

    again = buffer.prepare(
        [event(user, n) for user in range(0, users, 40) for n in (0, DROPPED, EVENTS - 1)], source_offset=1
    )
    assert again.outcomes.duplicate == users // 20, "the id index has what is there,"
    assert again.outcomes.applied == users // 40, "and not what was dropped"
    later = replace(event(0, 0), ts=START_MS + 31 * 86_400_000, event_id="later")
    buffer.commit(buffer.prepare([later], source_offset=1), log_offset=buffer.log_offset)
    swept = 0
    while (changes := buffer.prepare([], source_offset=1)).sweep_left or changes.sweep_rows:
        swept += len(changes.sweep_deletes) + len(changes.sweep_puts)
        buffer.commit(changes, log_offset=buffer.log_offset)
        if swept > records // 20:
            break
    assert swept > records // 20, "the expiry index finds the windows"
    buffer.close()
