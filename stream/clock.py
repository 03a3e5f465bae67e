"""What "now" is when an event's age is judged. Pure.

`wall`: the wall clock. `stream` (replay of history): the newest accepted time *of the raw partition the event came
in*. Not the newest of all topics: a replay of a year through several topics is consumed topic after topic, and one
topic's end would make the other's beginning late. Kafka keeps order within a partition, so whether an event is
accepted depends on its partition alone, not on who was read first (docs/adr/0004).

One time stamp cannot move a stream's clock far: what lies more than `max_ahead_ms` ahead of it is ahead of the stream,
until AGREE events in a row say so; the first of a partition all are. Where they agree the clock begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Self

from store.base.settings import ModalitySettings
from stream.commit_metadata import decode
from stream.settings import Clock, IngestSettings

Source = tuple[str, int]
"""Raw topic and partition."""

AGREE = 32
"""Events in a row that start a clock, or move it beyond its bound."""


RESET_CLOCK = ("anchorstream.clock", b"reset")
"""Header of a raw message. Where its time is too old for its stream, the stream's clock begins anew with it."""


class Place(Enum):
    """Where an event's time lies, seen from its stream's."""

    FITS = "fits"
    TOO_OLD = "too old"
    AHEAD = "ahead"


_FITS = Place.FITS  # an enum's member takes a while to find


class ClockState(NamedTuple):
    """A stream's clock. newest: newest accepted time, ms; None before the first. ahead: times of the last events, as
    far as all of them were ahead of the stream; fewer than AGREE."""

    newest: int | None = None
    ahead: tuple[int, ...] = ()


