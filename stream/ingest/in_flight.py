"""Offsets that may be committed: those of batches whose every message the broker has acknowledged, in order.

Pure bookkeeping. A batch is opened, its messages are registered and sealed; deliveries count it down. Batches finish
in any order, but only an unbroken run from the oldest may be committed: a later offset covers all earlier ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from stream.clock import ClockState, Source, clock_fields
from stream.commit_metadata import encode
from stream.raw_counts import MAX_CHARS, RawCounts


class RawPosition(NamedTuple):
    """Where a raw partition is read on, the stream's clock there, the topic's id, and what became of all before."""

    next_offset: int
    clock: ClockState = ClockState()
    topic_id: str | None = None
    counts: RawCounts | None = None

    def metadata(self, counts_chars: int = MAX_CHARS) -> str:
        """Of the committed offset. counts_chars: most characters of the counts; 0 = without them."""
        counts = {} if self.counts is None or not counts_chars else self.counts.fields(counts_chars)
        return encode({**clock_fields(self.clock), "topic": self.topic_id, **counts})


@dataclass(slots=True)
class InFlightBatch:
    """Messages of one round of consumption. `remaining` counts unacknowledged outputs, plus one until it is sealed."""

    remaining: int = 1
    positions: Mapping[Source, RawPosition] = field(default_factory=dict)

    def sent(self) -> None:
        """One more output was handed to the producer."""
        self.remaining += 1

    def on_delivery(self, error: object, _message: object) -> None:
        """Delivery report of one output. After a failure the batch stays open; the producer raises it."""
        if error is None:
            self.remaining -= 1

    def seal(self, positions: Mapping[Source, RawPosition]) -> None:
        """All outputs were handed over; `positions` follow once they are acknowledged."""
        self.positions = positions
        self.remaining -= 1


class InFlight:
    """Open batches, oldest first."""

    def __init__(self) -> None:
        self._batches: deque[InFlightBatch] = deque()

    def __len__(self) -> int:
        return len(self._batches)

    def open(self) -> InFlightBatch:
        """A new batch, after all others."""
        batch = InFlightBatch()
        self._batches.append(batch)
        return batch

    def take_done(self) -> dict[Source, RawPosition]:
        """Remove the finished batches at the head and return what may be committed for them."""
        done: dict[Source, RawPosition] = {}
        while self._batches and not self._batches[0].remaining:
            done.update(self._batches.popleft().positions)
        return done
