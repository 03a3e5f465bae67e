"""The token buffer as three lines of set theory: remember, filter, sort, truncate. No index, no sums kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from store.base.settings import ERASURE, ModalityKind, ModalitySettings
from store.window.encoded_event import EncodedEvent, EncodedField
from store.window.memory import BLOCK_MS, TOTAL_LIMIT, TOTAL_SCALE, Block, Memory
from store.window.rows import (
    EventRow,
    FieldRow,
    Summary,
    event_key,
    field_key,
    pack_event,
    pack_field,
    pack_summary,
    summary_key,
)
from store.window.summary import signed_log


@dataclass
class _Window:
    """One (user, modality). items: event id (tabular: field name) → (event, field or None). light: those remembered."""

    items: dict[str, tuple[EncodedEvent, EncodedField | None]] = field(default_factory=dict)
    light: dict[str, tuple[EncodedEvent, EncodedField | None]] = field(default_factory=dict)
    newest: int = 0
    covers: dict[str, int] = field(default_factory=dict)
    ingested_at: int = 0
    erased: int = 0


class BufferModel:
    """Applies events one by one; `rows()` is what the buffer must hold once its sweep has caught up."""

    def __init__(self, modalities: dict[str, ModalitySettings], dim: int, granularity_ms: int) -> None:
        self.modalities = modalities
        self.dim = dim
        self.granularity = granularity_ms
        self.stream_time = 0
        self.windows: dict[tuple[str, str], _Window] = {}

    def floor(self, modality: str) -> int:
        return self.stream_time // self.granularity * self.granularity - self.modalities[modality].window_ms

    def memory_floor(self, modality: str) -> float:
        settings = self.modalities[modality]
        return self.floor(modality) + settings.window_ms - settings.memory_ms if settings.memory_ms else math.inf

    def batch(self, events: list[EncodedEvent]) -> list[str]:
        """Apply a batch and sweep; returns the outcomes."""
        outcomes = [self._apply(event) for event in events]
        for user, modality in self.windows:
            self._trim(user, modality)
        stay = {user for (user, modality), window in self.windows.items() if not self._idle(modality, window)}
        self.windows = {key: window for key, window in self.windows.items() if key[0] in stay}
        return outcomes

    def _idle(self, modality: str, window: _Window) -> bool:
        last = max(window.newest, window.erased)
        return not window.items and not window.light and last + self.modalities[modality].kept_ms < self.floor(modality)

    def _apply(self, event: EncodedEvent) -> str:
        if event.modality == ERASURE:
            for modality in self.modalities:
                window = self.windows.setdefault((event.user_id, modality), _Window())
                window.covers[event.source] = max(event.source_offset, window.covers.get(event.source, -1))
                window.ingested_at = max(event.ingested_at, window.ingested_at)
                window.erased = max(window.erased, event.ts)
                self._trim(event.user_id, modality)
            return "applied"
        window = self.windows.setdefault((event.user_id, event.modality), _Window())
        window.covers[event.source] = max(event.source_offset, window.covers.get(event.source, -1))
        window.ingested_at = max(event.ingested_at, window.ingested_at)
        self._trim(event.user_id, event.modality)
        fields = [(event.event_id, None)] if event.fields is None else [(f.name, f) for f in event.fields]
        there = window.light | window.items
        mine = [(there[name], f) for name, f in fields
                if name in there and there[name][0].event_id == event.event_id]  # fmt: skip
        if any(seen.ts != event.ts or (f or event).digest != (g or seen).digest for (seen, g), f in mine):
            return "conflicting"
        fresh = [(name, f) for name, f in fields if name not in there or _order(event) > _order(there[name][0])]
        if mine and not fresh:
            return "duplicate"
        self.stream_time = max(self.stream_time, event.ts)
        window.newest = max(window.newest, event.ts)
        floor = self.floor(event.modality)
        if event.ts < min(floor, self.memory_floor(event.modality)) or (window.erased and event.ts <= window.erased):
            return "expired"
        window.items.update({name: (event, f) for name, f in fresh})
        self._trim(event.user_id, event.modality)
        for outcome, rows in (("applied", window.items), ("remembered", window.light)):
            if any(rows.get(name, (None,))[0] is event for name, _ in fresh):
                return outcome
        return "evicted"

    def _trim(self, user: str, modality: str) -> None:
        window, floor = self.windows[user, modality], self.floor(modality)
        there = window.light | window.items
        left = [item for item in there.items() if not (window.erased and item[1][0].ts <= window.erased)]
        left.sort(key=lambda item: (*_order(item[1][0]), item[0]))
        young = [item for item in left if item[1][0].ts >= floor]
        window.items = dict(young[-self.modalities[modality].max_events :])
        remembered = self.memory_floor(modality)
        window.light = {name: item for name, item in left if name not in window.items and item[0].ts >= remembered}

    def rows(self) -> dict[bytes, bytes]:
        """Every row, summaries too."""
        out: dict[bytes, bytes] = {}
        for (user, modality), window in self.windows.items():
            for name, (event, f) in window.items.items():
                if f is None:
                    key = event_key(user, modality, event.ts, name)
                    out[key] = pack_event(EventRow(event.digest, event.numbers, event.vector))
                else:
                    key = field_key(user, modality, name)
                    out[key] = pack_field(FieldRow(f.digest, event.ts, event.event_id, f.numbers, f.vector))
            for name, (event, _) in window.light.items():
                light = EventRow(event.digest, event.numbers, np.zeros(0, np.float16))
                out[event_key(user, modality, event.ts, name)] = pack_event(light)
            out[summary_key(user, modality)] = pack_summary(self._summary(modality, window))
        return out

    def _summary(self, modality: str, window: _Window) -> Summary:
        settings = self.modalities[modality]
        width = settings.number_width
        parts = [f or event for event, f in window.items.values()]
        parts = [part for part in parts if part.vector.size]
        total = np.zeros(self.dim, np.float64)
        sums, counts = [0] * width, [0] * width
        for part in parts:
            total += part.vector.astype(np.float64)
            for i, number in enumerate(part.numbers.tolist()[:width]):
                log = signed_log(number)
                if log is not None:
                    sums[i] += log
                    counts[i] += 1
        times = [event.ts for event, _ in window.items.values()]
        return Summary(
            len(parts), min(times, default=0), window.newest, total.astype(np.float32), tuple(sums), tuple(counts),
            window.covers, window.ingested_at, window.erased,
            _memory(width, [event for event, _ in window.light.values()]),
        )  # fmt: skip

    @property
    def kinds(self) -> dict[str, ModalityKind]:
        return {name: modality.kind for name, modality in self.modalities.items()}


def _memory(width: int, events: list[EncodedEvent]) -> Memory:
    blocks: dict[int, list[EncodedEvent]] = {}
    for event in events:
        blocks.setdefault(event.ts // BLOCK_MS, []).append(event)
    return Memory(
        len(events),
        min((event.ts for event in events), default=0),
        {number: _block(width, rows) for number, rows in sorted(blocks.items())},
    )


def _block(width: int, events: list[EncodedEvent]) -> Block:
    columns: list[list[float]] = [[] for _ in range(width)]
    for event in events:
        for column, number in zip(columns, event.numbers.tolist(), strict=False):
            if math.isfinite(number):
                column.append(number)
    return Block(
        len(events),
        tuple(sum(signed_log(number) or 0 for number in column) for column in columns),
        tuple(
            sum(round(max(-TOTAL_LIMIT, min(TOTAL_LIMIT, number)) * TOTAL_SCALE) for number in column)
            for column in columns
        ),
        tuple(map(len, columns)),
    )


def _order(event: EncodedEvent) -> tuple[int, str]:
    return event.ts, event.event_id
