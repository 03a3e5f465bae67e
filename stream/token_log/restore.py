"""Reading the `tokens` log into one token buffer at full speed, to the end as of now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import TopicPartition

from store.base import logs, metrics, pulse
from store.base.errors import DataLossError
from store.base.stop import Stop
from store.buffer.token_buffer import TokenBuffer
from stream.kafka.client import Connection
from stream.kafka.consumer_errors import ConsumerErrors
from stream.kafka.gc_pause import gc_paused
from stream.kafka.patience import patiently
from stream.kafka.positions import REBUILD, check_position
from stream.kafka.topic_ids import TopicIds
from stream.reading.assigned_reader import AssignedReader
from stream.token_log.log_runs import apply_all, reached
from stream.token_log.ownership import Ownership

_FETCH_SECONDS = 0.05
"""How long a fetch waits to fill up; also what the end of the log costs."""
CONSUME_MESSAGES = 1000
"""Taken from librdkafka at once by `restore`: so few stay in the processor's cache until they are applied."""
BULK_RECORDS = 50_000
"""From this many records on, opening the database twice more is worth it."""
RESTORE_CONFIG: dict[str, Any] = {
    "auto.offset.reset": "error",  # a position that is lost while reading must not be skipped in silence
    "enable.partition.eof": True,
    "fetch.message.max.bytes": 8 * 1024 * 1024,
    "fetch.max.bytes": 64 * 1024 * 1024,
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 64 * 1024,
    "fetch.queue.backoff.ms": 5,  # the default, 1 s, leaves a full queue empty for most of it
    "check.crcs": False,
}
"""Of a consumer that reads as much as it can."""

OnRestoreProgress = Callable[[int, int], object]
"""progress(rows applied, records remaining)."""


log = logs.get(__name__)


class Restored(NamedTuple):
    """What `restore` did. complete: False if it was stopped. stale: records of former owners skipped."""

    rows: int
    stale: int
    recomputed: int
    seconds: float
    complete: bool


def same_log(ids: TopicIds, topic: str, buffer: TokenBuffer) -> None:
    """Make sure that the buffer's position counts for the `tokens` that is there, wherever in it it lies.

    Raises:
        DataLossError: the topic was deleted and made anew. KafkaException: the broker did not answer.
    """
    found = patiently(lambda: ids.ask([topic]), threading.Event()).get(topic)
    if found is None or found == buffer.log_topic:
        return
    if buffer.log_topic:
        raise DataLossError(
            f"{topic} was deleted and made anew; this buffer followed the old one up to offset {buffer.log_offset}",
            action=REBUILD,
        )
    buffer.follow_log(found)  # a new buffer, or an older version's


def records_left(connection: Connection, topic: str, buffers: Mapping[int, TokenBuffer]) -> dict[int, int]:
    """{partition: about how many records `restore` would read}; a position that cannot be served counts as none.

    Raises:
        KafkaException: the broker did not answer.
    """
    consumer = connection.consumer(f"{topic}.restore")
    never = threading.Event()
    try:
        ends = {
            partition: patiently(
                partial(consumer.get_watermark_offsets, TopicPartition(topic, partition), timeout=10, cached=False),
                never,
            )[1]
            for partition in buffers
        }
    finally:
        consumer.close()
    return {partition: max(0, end - buffers[partition].log_offset) for partition, end in ends.items()}


def restore(
    connection: Connection,
    topic: str,
    partition: int,
    buffer: TokenBuffer,
    *,
    on_progress: OnRestoreProgress | None = None,
    stop: Stop | None = None,
    upto: int | None = None,
    finish: bool = True,
) -> Restored:
    """Apply `tokens` from `buffer.log_offset` to the end (as of now). Resumable: the position lies with the rows.

    Args:
        on_progress: called after each fetch.
        stop: ends it early, between two WriteBatches.
        upto: read at least to this offset (exclusive); default: the end when it starts.
        finish: call `buffer.finish_restore` at the end.

    Raises:
        DataLossError: the log no longer begins at the buffer's position, or ends before it.
        KafkaException: the broker failed.
    """
    started = time.monotonic()
    same_log(TopicIds(connection), topic, buffer)
    consumer = AssignedReader(connection, f"{topic}.restore", **RESTORE_CONFIG)
    errors = ConsumerErrors(f"{topic}.restore")
    rows = stale = recomputed = 0
    try:
        tp = TopicPartition(topic, partition, buffer.log_offset)
        never = threading.Event()
        patiently(lambda: check_position(consumer, tp, buffer.log_offset, remedy=REBUILD), never)
        _, high = patiently(lambda: consumer.get_watermark_offsets(tp, timeout=10, cached=False), never)
        end = max(high, upto or 0)
        consumer.assign([tp])
        ownership = Ownership(buffer.owner)
        complete = buffer.log_offset >= end
        with buffer.bulk_load() if end - buffer.log_offset >= BULK_RECORDS else nullcontext():
            while not complete and not (stop is not None and stop.is_set()):
                pulse.beat()
                with gc_paused():
                    messages = consumer.consume(CONSUME_MESSAGES, _FETCH_SECONDS)
                    complete = reached(messages, end, errors)
                    applied, skipped = apply_all(buffer, messages, ownership)
                    messages = []  # else the next collection looks at them
                rows += applied
                stale += skipped
                if on_progress is not None:
                    on_progress(rows, max(0, end - buffer.log_offset))
        if complete and finish:
            recomputed = buffer.finish_restore()
    finally:
        consumer.close()
    seconds = time.monotonic() - started
    metrics.RESTORED_ROWS.inc(rows)
    log.info(
        logs.BUFFER_RESTORED,
        partition=partition,
        rows=rows,
        stale=stale,
        recomputed=recomputed,
        seconds=round(seconds, 3),
        complete=complete,
    )
    return Restored(rows, stale, recomputed, seconds, complete)
