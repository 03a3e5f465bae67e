"""An index that is obviously right: a dict, one entry at a time, and brute force. Used by the property tests."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from store.index.door import Entry
from store.records.embedding import EmbeddingRecord

DIM = 8
PARTITIONS = 2


def partition_of(user: str) -> int:
    return sum(user.encode()) % PARTITIONS


def entry(
    user: str,
    offset: int,
    vector: NDArray[np.float32] | None,
    *,
    covers: dict[str, int] | None = None,
    model: str = "m1",
    scenario: str = "s",
    registration: int = 0,
) -> Entry:
    """A message of the scenario's topic; vector None = erasure."""
    value = None
    if vector is not None:
        record = EmbeddingRecord(
            user, scenario, model, 1, 2, 3, vector, covers or {"t:0": offset}, {"bill": 1}, registration
        )
        value = record.pack()
    return Entry(partition_of(user), offset, user, value, timestamp=offset)


@dataclass
class Twin:
    rows: dict[str, tuple[int, EmbeddingRecord]] = field(default_factory=dict)
    tombstones: dict[str, tuple[int, dict[str, int]]] = field(default_factory=dict)
    registration: int = 0

    def apply(self, item: Entry) -> None:
        row, tombstone = self.rows.get(item.user_id), self.tombstones.get(item.user_id)
        last = row[0] if row else tombstone[0] if tombstone else -1
        if item.offset <= last:
            return
        if item.value is None:
            covers = row[1].covers if row else tombstone[1] if tombstone else {}
            self.rows.pop(item.user_id, None)
            self.tombstones[item.user_id] = (item.offset, covers)
            return
        record = EmbeddingRecord.unpack(item.value)
        if record.registration != self.registration:
            return
        if not np.isfinite(record.vector).all() or not record.vector.any() or len(record.vector) != DIM:
            return
        if tombstone and tombstone[1] and all(n <= tombstone[1].get(s, -1) for s, n in record.covers.items()):
            return
        self.tombstones.pop(item.user_id, None)
        self.rows[item.user_id] = (item.offset, record)

    def vector(self, user: str) -> NDArray[np.float64]:
        vector = self.rows[user][1].vector
        return (vector / np.float32(np.sqrt(float(vector @ vector)))).astype(np.float64)

    def neighbors(
        self,
        query: NDArray[np.float64],
        k: int,
        model: str,
        allow: set[str] | None,
        deny: set[str],
        min_score: float | None,
    ) -> list[tuple[str, float]]:
        scored = [
            (user, float(np.clip((self.vector(user) * query).sum(), -1, 1)))
            for user, (_, record) in self.rows.items()
            if record.model == model and user not in deny and (allow is None or user in allow)
        ]
        kept = [(user, score) for user, score in scored if min_score is None or score >= min_score - 1e-6]
        return sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:k]
