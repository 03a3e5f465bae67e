"""Reading the `tokens` log into token buffers: restoring one at full speed, or following the log with several."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, TopicPartition

from store.base import logs, metrics
from store.base.stop import Stop
from store.buffer.token_buffer import Row, TokenBuffer
from stream.kafka.client import Connection
from stream.kafka.consumer_errors import ConsumerErrors
from stream.kafka.gc_pause import gc_paused
from stream.kafka.patience import patiently
from stream.kafka.positions import REBUILD, check_position
from stream.token_log.ownership import MARKER_KEY, OWNER_HEADER, SWEEP_HEADER, Ownership

_FETCH_SECONDS = 0.05
"""How long a fetch waits to fill up; also what the end of the log costs."""
APPLY_ROWS = 2000
"""Rows per WriteBatch: writing one holds the interpreter lock, some milliseconds."""
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


class _Run(NamedTuple):
    """Consecutive records of one partition that go into one WriteBatch. schema: value of its last marker."""

    rows: list[Row]
    sweep: bool
    next_offset: int
    owner: bytes
    stale: list[bytes]
    schema: bytes | None = None


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
    consumer = connection.consumer(f"{topic}.restore", **RESTORE_CONFIG)
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
                with gc_paused():
                    messages = consumer.consume(CONSUME_MESSAGES, _FETCH_SECONDS)
                    complete = _reached(messages, end, errors)
                    applied, skipped = _apply_all(buffer, messages, ownership)
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


class Polled(NamedTuple):
    """What `LogReader.poll` applied. live, swept: users marked dirty, by events and by expiry alone."""

    rows: int
    stale: int
    live: list[str]
    swept: list[str]


class LogReader:
    """Follows `tokens` with one replica buffer per assigned partition, marking users dirty. For one thread.

    The consumer is the caller's (its group decides the partitions). On assignment, call `add` for each partition and
    assign the positions it returns; on revocation call `remove` before closing the buffer.
    """

    def __init__(self, consumer: Any, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic
        self._errors = ConsumerErrors(topic)
        self._buffers: dict[int, TokenBuffer] = {}
        self._ownership: dict[int, Ownership] = {}
        self._mark_from: dict[int, int] = {}

    @property
    def buffers(self) -> dict[int, TokenBuffer]:
        """Buffers by partition."""
        return self._buffers

    def add(self, partition: int, buffer: TokenBuffer, *, mark_from: int = 0) -> TopicPartition:
        """Take a partition on; returns where to read on.

        Args:
            mark_from: records below this offset mark nobody dirty (their embeddings are known to be published).

        Raises:
            DataLossError: the log no longer begins at the buffer's position, or ends before it.
        """
        tp = TopicPartition(self._topic, partition, buffer.log_offset)
        patiently(lambda: check_position(self._consumer, tp, buffer.log_offset, remedy=REBUILD), threading.Event())
        self._buffers[partition] = buffer
        self._ownership[partition] = Ownership(buffer.owner)
        self._mark_from[partition] = mark_from
        return tp

    def remove(self, partition: int) -> TokenBuffer | None:
        """Leave a partition; returns its buffer, which is up to date with everything polled."""
        self._ownership.pop(partition, None)
        return self._buffers.pop(partition, None)

    def poll(self, max_rows: int = 5000, timeout: float = 0.1) -> Polled:
        """Read at most `max_rows` records and apply them.

        Raises:
            BrokerError: the broker refuses us for good. DataLossError: the position is gone.
        """
        rows = stale = 0
        live: list[str] = []
        swept: list[str] = []
        by_partition: dict[int, list[Any]] = {}
        first = self._consumer.poll(timeout)  # `consume` would wait for all of `max_rows`
        if first is None:
            return Polled(0, 0, live, swept)
        for message in (first, *self._consumer.consume(max_rows, 0)):
            by_partition.setdefault(message.partition(), []).append(message)
        for partition, messages in by_partition.items():
            _reached(messages, 0, self._errors)
            buffer = self._buffers.get(partition)
            if buffer is None:
                continue  # revoked since it was fetched
            mark_from = self._mark_from[partition]
            for mark_dirty, part in (
                (False, [m for m in messages if m.offset() < mark_from]),
                (True, [m for m in messages if m.offset() >= mark_from]),
            ):
                for run in split_runs(part, self._ownership[partition], buffer.log_offset):
                    (swept if run.sweep else live).extend(_apply(buffer, run, mark_dirty=mark_dirty))
                    rows += len(run.rows)
                    stale += len(run.stale)
        return Polled(rows, stale, live, swept)


def split_runs(messages: Sequence[Any], ownership: Ownership, position: int) -> Iterable[_Run]:
    """Cut records of one partition into runs to be applied at once: without markers, errors, records below
    `position`, and records of former owners."""
    if (run := _plain_run(messages, ownership, position)) is not None:
        yield run
        return
    rows: list[Row] = []
    stale: list[bytes] = []
    schema: bytes | None = None
    sweep, next_offset = False, position
    current = ownership.current
    for message in messages:
        offset = message.offset()
        if message.error() is not None or offset < position:
            continue
        headers = message.headers()
        owner, is_sweep = b"", False
        if headers is not None:
            if len(headers) == 1:
                owner = headers[0][1] if headers[0][0] == OWNER_HEADER else b""
            else:
                by_name = dict(headers)
                owner, is_sweep = by_name.get(OWNER_HEADER, b""), SWEEP_HEADER in by_name
        if len(rows) >= APPLY_ROWS or (is_sweep is not sweep and rows):
            yield _Run(rows, sweep, next_offset, current, stale, schema)
            rows, stale, schema = [], [], None
        sweep = is_sweep
        next_offset = offset + 1
        key = message.key()
        if owner != current:
            if not ownership.admits(owner):
                if key != MARKER_KEY:
                    stale.append(key)
                continue
            current = owner
        if key != MARKER_KEY:
            rows.append((key, message.value()))
        else:
            schema = message.value()
    if next_offset > position:
        yield _Run(rows, sweep, next_offset, current, stale, schema)


def _apply_all(buffer: TokenBuffer, messages: Sequence[Any], ownership: Ownership) -> tuple[int, int]:
    """Apply records without marks; returns how many rows, and how many of former owners were skipped."""
    rows = stale = 0
    for run in split_runs(messages, ownership, buffer.log_offset):
        _apply(buffer, run, mark_dirty=False)
        rows += len(run.rows)
        stale += len(run.stale)
    return rows, stale


def _plain_run(messages: Sequence[Any], ownership: Ownership, position: int) -> _Run | None:
    """All of the records, if there is nothing to cut: most of a log is rows of one owner. None: look at each."""
    headers = [(OWNER_HEADER, ownership.current)]
    if (
        0 < len(messages) <= APPLY_ROWS
        and [message.headers() for message in messages].count(headers) == len(messages)  # those of an error are None
        and messages[0].offset() >= position
    ):
        keys = [message.key() for message in messages]
        if MARKER_KEY not in keys:
            rows = list(zip(keys, [message.value() for message in messages], strict=True))
            return _Run(rows, False, messages[-1].offset() + 1, ownership.current, [])
    return None


def _apply(buffer: TokenBuffer, run: _Run, *, mark_dirty: bool) -> list[str]:
    marked = buffer.apply_log(
        run.rows,
        next_offset=run.next_offset,
        mark_dirty=mark_dirty,
        sweep=run.sweep,
        owner=None if run.owner == buffer.owner else run.owner,
        stale=run.stale,
        schema=run.schema,
    )
    if run.stale:
        log.warning(logs.STALE_ROWS, rows=len(run.stale), next_offset=run.next_offset)
    return marked


def _reached(messages: Sequence[Any], end: int, errors: ConsumerErrors) -> bool:
    """Whether records up to `end` (exclusive) have been read. Raises what `errors` finds final."""
    ended = -1
    for message in [message for message in messages if message.error() is not None]:
        if message.error().code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            ended = message.offset()
        else:
            errors.judge(message)
    last = next((message.offset() for message in reversed(messages) if message.error() is None), -1)
    return bool(max(last + 1, ended) >= end)
