"""What the buffer knows of one user, as arrays: the encoder's input; and how it is read out of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from store.base.settings import ModalityKind, ModalitySettings
from store.window.layout import prefix_length, split_prefix
from store.window.remembering import LightRow, Remembering, remember
from store.window.rows import (
    KIND_FIELD,
    LIGHT,
    Summary,
    SummaryRow,
    prefix_end,
    unpack_event,
    unpack_field,
    unpack_summary,
)
from store.window.summary import Totals


@dataclass(frozen=True, slots=True)
class ModalityWindow:
    """Rows of one (user, modality) in order of (time, name).

    ts: int64 (n,), ms. names: n event ids (tabular: field names). numbers: float32 (n, k), NaN = missing.
    vectors: float16 (n, dim). summary: its summary row.
    """

    summary: Summary
    ts: NDArray[np.int64]
    names: list[str]
    numbers: NDArray[np.float32]
    vectors: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class UserWindow:
    """All modalities of a user that have a summary row, by name.

    now: the time at which it is looked at, ms, where that is after its newest event (store/window/silence.py).
    """

    user_id: str
    modalities: dict[str, ModalityWindow] = field(default_factory=dict)
    now: int = 0

    def at(self, now: int) -> Self:
        """The same rows, looked at from `now`, ms."""
        return replace(self, now=now)

    @property
    def is_known(self) -> bool:
        """Whether anything is: not of a user who never came, and not of one who is erased."""
        return any(m.summary.rows or m.summary.memory.rows or not m.summary.erased for m in self.modalities.values())

    @property
    def newest_event(self) -> int:
        """Newest event time seen, ms, though its window may be empty by now; 0 where all is erased or nothing came."""
        return newest_event(m.summary for m in self.modalities.values())

    @property
    def as_of(self) -> int:
        """The time at which an embedding of it stands, ms: the newest event, or `now`, if that is later."""
        return max(self.newest_event, self.now)

    @property
    def covers(self) -> dict[str, int]:
        """{"topic:partition": last raw offset covered}, over all modalities."""
        out: dict[str, int] = {}
        for modality in self.modalities.values():
            for source, offset in modality.summary.covers.items():
                out[source] = max(offset, out.get(source, -1))
        return out

    @property
    def events(self) -> dict[str, int]:
        """Rows in the window per modality, those with none left out."""
        return {name: m.summary.rows for name, m in sorted(self.modalities.items()) if m.summary.rows}

    @property
    def ingested_at(self) -> int:
        """Newest ingestion time covered, ms; 0 when nothing was."""
        return max((m.summary.ingested_at for m in self.modalities.values()), default=0)


def newest_event(summaries: Iterable[Summary | SummaryRow]) -> int:
    """As of `UserWindow`, from a user's summaries."""
    return max((s.newest for s in summaries if s.newest > s.erased), default=0)


Range = Callable[[bytes, bytes], Iterable[tuple[bytes, bytes]]]
"""range(start, end): event and field rows with keys in [start, end), in key order."""


def read_user(
    user_id: str,
    summaries: Iterable[tuple[bytes, bytes]],
    rows: Range,
    modalities: Mapping[str, ModalitySettings],
    dim: int,
) -> UserWindow:
    """Windows of one user from the user's summary rows, in key order, and event and field rows.

    Modalities that are not configured are left out. What is remembered is not read: a window is sought behind it.
    """
    found: dict[bytes, tuple[str, Summary]] = {}
    ranges: list[tuple[bytes, bytes] | None] = []
    for key, packed in summaries:
        prefix = key[:-1]
        name = split_prefix(prefix)[1]
        if name not in modalities:
            ranges.append(None)  # its rows lie between those before and those after
            continue
        _, summary = found[prefix] = name, unpack_summary(packed)
        last = ranges[-1] if ranges else None
        if summary.memory.rows:
            start = prefix + b"\x01" + summary.oldest.to_bytes(8, "big")
            ranges.append((start, prefix_end(prefix)) if summary.rows else None)
        elif last is not None:
            ranges[-1] = last[0], prefix_end(prefix)
        else:
            ranges.append((prefix, prefix_end(prefix)))
    by_prefix: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    prefix, cut = b"\xff", 0
    keys: list[bytes] = []
    values: list[bytes] = []
    for between in ranges:
        for key, value in rows(*between) if between is not None else ():
            if not key.startswith(prefix):
                cut = prefix_length(key)
                prefix = key[:cut]
                keys, values = by_prefix[prefix] = [], []
            keys.append(key[cut:])
            values.append(value)
    out: dict[str, ModalityWindow] = {}
    for prefix, (name, summary) in found.items():
        modality = modalities[name]
        keys, values = by_prefix.get(prefix, ([], []))
        read = _fields if modality.kind is ModalityKind.TABULAR else _events
        out[name] = ModalityWindow(summary, *read(keys, values, modality.number_width, dim))
    return UserWindow(user_id, out)


