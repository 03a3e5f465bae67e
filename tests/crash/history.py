"""The whole history of the topics, record by record: nothing in it may go back."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, TopicPartition

from store.records.embedding import EmbeddingRecord
from store.window.rows import KIND_SUMMARY, parse_key, unpack_summary
from stream.dead_letter import DeadLetterHeaders
from stream.kafka.client import Connection
from stream.token_log.ownership import MARKER_KEY, OWNER_HEADER, Ownership
from stream.topics import Topics
from tests.crash.verdict import Place, Verdict

Covers = Mapping[str, int]
COMMITTED = {"isolation.level": "read_committed"}


class Departures:
    """Who left the buffer, from `tokens`, and how far the user's raw messages were covered by then."""

    def __init__(self, partitions: int) -> None:
        self._owners = [Ownership() for _ in range(partitions)]
        self._windows: dict[str, dict[str, Covers]] = defaultdict(dict)
        self._covered: dict[str, dict[str, int]] = defaultdict(dict)
        self._left: dict[str, list[Covers]] = defaultdict(list)

    def take(self, verdict: Verdict, message: Any) -> None:
        """The next record; those of former owners do not count (docs/commit-protocol.md)."""
        owner = dict(message.headers() or ()).get(OWNER_HEADER, b"")
        if not self._owners[message.partition()].admits(owner) or message.key() == MARKER_KEY:
            return
        key = parse_key(message.key())
        if key.kind != KIND_SUMMARY:
            return
        windows = self._windows[key.user_id]
        if message.value() is None:
            if windows.pop(key.modality, None) is not None and not windows:
                self._left[key.user_id].append(self._covered.pop(key.user_id))
            return
        covers = unpack_summary(message.value()).covers
        _compare(verdict, message, f"{key.user_id} {key.modality}", covers, windows.get(key.modality, {}))
        windows[key.modality] = covers
        _advance(self._covered[key.user_id], covers)

    def explain(self, user: str, covers: Covers) -> bool:
        """Whether the user left after all of this was covered."""
        return any(_is_behind_nothing(left, covers) for left in self._left[user])


class Embeddings:
    """One topic of embeddings."""

    def __init__(self) -> None:
        self._last: dict[str, Covers | None] = {}
        self._stood: dict[str, int] = {}

    def take(self, verdict: Verdict, message: Any, departures: Departures) -> None:
        """The next record. departures: of all that may have caused it."""
        user = message.key().decode()
        before = self._last.get(user)
        if message.value() is None:
            if before is not None and not departures.explain(user, before):
                verdict.add(
                    "regressed", f"{_where(message)}: null of {user} behind {dict(before)}, still in the buffer"
                )
            self._last[user] = None
            return
        record = EmbeddingRecord.unpack(message.value())
        if record.user_id != user:
            verdict.add("mismatched", f"{_where(message)}: {record.user_id} under the key {user}")
        if before is not None and not departures.explain(user, before):
            _compare(verdict, message, user, record.covers, before)
            if record.as_of < (stood := self._stood[user]):
                verdict.add("regressed", f"{_where(message)}: {user} stands at {record.as_of}, {stood} before")
        self._last[user], self._stood[user] = record.covers, record.as_of


class History:
    """Reads on from where it was, as a committed reader; each record is seen before compaction can take it."""

    def __init__(self, topics: Topics, scenarios: Mapping[str, Any]) -> None:
        self._topics = topics
        self._departures = Departures(topics.partitions)
        self._embeddings = {topics.embeddings(scenario): Embeddings() for scenario in scenarios}
        self._positions: dict[tuple[str, int], int] = {}
        self.letters: dict[Place, str] = {}
        """Dead letters: error by place."""
        self.records = 0

    def read(self, connection: Connection, verdict: Verdict) -> None:
        """To the end as of now. Raises AssertionError: a partition does not end."""
        # a fetch that finds nothing tells the end; the default is to wait half a second for more
        options: dict[str, Any] = {"enable.partition.eof": True, "fetch.wait.max.ms": 10}
        with contextlib.closing(connection.consumer("judge", **options, **COMMITTED)) as consumer:
            for message in self._messages(consumer, [self._topics.tokens]):
                self._departures.take(verdict, message)
            for message in self._messages(consumer, [*self._embeddings, self._topics.dead_letters]):
                if message.topic() == self._topics.dead_letters:
                    self._take_letter(message)
                else:
                    self._embeddings[message.topic()].take(verdict, message, self._departures)

    def _take_letter(self, message: Any) -> None:
        letter = DeadLetterHeaders.decode(message.headers())
        source = letter.source_name or letter.source_topic
        assert source is not None
        assert letter.source_partition is not None
        assert letter.source_offset is not None
        self.letters[source, letter.source_partition, letter.source_offset] = letter.error

    def _messages(self, consumer: Any, topics: Sequence[str]) -> Iterator[Any]:
        """What is new, in order within each partition."""
        left = {(topic, partition) for topic in topics for partition in range(self._topics.partitions)}
        consumer.assign([TopicPartition(*place, self._positions.get(place, 0)) for place in left])
        while left:
            message = consumer.poll(60)
            assert message is not None, f"{left} do not end"
            place = message.topic(), message.partition()
            if (error := message.error()) is None:
                if place in left:  # else it came behind the end as of now
                    self.records += 1
                    yield message
                    self._positions[place] = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(place)


def _compare(verdict: Verdict, message: Any, whose: str, covers: Covers, before: Covers) -> None:
    """A source that is named once stays: nothing is forgotten of a user who has not left."""
    if not _is_behind_nothing(covers, before):
        verdict.add("regressed", f"{_where(message)}: {whose} covers {dict(covers)}, {dict(before)} before")


def _is_behind_nothing(covers: Covers, before: Covers) -> bool:
    return all(covers.get(source, -1) >= offset for source, offset in before.items())


def _advance(covered: dict[str, int], covers: Covers) -> None:
    for source, offset in covers.items():
        covered[source] = max(offset, covered.get(source, -1))


def _where(message: Any) -> str:
    return f"{message.topic()}:{message.partition()}:{message.offset()}"
