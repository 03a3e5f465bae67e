"""A whole history in columns, read once through the path's own rules: what windows of any moment are cut from.

An event goes through what it would meet on its way (mapping, validation, text, encoding); only Kafka is left out. About
60 bytes an event are kept beside the distinct texts' vectors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from store.base.settings import ERASURE, ModalityKind, ModalitySettings
from store.window.encoded_event import EncodedEvent
from store.window.rows import Vector16, Vector32
from store.window.summary import signed_logs
from stream.clock import EventClock
from stream.events.event import Event, Pack
from stream.events.validate import Validator
from stream.processor.encode_events import TextEncoder, encode_events
from stream.settings import Clock, IngestSettings, MappingSettings

_BATCH = 20_000


@dataclass(frozen=True, slots=True)
class ModalityHistory:
    """Rows of one modality, of all users: in order of (user, time, event id).

    A row is an event; of a tabular modality a field of one.
    starts: int64 (users + 1,), where each user's rows begin. ts: int64 (n,), ms. names: bytes (n,), event ids or field
    names. numbers: float32 (n, k), NaN = missing. vectors: int32 (n,), rows of `History.vectors`; -1 = a field set to
    null. logs: int64 (n, k), fixed-point signed logs as in a summary, 0 where missing. present: bool (n, k).
    """

    starts: NDArray[np.int64]
    ts: NDArray[np.int64]
    names: NDArray[np.bytes_]
    numbers: Vector32
    vectors: NDArray[np.int32]
    logs: NDArray[np.int64]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class History:
    """users: ids in order; the place of a user is what names it elsewhere. vectors: float16 (distinct texts, dim)."""

    users: list[str]
    settings: Mapping[str, ModalitySettings]
    modalities: dict[str, ModalityHistory]
    vectors: Vector16

    @property
    def dim(self) -> int:
        """Of a text's vector."""
        return int(self.vectors.shape[1])

    @property
    def rows(self) -> int:
        """Of all modalities."""
        return sum(len(own.ts) for own in self.modalities.values())


def accepted(
    events: Iterable[Mapping[str, Any]],
    modalities: Mapping[str, ModalitySettings],
    mapping: Mapping[str, MappingSettings] | None = None,
) -> Iterator[Event]:
    """What ingest makes of raw events, each judged as if it had just happened; what it would refuse is left out.

    Of events that name their modality, and erase nobody.
    """
    ingest = IngestSettings(clock=Clock.WALL)
    rules = Validator(modalities, ingest, EventClock.of(ingest, modalities), mapping=mapping)
    to_json = msgspec.json.Encoder().encode
    for offset, raw in enumerate(events):
        ts, of = raw.get("ts"), modalities.get(str(raw.get("modality")))
        if of is None or not isinstance(ts, int):
            continue
        found = rules.validate(to_json(raw), of.topic, 0, offset, ts, ts)
        if isinstance(found, Event) and found.modality != ERASURE:
            yield found


def accepted_rows(
    rows: Iterable[tuple[str, bytes]],
    modalities: Mapping[str, ModalitySettings],
    mapping: Mapping[str, MappingSettings],
    ingest: IngestSettings,
) -> Iterator[Event]:
    """What ingest makes of messages as a producer would send them; what it would refuse or skip is left out.

    Args:
        rows: (topic, value), in any order: none is too old. ingest: as configured.
    """
    rules = Validator(modalities, ingest, EventClock.of(ingest, modalities, lenient=True), mapping=mapping)
    now = int(time.time() * 1000)
    for offset, (topic, value) in enumerate(rows):
        found = rules.validate(value, topic, 0, offset, now, now)
        if isinstance(found, Event) and found.modality != ERASURE:
            yield found


def encoded(events: Iterable[Event], encoder: TextEncoder) -> Iterator[list[EncodedEvent]]:
    """What the processor makes of accepted events, in batches."""
    left = iter(events)
    while batch := list(islice(left, _BATCH)):
        yield encode_events([Pack.of(0, batch)], encoder)