Arrays = tuple[NDArray[np.int64], list[str], NDArray[np.float32], NDArray[np.float16]]


def _events(keys: list[bytes], values: list[bytes], width: int, dim: int) -> Arrays:
    n = len(keys)
    ts = np.frombuffer(b"".join(key[1:9] for key in keys), ">u8").astype(np.int64)
    names = [key[9:].decode() for key in keys]
    size = 10 + 4 * width + 2 * dim
    if all(len(value) == size for value in values):  # the usual case: one copy for all rows
        raw = np.frombuffer(b"".join(values), np.uint8).reshape(n, size)
        numbers = raw[:, 10 : 10 + 4 * width].copy().view("<f4")
        vectors = raw[:, 10 + 4 * width :].copy().view("<f2")
        return ts, names, numbers.reshape(n, width), vectors.reshape(n, dim)
    if any(value[0] == LIGHT for value in values):  # of the time of the window's oldest row, or of a shorter window
        whole = [i for i, value in enumerate(values) if value[0] != LIGHT]
        return _events([keys[i] for i in whole], [values[i] for i in whole], width, dim)
    numbers = np.full((n, width), np.nan, np.float32)
    vectors = np.zeros((n, dim), np.float16)
    for i, value in enumerate(values):
        row = unpack_event(value)
        k = min(width, row.numbers.size)
        numbers[i, :k] = row.numbers[:k]
        vectors[i] = row.vector
    return ts, names, numbers, vectors


def _fields(keys: list[bytes], values: list[bytes], width: int, dim: int) -> Arrays:
    rows = [(row.ts, key[1:].decode(), row) for key, value in zip(keys, values, strict=True)
            if key[0] == KIND_FIELD and (row := unpack_field(value)).vector.size]  # fmt: skip
    rows.sort(key=lambda item: item[:2])
    numbers = np.full((len(rows), width), np.nan, np.float32)
    vectors = np.zeros((len(rows), dim), np.float16)
    for i, (_, _, row) in enumerate(rows):
        k = min(width, row.numbers.size)
        numbers[i, :k] = row.numbers[:k]
        vectors[i] = row.vector
    ts = np.array([item[0] for item in rows], np.int64)
    return ts, [item[1] for item in rows], numbers, vectors


def summary_by_scan(
    rows: Iterable[tuple[bytes, bytes]], old: Summary | None, modality: ModalitySettings, dim: int
) -> Totals:
    """Totals of one (user, modality) from its rows alone: the naive twin of keeping them.

    rows: (key without prefix, value). covers, ingested_at, erased and the newest event ever seen are not in the rows;
    they come from `old`.
    """
    totals = Totals.empty(dim, modality.number_width)
    oldest: int | None = None
    light: list[LightRow] = []
    for rest, value in rows:
        if rest[0] == KIND_FIELD:
            field = unpack_field(value)
            ts, vector, numbers = field.ts, field.vector, field.numbers
        else:
            event = unpack_event(value)
            ts, vector, numbers = int.from_bytes(rest[1:9], "big"), event.vector, event.numbers
        totals.newest = max(totals.newest, ts)
        if value[0] == LIGHT:
            light.append(LightRow(ts, numbers.tobytes()))
            continue
        if vector.size:
            totals.add(vector, numbers.tolist())
        oldest = ts if oldest is None else min(oldest, ts)
    totals.oldest = oldest or 0
    if light:
        totals.memory_rows = len(light)
        totals.memory_oldest = min(row.ts for row in light)
        remember([Remembering(totals, light, ())])
    if old is not None:
        totals.newest = max(totals.newest, old.newest)
        totals.covers = dict(old.covers)
        totals.ingested_at = old.ingested_at
        totals.erased = old.erased
    return totals
