"""Rows of the `tokens` log as encoded events: a history out of what the running system knows. Pure.

A log tells more than its state: a row that has expired, but not been compacted away, is still an event of the past.
What was erased stays erased. Of events that are only remembered the texts are gone: they count, with a vector of zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from store.base.settings import ModalityKind, ModalitySettings
from store.window.encoded_event import EncodedEvent, EncodedField
from store.window.rows import KIND_EVENT, KIND_SUMMARY, Vector16, Vector32, parse_key, read_summary, unpack_event
from store.window.rows import unpack_field as unpack_field_row

_BATCH = 20_000
_NO_NUMBERS = np.zeros(0, np.float32)
_NO_VECTOR = np.zeros(0, np.float16)


@dataclass
class _Modality:
    """Of one user. events: (ts, id) → (numbers, vector or None where the text is gone). fields: (ts, event id, field) →
    likewise; a vector of size 0 = set to null. erased: ms, up to and with it nothing is left."""

    events: dict[tuple[int, str], tuple[Vector32, Vector16 | None]] = field(default_factory=dict)
    fields: dict[tuple[int, str, str], tuple[Vector32, Vector16]] = field(default_factory=dict)
    erased: int = 0


class TokenRows:
    """Rows of one or more partitions, taken in the log's order; holds them all, texts' vectors once each.

    without_text: events of which only numbers and times are known, of those that `events` has told.
    """

    def __init__(self, modalities: Mapping[str, ModalitySettings], dim: int) -> None:
        """modalities: rows of others are passed over. dim: of vectors."""
        self.without_text = 0
        self._modalities = modalities
        self._zeros = np.zeros(dim, np.float16)
        self._of: dict[tuple[str, str], _Modality] = {}
        self._vectors: dict[bytes, Vector16] = {}

    def take(self, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Keys and values as they lie in the log. Raises ValueError: not rows that this version knows."""
        for key, value in rows:
            if value is None:
                continue
            found = parse_key(key)
            if found.modality not in self._modalities:
                continue
            own = self._of.setdefault((found.user_id, found.modality), _Modality())
            if found.kind == KIND_SUMMARY:
                own.erased = max(own.erased, read_summary(value).erased)
            elif found.kind == KIND_EVENT:
                row = unpack_event(value)
                if row.vector.size:
                    own.events[found.ts, found.name] = row.numbers.copy(), self._shared(row.vector)
                else:
                    own.events.setdefault((found.ts, found.name), (row.numbers.copy(), None))
            else:
                of_field = unpack_field_row(value)
                vector = self._shared(of_field.vector) if of_field.vector.size else _NO_VECTOR
                own.fields[of_field.ts, of_field.event_id, found.name] = of_field.numbers.copy(), vector

    def events(self) -> Iterator[list[EncodedEvent]]:
        """In batches, as `history.collect` takes them; what was taken is forgotten on the way."""
        batch: list[EncodedEvent] = []
        for (user, modality), own in self._of.items():
            batch += self._events(user, modality, own)
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        self._of.clear()
        if batch:
            yield batch

    def _events(self, user: str, modality: str, own: _Modality) -> Iterator[EncodedEvent]:
        if self._modalities[modality].kind is ModalityKind.TABULAR:
            for (ts, event_id, name), (numbers, vector) in own.fields.items():
                if ts > own.erased:
                    of = (EncodedField(name, 0, numbers, vector),)
                    yield EncodedEvent(user, modality, ts, event_id, 0, _NO_NUMBERS, _NO_VECTOR, of, "", 0, 0)
            return
        for (ts, event_id), (numbers, found) in own.events.items():
            if ts > own.erased:
                self.without_text += found is None
                vector = self._zeros if found is None else found
                yield EncodedEvent(user, modality, ts, event_id, 0, numbers, vector, None, "", 0, 0)

    def _shared(self, vector: Vector16) -> Vector16:
        raw = vector.tobytes()
        return self._vectors.setdefault(raw, np.frombuffer(raw, np.float16))
