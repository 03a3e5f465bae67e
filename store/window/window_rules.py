"""The windows as configured: how far each reaches, and when something of it is due. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

from store.base.settings import ModalityKind, ModalitySettings
from store.window.rows import SummaryRow


class Shape(NamedTuple):
    """Of the windows of one modality.

    is_sequence: of events, else tabular. numbers: of a row. memory_lag: how much further back than the window its
    memory reaches, ms; None = there is none.
    """

    is_sequence: bool
    max_events: int
    numbers: int
    memory_lag: int | None

    @classmethod
    def of(cls, modality: ModalitySettings) -> Self:
        """As configured."""
        return cls(
            modality.kind is ModalityKind.EVENTS,
            modality.max_events,
            modality.number_width,
            modality.memory_ms - modality.window_ms if modality.memory_ms else None,
        )


class WindowRules:
    """Configuration of the windows."""

    def __init__(self, modalities: Mapping[str, ModalitySettings], dim: int, granularity_ms: int) -> None:
        self.modalities = modalities
        self.dim = dim
        self.granularity_ms = granularity_ms
        self._windows = {name: modality.window_ms for name, modality in modalities.items()}
        self.kept = {name: modality.kept_ms for name, modality in modalities.items()}
        """Per modality the age from which on an event leaves no row, ms."""
        # looked up once per window and batch: attributes of a validated model are slow
        self.shapes = {name: Shape.of(modality) for name, modality in modalities.items()}
        """By modality."""
        self.limits = {name: (m.window_ms, m.memory_ms, m.max_events) for name, m in modalities.items()}
        """Per modality all that `due` depends on: where it changes, entries of the expiry index may be too late."""

    def floor(self, modality: str, stream_time: int) -> int:
        """Events of a modality older than this have left the window. Moves in steps of the granularity."""
        return self.edge(stream_time) - self._windows[modality]

    def edge(self, stream_time: int) -> int:
        """The time from which windows and memories are counted back."""
        return stream_time // self.granularity_ms * self.granularity_ms

    def due(self, modality: str, totals: SummaryRow, *, occupied: bool) -> int:
        """Event time that the floor must pass before a (user, modality) has something to expire.

        A summary without rows is kept for one more window after its newest event was forgotten, then dropped, but only
        together with all others of its user: late duplicates still find what was covered, an embedding goes on
        covering what it covered, and what is kept follows the users of two windows, not all ever seen.

        A window with more rows than it may have since its configuration changed is due at once.

        occupied: there are rows, in the window (tabular: null fields too) or in the memory.
        """
        if not occupied:
            return last_seen(totals) + self.kept[modality]
        shape = self.shapes[modality]
        if totals.rows > shape.max_events:
            return 0
        if not totals.memory_rows:
            return totals.oldest
        due = 0 if shape.memory_lag is None else totals.memory_oldest + shape.memory_lag
        return min(due, totals.oldest) if totals.rows else due

    def due_with(self, modality: str, other: str, last: int) -> int:
        """The same of a modality that is kept for another one of its user, which was `last_seen` then."""
        return last + self.kept[other] + self._windows[other] - self._windows[modality]


def is_occupied(totals: SummaryRow) -> bool:
    """Whether there are rows. A tabular window may hold null fields only: rows is 0."""
    return totals.rows > 0 or totals.oldest > 0 or totals.memory_rows > 0


def last_seen(totals: SummaryRow) -> int:
    """Newest event or erasure, ms: so long late events must find what was covered, and that they are erased."""
    return max(totals.newest, totals.erased)
