"""The index's door: what may enter. Pure; what is refused is counted, never applied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store.records.embedding import EmbeddingRecord
from store.records.scenario import CONFIGURED


class Refusal(StrEnum):
    """Why a record was refused; a metric label."""

    FORMAT = "format"
    """Not an embedding record, or of another user or scenario than its key and topic say."""
    DIM = "dim"
    NOT_FINITE = "not_finite"
    ZERO_NORM = "zero_norm"
    PARTITION = "partition"
    """The user's earlier records came from another partition: their offsets cannot be compared."""
    REGISTRATION = "registration"
    """Of an earlier life of the scenario's name (store/records/scenario.py), or of a later one."""


class Entry(NamedTuple):
    """One message of `embeddings.<scenario>`.

    value: the record's bytes; None = erased. timestamp: the message's, ms.
    """

    partition: int
    offset: int
    user_id: str
    value: bytes | None
    timestamp: int = 0


class Refused(NamedTuple):
    """A message that was not applied."""

    entry: Entry
    reason: Refusal
    detail: str


@dataclass(slots=True)
class Checked:
    """The newest acceptable entry per user. `vectors[i]` (n, dim), unit length, belongs to `records[i]`.

    entries: in offset order; records[i] is None for an erasure, its vector is zero. superseded: older entries of a
    user in the same batch.
    """

    entries: list[Entry] = field(default_factory=list)
    records: list[EmbeddingRecord | None] = field(default_factory=list)
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    refused: list[Refused] = field(default_factory=list)
    superseded: int = 0


def check(batch: Sequence[Entry], *, scenario: str, dim: int, registration: int = CONFIGURED) -> Checked:
    """Unpack, verify, normalise and deduplicate a batch; a refused entry does not hide an older good one.

    registration: of the scenario; records of another are refused. Erasures carry none and always hold.
    """
    out = Checked()
    newest: dict[str, tuple[Entry, EmbeddingRecord | None, NDArray[np.float32]]] = {}
    zero = np.zeros(dim, np.float32)
    for entry in batch:
        record, vector = None, zero
        if entry.value is not None:
            accepted = _accept(entry, entry.value, scenario, dim, registration)
            if isinstance(accepted, Refused):
                out.refused.append(accepted)
                continue
            record, vector = accepted
        known = newest.get(entry.user_id)
        if known is not None:
            out.superseded += 1
            if known[0].partition == entry.partition and known[0].offset >= entry.offset:
                continue
            if known[0].partition != entry.partition:
                out.superseded -= 1
                out.refused.append(Refused(entry, Refusal.PARTITION, f"another record came from {known[0].partition}"))
                continue
        newest[entry.user_id] = (entry, record, vector)
    kept = sorted(newest.values(), key=lambda item: (item[0].partition, item[0].offset))
    out.entries = [entry for entry, _, _ in kept]
    out.records = [record for _, record, _ in kept]
    out.vectors = np.stack([vector for _, _, vector in kept]) if kept else np.zeros((0, dim), np.float32)
    return out


def _accept(
    entry: Entry, value: bytes, scenario: str, dim: int, registration: int
) -> tuple[EmbeddingRecord, NDArray[np.float32]] | Refused:
    try:
        record = EmbeddingRecord.unpack(value)
    except ValueError as exc:
        return Refused(entry, Refusal.FORMAT, str(exc))
    if record.user_id != entry.user_id or record.scenario != scenario:
        return Refused(entry, Refusal.FORMAT, f"key or topic differs from the record's user or {record.scenario!r}")
    if record.registration != registration:
        return Refused(entry, Refusal.REGISTRATION, f"of registration {record.registration}, not {registration}")
    if record.vector.shape != (dim,):
        return Refused(entry, Refusal.DIM, f"{len(record.vector)} values instead of {dim}")
    # float16 values: their squares cannot overflow float32, so only a value not finite makes the norm so
    norm = math.sqrt(float(record.vector @ record.vector))
    if not math.isfinite(norm):
        return Refused(entry, Refusal.NOT_FINITE, "a value is not finite")
    # a unit vector of float16 has a norm within 1.3e-4 of 1; anything near zero has no direction
    if norm < 1e-3:
        return Refused(entry, Refusal.ZERO_NORM, f"norm {norm:.3g}")
    return record, record.vector / np.float32(norm)
