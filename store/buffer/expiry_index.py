"""A primary's index of when windows have something to expire: each has an entry that is not later than that."""

from __future__ import annotations

import msgpack

from store.base import logs
from store.buffer.database import BufferDatabase
from store.window.layout import M_INDEXED, expiry_key, split_prefix
from store.window.rows import read_summary
from store.window.window_rules import WindowRules, is_occupied

log = logs.get(__name__)

WRITTEN_AT_ONCE = 500
"""Windows per WriteBatch: a large one holds the interpreter lock for its whole duration."""


def index_anew(db: BufferDatabase, rules: WindowRules) -> None:
    """Give every window an entry in the expiry index that is early enough for its configuration, where it was written
    under another one (or by a version that did not say). What is there stays: an early look does no harm."""
    written = db.meta.get(M_INDEXED)
    before = msgpack.unpackb(written) if written else {}
    now = {name: list(limits) for name, limits in rules.limits.items()}
    if before == now:
        return
    windows = 0
    batch = db.batch()
    for key, value in db.items(db.summaries, b""):
        name = split_prefix(key[:-1])[1]
        if written is not None and now.get(name) == before.get(name):
            continue
        entry = due_key(rules, key[:-1], value, None)
        if entry is not None:
            batch.put(entry, b"", db.h_expiry)
        windows += 1
        if len(batch) >= WRITTEN_AT_ONCE:
            db.write(batch)
            batch = db.batch()
    batch.put(M_INDEXED, msgpack.packb(now), db.h_meta)
    db.write(batch)
    if windows:
        log.warning(logs.BUFFER_REINDEXED, path=str(db.path), windows=windows)


def due_key(rules: WindowRules, prefix: bytes, value: bytes, old: bytes | None) -> bytes | None:
    """The entry of the expiry index that a window needs when its summary becomes `value`; None if it has one.

    Raises:
        ValueError: a summary of a format this version does not know.
    """
    user_id, name = split_prefix(prefix)
    due, _ = _due(rules, name, value)
    if old is not None:
        before, occupied = _due(rules, name, old)
        if occupied and before <= due:  # of an empty window the entry may be later, see store/window/event_batch.py
            return None
    return expiry_key(name, due, user_id)


def _due(rules: WindowRules, name: str, packed: bytes) -> tuple[int, bool]:
    """(when something is due, whether there are rows).

    A modality that is not configured may be so again: it has entries too, as early as need be.
    """
    summary = read_summary(packed)
    occupied = is_occupied(summary)
    if name in rules.modalities:
        return max(rules.due(name, summary, occupied=occupied), 1), occupied
    return max(min(summary.oldest, summary.memory_oldest) if summary.memory_rows else summary.oldest, 1), occupied
