"""What follows a restore: summaries whose rows came without one, and the expiry index."""

from __future__ import annotations

from collections.abc import Iterator

from store.batch import WindowRules
from store.buffer_database import BufferDatabase
from store.buffer_layout import M_RESTORING, expiry_key, prefix_length, split_prefix
from store.rows import prefix_end, unpack_summary
from store.window_reader import summary_by_scan

_BATCH = 500
"""Windows per WriteBatch: a large one holds the interpreter lock for its whole duration."""


def finish(
    db: BufferDatabase, rules: WindowRules, touched: set[bytes] | None, unsummed: set[bytes], *, relog: bool
) -> int:
    """Recompute summaries by scan and bring the expiry index up to date.

    Args:
        touched: (user, modality) prefixes restored; None = any may have been: recompute and index them all.
        unsummed: those whose rows came without a summary.
        relog: let the next sweep write what was recomputed to the log (an index entry at time 0).

    Returns:
        How many summaries were recomputed and differed.
    """
    recomputed = 0
    batch = db.batch()
    if touched is None:
        waiting = [key for name in rules.modalities for key in _relogged(db, name)]
        batch.delete_range(b"", b"\xff" * 256, db.h_expiry)
        for key in waiting:
            batch.put(key, b"", db.h_expiry)
    for prefix in all_prefixes(db) if touched is None else sorted(touched | unsummed):
        user_id, name = split_prefix(prefix)
        modality = rules.modalities.get(name)
        if modality is None:
            continue
        key = prefix + b"\x00"
        packed = db.summaries.get(key)
        if touched is None or prefix in unsummed:
            rows = [(row[len(prefix):], value) for row, value in db.items(db.rows, prefix)]  # fmt: skip
            if not rows and packed is None:
                continue
            old = None if packed is None else unpack_summary(packed)
            fresh = summary_by_scan(rows, old, modality, rules.dim).pack()
            if fresh != packed:
                packed = fresh
                recomputed += 1
                batch.put(key, fresh, db.h_summaries)
                if relog:
                    batch.put(expiry_key(name, 0, user_id), b"", db.h_expiry)
        if relog and packed is not None:
            summary = unpack_summary(packed)
            # a tabular window may hold null fields only: rows is 0, oldest is not
            due = rules.due(name, summary, occupied=summary.rows > 0 or summary.oldest > 0)
            batch.put(expiry_key(name, max(due, 1), user_id), b"", db.h_expiry)
        if len(batch) >= _BATCH:
            db.write(batch)
            batch = db.batch()
    batch.delete(M_RESTORING, db.h_meta)
    db.write(batch)
    return recomputed


def _relogged(db: BufferDatabase, modality: str) -> list[bytes]:
    """Index entries of summaries that a former restore recomputed and no sweep has logged yet."""
    found: list[bytes] = []
    start, end = expiry_key(modality, 0, ""), expiry_key(modality, 1, "")
    while page := [key for key in db.keys(db.expiry, start, _BATCH) if key < end]:
        found += page
        start = page[-1] + b"\x00"
    return found


def all_prefixes(db: BufferDatabase) -> Iterator[bytes]:
    """Every (user, modality) prefix that has rows or a summary, in key order, without reading the rows between."""
    start = b""
    while True:
        found = [*db.keys(db.rows, start, 1), *db.keys(db.summaries, start, 1)]
        if not found:
            return
        first = min(found)
        prefix = first[: prefix_length(first)]
        yield prefix
        start = prefix_end(prefix)
