"""At which pace a replay sends. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from store.base.errors import AnchorstreamError


@dataclass(frozen=True, slots=True)
class Pace:
    """When each message is due. rate: messages a second. speed: event time over wall time (60 = an hour a minute).

    Both None: at once. Both given: the later of the two. max_wait_seconds: a gap in event time is waited for at most
    this long.
    """

    rate: float | None = None
    speed: float | None = None
    max_wait_seconds: float = 60.0


class PaceClock:
    """When the next message is due, seconds after the start. Pure."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._index = -1
        self._newest: int | None = None
        self._by_time = 0.0

    @property
    def by_time(self) -> bool:
        """Whether event times matter."""
        return bool(self._pace.speed)

    def due(self, ts: int | None) -> float:
        """The next message, with this event time, ms."""
        self._index += 1
        if self._pace.speed and ts is not None:
            if self._newest is not None and ts > self._newest:
                self._by_time += min((ts - self._newest) / 1000.0 / self._pace.speed, self._pace.max_wait_seconds)
            self._newest = ts if self._newest is None else max(ts, self._newest)
        return max(self._by_time, self._index / self._pace.rate if self._pace.rate else 0.0)


class Timed(Protocol):
    """Something with an event time, ms; None = it has none."""

    @property
    def ts(self) -> int | None: ...


T = TypeVar("T", bound=Timed)


def timed(messages: Iterable[T]) -> Iterator[tuple[T, int | None]]:
    """Each message with the time that its pace goes by: its own, or that of the one behind it where that is earlier.

    So one line with a wrong year is sent among its neighbours, and neither it nor those behind it change the pace.

    Raises:
        AnchorstreamError: as `messages`, after the last of them.
    """
    before: T | None = None
    failure: AnchorstreamError | None = None
    try:
        for message in messages:
            if before is not None:
                yield before, _earlier(before.ts, message.ts)
            before = message
    except AnchorstreamError as exc:
        failure = exc
    if before is not None:
        yield before, before.ts
    if failure is not None:
        raise failure


def _earlier(own: int | None, following: int | None) -> int | None:
    return own if own is None or following is None else min(own, following)
