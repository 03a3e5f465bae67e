"""Where the time goes on an event's way, from the topics' own timestamps, read once everything has passed.

    raw → events          produced → ingest sent it on        timestamp of its pack in `events`
    events → tokens       → the processor sent its summary    timestamp of the first summary in `tokens` that covers it
    tokens → embedding    → the worker computed it            `computed_at` of the first records that cover it

All on one machine, so the clocks agree; nothing is measured while the load is on.
"""

from __future__ import annotations

import bisect
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from deploy.benches.live.traffic import Sent
from store.base.errors import BrokerError
from store.records.embedding import EmbeddingRecord
from store.window.rows import KIND_SUMMARY, parse_key, unpack_summary
from stream.events.event import unpack
from stream.kafka.client import Connection
from stream.serve.offset_committer import Offsets
from stream.token_log.ownership import MARKER_KEY
from stream.topics import Topics

STEPS = ("raw → events", "events → tokens", "tokens → embedding")
_SILENCE_SECONDS = 30.0
_READING: dict[str, Any] = {"auto.offset.reset": "error", "enable.partition.eof": True}


class _Covered:
    """When each offset of a user's source was first covered."""

    def __init__(self) -> None:
        self._runs: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)

    def add(self, user: str, covers: Mapping[str, int], at_ms: int) -> None:
        for source, offset in covers.items():
            run = self._runs[user, source]
            if not run or offset > run[-1][0]:
                run.append((offset, at_ms))

    def first(self, user: str, source: str, offset: int) -> int:
        """ms. Raises KeyError if nothing covers it."""
        run = self._runs[user, source]
        at = bisect.bisect_left(run, offset, key=lambda pair: pair[0])
        if at == len(run):
            raise KeyError(f"{source}:{offset} of {user}")
        return run[at][1]


def ends(connection: Connection, topics: Topics, scenarios: Iterable[str]) -> dict[tuple[str, int], int]:
    """Where the topics of the way end now."""
    names = (topics.events, topics.tokens, *map(topics.embeddings, scenarios))
    consumer = connection.consumer(f"{topics.prefix}.bench")
    try:
        return {
            (name, partition): consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=30.0)[1]
            for name in names
            for partition in range(topics.partitions)
        }
    finally:
        consumer.close()


def count_records(connection: Connection, topics: Topics, scenarios: Sequence[str], begins: Offsets) -> int:
    """Embeddings of all scenarios that were published since the topics ended at `begins`."""
    names = {topics.embeddings(scenario) for scenario in scenarios}
    until = {place: end for place, end in ends(connection, topics, scenarios).items() if place[0] in names}
    return sum(message.value() is not None for message in _messages(connection, begins, until))


def seconds(
    connection: Connection, topics: Topics, scenarios: Sequence[str], sent: Iterable[Sent], begins: Offsets
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """{step: seconds of each event}, and {event id: ms at which every scenario's embedding was computed}.

    Args:
        begins: where the topics ended before the first of `sent`; everything has arrived since.

    Raises:
        KeyError: an event has left no trace in one of the topics.
        BrokerError: a topic cannot be read to its end.
    """
    events: dict[tuple[str, int], int] = {}
    tokens = _Covered()
    embeddings = {topics.embeddings(scenario): _Covered() for scenario in scenarios}
    for message in _messages(connection, begins, ends(connection, topics, scenarios)):
        topic, at_ms, key, value = message.topic(), message.timestamp()[1], message.key(), message.value()
        if topic == topics.events:
            for event in unpack(value).events:
                events.setdefault((event.source, event.source_offset), at_ms)
        elif topic == topics.tokens:
            if key != MARKER_KEY and value is not None and (row := parse_key(key)).kind == KIND_SUMMARY:
                tokens.add(row.user_id, unpack_summary(value).covers, at_ms)
        elif value is not None:
            record = EmbeddingRecord.unpack(value)
            embeddings[topic].add(record.user_id, record.covers, record.computed_at)
    found: dict[str, list[float]] = {step: [] for step in STEPS}
    computed: dict[str, int] = {}
    for one in sent:
        user, source, offset = one.event.user_id, one.source, one.offset
        last = max(covered.first(user, source, offset) for covered in embeddings.values())
        times = (one.produced_ms, events[source, offset], tokens.first(user, source, offset), last)
        for step, begin, end in zip(STEPS, times, times[1:], strict=False):
            found[step].append((end - begin) / 1000)
        computed[one.event.event_id] = last
    return found, computed


def _messages(connection: Connection, begins: Offsets, until: Offsets) -> Iterator[Any]:
    """All messages between two positions; of each partition in order."""
    consumer = connection.consumer("bench.steps", **_READING)
    left = {place: end for place, end in until.items() if begins[place] < end}
    consumer.assign([TopicPartition(*place, begins[place]) for place in left])
    deadline = time.monotonic() + _SILENCE_SECONDS
    try:
        while left:
            for message in consumer.consume(1000, 0.2):
                deadline = time.monotonic() + _SILENCE_SECONDS
                place = message.topic(), message.partition()
                if (error := message.error()) is None:
                    if message.offset() < until[place]:
                        yield message
                elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    raise KafkaException(error)
                # the last offset may be that of a transaction's marker, which is not handed out
                if message.offset() >= until[place] - (error is None):
                    left.pop(place, None)
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"nothing came for {_SILENCE_SECONDS:g} s; ends not reached: {left}",
                    action="check the broker, then try again",
                )
    finally:
        consumer.close()
