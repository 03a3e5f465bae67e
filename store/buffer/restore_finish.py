"""The end of a restore: windows whose rows came without their summary."""

from __future__ import annotations

from typing import Any

from store.buffer.database import BufferDatabase
from store.buffer.expiry_index import WRITTEN_AT_ONCE, due_key
from store.window.layout import M_UNSUMMED, expiry_key, split_prefix
from store.window.rows import unpack_summary
from store.window.user_window import summary_by_scan
from store.window.window_rules import WindowRules


def finish(db: BufferDatabase, rules: WindowRules, unsummed: set[bytes]) -> int:
    """Recompute by scan the summaries of windows whose rows came without one: the log was cut inside a batch.

    What differed is written to the log by the next sweep (an entry of the expiry index at time 0).

    Args:
        unsummed: (user, modality) prefixes. They are taken out, and unmarked with their summaries, so an interrupted
            call goes on; those of a modality that is not configured stay until it is.

    Returns:
        How many differed.
    """
    known = sorted(prefix for prefix in unsummed if split_prefix(prefix)[1] in rules.modalities)
    recomputed = 0
    batch = db.batch()
    for prefix in known:
        recomputed += _recompute(db, rules, prefix, batch)
        batch.delete(M_UNSUMMED + prefix, db.h_meta)
        if len(batch) >= WRITTEN_AT_ONCE:
            db.write(batch)
            batch = db.batch()
    db.write(batch)
    unsummed.difference_update(known)
    return recomputed


def _recompute(db: BufferDatabase, rules: WindowRules, prefix: bytes, batch: Any) -> bool:
    user_id, name = split_prefix(prefix)
    key = prefix + b"\x00"
    packed = db.summaries.get(key)
    rows = [(row[len(prefix) :], value) for row, value in db.items(db.rows, prefix)]
    if not rows and packed is None:
        return False
    old = None if packed is None else unpack_summary(packed)
    fresh = summary_by_scan(rows, old, rules.modalities[name], rules.dim).pack()
    if fresh == packed:
        return False
    batch.put(key, fresh, db.h_summaries)
    batch.put(expiry_key(name, 0, user_id), b"", db.h_expiry)
    if (entry := due_key(rules, prefix, fresh, packed)) is not None:
        batch.put(entry, b"", db.h_expiry)
    return True
