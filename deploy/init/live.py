"""The newest messages of a raw topic that is there already, and what is proposed of it. Reads, commits nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from deploy.checks.events import READ_SECONDS, last_messages
from deploy.init.columns import Table
from deploy.init.files import Look, Looked, events_of
from deploy.init.proposal import Source
from deploy.init.table import describe, roles_of
from deploy.init.words import slug
from store.base.errors import BrokerError, NotFoundError
from stream.events.decode import decode, is_msgpack
from stream.rejection import Rejection
from stream.replay.open_files import FileOptions
from stream.replay.row_file import Row

if TYPE_CHECKING:
    from stream.kafka.client import Connection


def look_at_topic(connection: Connection, topic: str, look: Look) -> Looked:
    """Raises NotFoundError: no such topic, or nothing in it. BrokerError."""
    there = connection.metadata(timeout_s=READ_SECONDS).topics
    if topic not in there:
        names = ", ".join(sorted(name for name in there if not name.startswith("__"))[:12]) or "none"
        raise NotFoundError(f"no topic {topic} on the broker; there are: {names}", action="name one of them")
    each = max(1, look.most // max(1, len(there[topic].partitions)))
    rows: list[Row] = []
    tombstones = 0
    denied: dict[str, str] = {}
    for message in last_messages(connection, {topic}, denied, each=each):
        if message.value():
            rows.append(Row(topic, message.offset(), _as_json(message.value())))
        else:
            tombstones += 1
    if denied:
        raise BrokerError(f"{topic}: {denied[topic]}", action="let this user describe and read it")
    if not rows:
        raise NotFoundError(f"{topic} holds no messages", action="give a file, or wait for events")
    table = Table(events_of(rows))
    roles = roles_of(table, look.wall_ms, ordered=False)
    longest = max(len(row.value or b"") for row in rows)
    source = Source(f"the newest {len(rows):,} messages of topic {topic}", longest, live=True, tombstones=tombstones)
    guess = describe(topic, table, roles, slug(topic, fallback="event"), ordered=False, live=True)
    if isinstance(guess, str):
        return Looked([], FileOptions(), rows, None, source, guess)
    return Looked([], FileOptions(), rows, guess, source)


def _as_json(value: bytes) -> bytes:
    """msgpack as JSON, which rows of files are; anything else as it is."""
    if not is_msgpack(value) or isinstance(event := decode(value, len(value)), Rejection):
        return value
    try:
        return json.dumps(event, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError):  # bytes, dates, NaN: judged as it is
        return value
