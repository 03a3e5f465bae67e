"""Records of `tokens` cut into runs that go into one WriteBatch each: without markers and records of former owners."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from confluent_kafka import KafkaError

from store.base import logs
from store.buffer.token_buffer import Row, TokenBuffer
from stream.kafka.consumer_errors import ConsumerErrors
from stream.token_log.ownership import MARKER_KEY, OWNER_HEADER, SWEEP_HEADER, Ownership

APPLY_ROWS = 2000
"""Rows per WriteBatch: writing one holds the interpreter lock, some milliseconds."""

log = logs.get(__name__)


class Run(NamedTuple):
    """Consecutive records of one partition that go into one WriteBatch. marker: value of its last one."""

    rows: list[Row]
    sweep: bool
    next_offset: int
    owner: bytes
    stale: list[bytes]
    marker: bytes | None = None


def split_runs(messages: Sequence[Any], ownership: Ownership, position: int) -> Iterable[Run]:
    """Cut records of one partition into runs to be applied at once: without markers, errors, records below
    `position`, and records of former owners."""
    if (run := _plain_run(messages, ownership, position)) is not None:
        yield run
        return
    rows: list[Row] = []
    stale: list[bytes] = []
    marker: bytes | None = None
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
            yield Run(rows, sweep, next_offset, current, stale, marker)
            rows, stale, marker = [], [], None
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
            marker = message.value()
    if next_offset > position:
        yield Run(rows, sweep, next_offset, current, stale, marker)


def apply_all(buffer: TokenBuffer, messages: Sequence[Any], ownership: Ownership) -> tuple[int, int]:
    """Apply records without marks; returns how many rows, and how many of former owners were skipped."""
    rows = stale = 0
    for run in split_runs(messages, ownership, buffer.log_offset):
        apply(buffer, run, mark_dirty=False)
        rows += len(run.rows)
        stale += len(run.stale)
    return rows, stale


def _plain_run(messages: Sequence[Any], ownership: Ownership, position: int) -> Run | None:
    """All of the records, if there is nothing to cut: most of a log is rows of one owner. None: look at each."""
    headers = [(OWNER_HEADER, ownership.current)]
    if (
        0 < len(messages) <= APPLY_ROWS
        and [message.headers() for message in messages].count(headers) == len(messages)  # those of an error are None
        and messages[0].offset() >= position
    ):
        keys = [message.key() for message in messages]
        rows: list[Row] = list(zip(keys, [message.value() for message in messages], strict=True))
        marker = None
        if MARKER_KEY in keys:
            marker = next(value for key, value in reversed(rows) if key == MARKER_KEY)
            rows = [row for row in rows if row[0] != MARKER_KEY]
        return Run(rows, False, messages[-1].offset() + 1, ownership.current, [], marker)
    return None


def apply(buffer: TokenBuffer, run: Run, *, mark_dirty: bool) -> list[str]:
    marked = buffer.apply_log(
        run.rows,
        next_offset=run.next_offset,
        mark_dirty=mark_dirty,
        sweep=run.sweep,
        owner=None if run.owner == buffer.owner else run.owner,
        stale=run.stale,
        marker=run.marker,
    )
    if run.stale:
        log.warning(logs.STALE_ROWS, rows=len(run.stale), next_offset=run.next_offset)
    return marked


def reached(messages: Sequence[Any], end: int, errors: ConsumerErrors) -> bool:
    """Whether records up to `end` (exclusive) have been read. Raises what `errors` finds final."""
    ended = -1
    for message in [message for message in messages if message.error() is not None]:
        if message.error().code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            ended = message.offset()
        else:
            errors.judge(message)
    last = next((message.offset() for message in reversed(messages) if message.error() is None), -1)
    return bool(max(last + 1, ended) >= end)