def collect(
    batches: Iterable[Sequence[EncodedEvent]],
    modalities: Mapping[str, ModalitySettings],
    dim: int,
    on_progress: Callable[[int], object] = lambda events: None,
) -> History:
    """Events in any order, sorted. An event id comes once for a user and modality.

    Args:
        dim: of vectors. on_progress: called with the number of events so far.
    """
    users: dict[str, int] = {}
    columns = {name: _Columns(m.number_width) for name, m in modalities.items()}
    vectors, done = _Vectors(dim), 0
    for batch in batches:
        by_modality: dict[str, list[EncodedEvent]] = {}
        for event in batch:
            users.setdefault(event.user_id, len(users))
            by_modality.setdefault(event.modality, []).append(event)
        for name, own in by_modality.items():
            columns[name].add(own, users, vectors, tabular=modalities[name].kind is ModalityKind.TABULAR)
        vectors.forget_places()
        done += len(batch)
        on_progress(done)
    names = sorted(users)
    rank = np.empty(len(names), np.int64)
    rank[[users[name] for name in names]] = np.arange(len(names))
    return History(names, modalities, {name: own.sorted(rank) for name, own in columns.items()}, vectors.table())


class _Vectors:
    """Distinct vectors by their bytes; within a batch equal texts share one array, which spares most look-ups."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._row_of: dict[bytes, int] = {}
        self._places: dict[int, int] = {}

    def row(self, vector: Vector16) -> int:
        if not vector.size:
            return -1
        found = self._places.get(id(vector))
        if found is None:
            found = self._row_of.setdefault(vector.tobytes(), len(self._row_of))
            self._places[id(vector)] = found
        return found

    def forget_places(self) -> None:
        """The arrays may go."""
        self._places.clear()

    def table(self) -> Vector16:
        return np.frombuffer(b"".join(self._row_of), np.float16).reshape(-1, self._dim)


class _Columns:
    def __init__(self, width: int) -> None:
        self._width = width
        self._chunks: list[tuple[NDArray[Any], ...]] = []

    def add(
        self, events: Sequence[EncodedEvent], users: Mapping[str, int], vectors: _Vectors, *, tabular: bool
    ) -> None:
        who, ts, order, names, of = [], [], [], [], []
        numbers: list[Vector32] = []
        for event in events:
            for field in (event.fields or ()) if tabular else (None,):
                who.append(users[event.user_id])
                ts.append(event.ts)
                order.append(event.event_id.encode())
                names.append((field.name if field else event.event_id).encode())
                own = field or event
                numbers.append(own.numbers)
                of.append(vectors.row(own.vector))
        table = np.full((len(who), self._width), np.nan, np.float32)
        for i, row in enumerate(numbers):
            k = min(self._width, row.size)
            table[i, :k] = row[:k]
        self._chunks.append(
            (
                np.array(who, np.int64), np.array(ts, np.int64), np.array(order, np.bytes_),
                np.array(names, np.bytes_), table, np.array(of, np.int32),
            )
        )  # fmt: skip

    def sorted(self, rank: NDArray[np.int64]) -> ModalityHistory:
        """rank: place of each user by the number it was given when it first came."""
        if not self._chunks:
            self.add((), {}, _Vectors(0), tabular=False)
        who, ts, order, names, numbers, vectors = map(np.concatenate, zip(*self._chunks, strict=True))
        self._chunks.clear()
        who = rank[who] if len(who) else who
        by_id = np.argsort(order, kind="stable")
        by_all = by_id[np.lexsort((ts[by_id], who[by_id]))]
        numbers = numbers[by_all]
        starts = np.searchsorted(who[by_all], np.arange(len(rank) + 1))
        logs, present = signed_logs(numbers)
        return ModalityHistory(starts, ts[by_all], names[by_all], numbers, vectors[by_all], logs, present)