class EventClock:
    """Now, per source partition, epoch milliseconds.

    Args:
        max_age_ms: what is older by the wall is too old whatever the stream's time.
        max_ahead_ms: what is newer than the stream by more is ahead.
        lenient: everything fits a stream that has no time yet.
    """

    def __init__(self, mode: Clock, max_age_ms: int, max_ahead_ms: int, *, lenient: bool = False) -> None:
        self.mode = mode
        self.max_ahead_ms = max_ahead_ms
        self._by_wall = mode is Clock.WALL
        self._max_age_ms = max_age_ms
        self._lenient = lenient
        self._newest: dict[Source, int] = {}
        self._ahead: dict[Source, list[int]] = {}
        self._up_to: dict[Source, int] = {}

    @classmethod
    def of(cls, settings: IngestSettings, modalities: Mapping[str, ModalitySettings], *, lenient: bool = False) -> Self:
        """As configured."""
        return cls(
            settings.clock,
            int(settings.max_age_days * 86_400_000),
            settings.max_ahead_ms([m.window_ms for m in modalities.values()]),
            lenient=lenient,
        )

    def place(self, source: Source, ts: int, kept_ms: int, wall_ms: int) -> Place:
        """Judge an event's time and, if it lies ahead, remember it. kept_ms: age from which on it leaves nothing."""
        if self._by_wall:
            return Place.TOO_OLD if ts < wall_ms - kept_ms else _FITS
        newest = self._newest.get(source)
        if newest is None:
            if ts < wall_ms - self._max_age_ms:
                return Place.TOO_OLD
            if self._lenient:
                return Place.FITS
        elif ts <= newest + self.max_ahead_ms or ts <= self._up_to.get(source, -1):
            if self._ahead:
                self._ahead.pop(source, None)
            return Place.TOO_OLD if ts < newest - kept_ms or ts < wall_ms - self._max_age_ms else _FITS
        self._ahead.setdefault(source, []).append(ts)
        return Place.AHEAD

    def oldest(self, source: Source, kept_ms: int, wall_ms: int) -> int:
        """Smallest event time that is not too old."""
        if self.mode is Clock.WALL:
            return wall_ms - kept_ms
        return max(self._newest.get(source, 0) - kept_ms, wall_ms - self._max_age_ms)

    def now(self, wall_ms: int) -> int:
        """The wall, or the newest accepted time of all sources; what a pack is stamped with."""
        return wall_ms if self.mode is Clock.WALL else max(self._newest.values(), default=0)

    def advance(self, source: Source, ts: int) -> None:
        """An event of this time was accepted. It starts no stream's clock: `settle` does."""
        newest = self._newest.get(source)
        if newest is None:
            if self.mode is Clock.WALL:
                self._newest[source] = ts
        elif ts > newest:
            self._newest[source] = ts

    def agreed(self, source: Source) -> bool:
        """Whether enough events in a row were ahead for the clock to follow them."""
        return len(self._ahead.get(source, ())) >= AGREE

    def in_a_row(self, source: Source) -> int:
        """How many events in a row were ahead, up to the last one judged."""
        return len(self._ahead.get(source, ()))

    def begin(self, source: Source, times: Sequence[int], wall_ms: int) -> None:
        """Start a stream that has no time yet where its first events will, times of at least AGREE: they are known
        before they are judged, and then need not be held. No effect on any other."""
        if self._by_wall or self._lenient or source in self._newest or source in self._ahead:
            return
        ahead = [ts for ts in times if ts >= wall_ms - self._max_age_ms][:AGREE]
        if len(ahead) == AGREE:
            self._ahead[source] = ahead
            self.settle(source)

    def corroborate(self, source: Source) -> bool:
        """Of the events that are ahead of their stream, keep to those that are not ahead of every other one; whether
        there are any. Others' clocks are in order already: one wrong time stamp has moved none of them."""
        others = max((newest for other, newest in self._newest.items() if other != source), default=None)
        if others is None:
            return False
        there = [ts for ts in self._ahead.get(source, ()) if ts <= others + self.max_ahead_ms]
        if there:
            self._ahead[source] = there
        return bool(there)

    def settle(self, source: Source) -> None:
        """Begin anew where the events that were ahead say; there is at least one. Until `settled`, when they have been
        judged again, none of those that agree is ahead, whatever their order."""
        self._newest[source], self._up_to[source] = agreed_span(self._ahead.pop(source), self.max_ahead_ms)

    def settled(self, source: Source) -> None:
        """From here on the bound holds."""
        self._up_to.pop(source, None)

    def get(self, source: Source) -> int | None:
        """Newest accepted time of a source; None before the first."""
        return self._newest.get(source)

    def state(self, source: Source, *, without: int = 0) -> ClockState:
        """What `restore` needs, before the last `without` of the events that were ahead."""
        ahead = self._ahead.get(source, ())
        return ClockState(self._newest.get(source), tuple(ahead[: len(ahead) - without]))

    def restore(self, source: Source, state: ClockState) -> None:
        """Start where the committed offset stood."""
        self._newest.pop(source, None)
        self._ahead.pop(source, None)
        if state.newest is not None:
            self._newest[source] = state.newest
        if state.ahead:
            self._ahead[source] = list(state.ahead)


def agreed_span(times: Sequence[int], max_ahead_ms: int) -> tuple[int, int]:
    """Oldest and newest of those times that one gets to from their median by steps of at most `max_ahead_ms`.

    A function of the set: the outlier is left out wherever it stands.
    """
    ordered = sorted(times)
    first = last = (len(ordered) - 1) // 2
    while first and ordered[first] - ordered[first - 1] <= max_ahead_ms:
        first -= 1
    while last + 1 < len(ordered) and ordered[last + 1] - ordered[last] <= max_ahead_ms:
        last += 1
    return ordered[first], ordered[last]


def clock_fields(state: ClockState) -> dict[str, str | int | None]:
    """Of a committed offset's metadata: at most about 450 characters of the 4096 that a broker takes."""
    return {"clock": state.newest, "ahead": "+".join(map(str, state.ahead)) or None}


def read_clock(metadata: str | None) -> ClockState:
    """The clock in a committed offset's metadata; none for anything else, such as an offset set by hand."""
    fields = decode(metadata)
    if not _is_number(newest := fields.get("clock", "")):
        return ClockState()
    times = fields.get("ahead", "").split("+")
    return ClockState(int(newest), tuple(map(int, times)) if all(map(_is_number, times)) else ())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
