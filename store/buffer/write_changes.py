"""Step 5 of the commit protocol: what a batch changes, in one WriteBatch."""

from __future__ import annotations

from store.buffer.database import BufferDatabase
from store.window import layout
from store.window.accepted import pack_accepted
from store.window.changes import Changes
from store.window.layout import pack_int


def write_changes(db: BufferDatabase, changes: Changes, log_offset: int) -> None:
    """Make them durable, all or nothing, with the position behind them. log_offset: next offset of `tokens` to read."""
    batch = db.batch()
    put, delete = batch.put, batch.delete
    rows, summaries, ids, expiry = db.h_rows, db.h_summaries, db.h_ids, db.h_expiry
    for deletes in (changes.deletes, changes.sweep_deletes):
        for key, _ in deletes:
            delete(key, rows)
    for puts in (changes.puts, changes.sweep_puts):
        for key, value in puts:
            put(key, value, rows)
    for written in (changes.summaries, changes.sweep_summaries):
        for key, value in written:
            if value is None:
                delete(key, summaries)
            else:
                put(key, value, summaries)
    for key, value in changes.ids:
        if value is None:
            delete(key, ids)
        else:
            put(key, value, ids)
    for key in changes.expiry_deletes:
        delete(key, expiry)
    for key in changes.expiry_puts:
        put(key, b"", expiry)
    for key in changes.stale:
        delete(layout.M_STALE + key, db.h_meta)
    put(layout.M_SOURCE_OFFSET, pack_int(changes.source_offset), db.h_meta)
    put(layout.M_LOG_OFFSET, pack_int(log_offset), db.h_meta)
    put(layout.M_STREAM_TIME, pack_int(changes.stream_time), db.h_meta)
    if changes.account is not None:
        put(layout.M_ACCOUNT, changes.account.packed, db.h_meta)
    if changes.wall_time:
        put(layout.M_WALL_TIME, pack_int(changes.wall_time), db.h_meta)
    if changes.accepted is not None:
        put(layout.M_ACCEPTED, pack_accepted(changes.accepted), db.h_meta)
    db.write(batch)
