"""What "now" is when an event's age is judged. Pure.

`wall`: the wall clock. `stream` (replay of history): the newest accepted time *of the raw partition the event came
in*. Not the newest of all topics: a replay of a year through several topics is consumed topic after topic, and one
topic's end would make the other's beginning late. Kafka keeps order within a partition, so whether an event is
accepted depends on its partition alone, not on who was read first (docs/adr/0004).
"""

from __future__ import annotations

from stream.commit_metadata import decode
from stream.settings import Clock

Source = tuple[str, int]
"""Raw topic and partition."""


class EventClock:
    """Now, per source partition, epoch milliseconds."""

    def __init__(self, mode: Clock, max_age_ms: int) -> None:
        self.mode = mode
        self._max_age_ms = max_age_ms
        self._newest: dict[Source, int] = {}

    def oldest(self, source: Source, window_ms: int, wall_ms: int) -> int:
        """Smallest event time that is not too old."""
        if self.mode is Clock.WALL:
            return wall_ms - window_ms
        return max(self._newest.get(source, 0) - window_ms, wall_ms - self._max_age_ms)

    def now(self, wall_ms: int) -> int:
        """The wall, or the newest accepted time of all sources; what a pack is stamped with."""
        return wall_ms if self.mode is Clock.WALL else max(self._newest.values(), default=0)

    def advance(self, source: Source, ts: int) -> None:
        """An event of this time was accepted."""
        if ts > self._newest.get(source, -1):
            self._newest[source] = ts

    def get(self, source: Source) -> int | None:
        """Newest accepted time of a source; None before the first."""
        return self._newest.get(source)

    def restore(self, source: Source, newest: int | None) -> None:
        """Start where the committed offset stood; None forgets the source."""
        if newest is None:
            self._newest.pop(source, None)
        else:
            self._newest[source] = newest


def read_clock(metadata: str | None) -> int | None:
    """The clock in a committed offset's metadata; None for anything else, such as an offset set by hand."""
    value = decode(metadata).get("clock", "")
    return int(value) if value.isascii() and value.isdigit() else None
