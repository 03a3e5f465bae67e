"""Bad and repeated events that the demo mixes into the stream, so that its summary shows where they end."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from deploy.demo.journey import RawEvent
from stream.rejection import ErrorCode
from stream.replay.replay import Outgoing, Router

DUPLICATE_EVERY = 40
DUPLICATE_DELAY = 100
"""A repeated event comes this many events later (at the end, if the stream is shorter)."""
GARBAGE_EVERY = 150
_TOO_LARGE_BYTES = 70_000
"""Above the default `ingest.max_event_bytes`, below what the broker takes."""
_YEAR_MS = 365 * 86_400_000

Spoil = Callable[[RawEvent, int], bytes | None]


@dataclass(slots=True)
class Planted:
    """What was mixed in. `garbage` counts by the error code that ingest should give."""

    events: int = 0
    duplicates: int = 0
    garbage: Counter[ErrorCode] = field(default_factory=Counter)
    users: set[str] = field(default_factory=set)
    by_user: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(user, modality) → events."""

    @property
    def published(self) -> int:
        """All messages."""
        return self.events + self.duplicates + self.garbage.total()

    def weight(self, user: str) -> tuple[int, int]:
        """How much there is to see of a user: coupon redemptions, then purchases."""
        return self.by_user[user, "redemption"], self.by_user[user, "purchase"]


def plant(events: Iterable[RawEvent], router: Router, planted: Planted, *, now_ms: int) -> Iterator[Outgoing]:
    """The events as messages, with duplicates and every kind of garbage among them. Counts as it goes.

    Args:
        now_ms: the wall clock, for timestamps in the future.
    """
    kinds = list(GARBAGE.items())
    waiting: deque[tuple[int, Outgoing]] = deque()
    event: RawEvent | None = None
    for event in events:
        planted.events += 1
        planted.users.add(event["user_id"])
        planted.by_user[event["user_id"], event["modality"]] += 1
        message = router.route(_json(event))
        yield message
        if planted.events % DUPLICATE_EVERY == 0:
            waiting.append((planted.events + DUPLICATE_DELAY, message))
        if planted.events % GARBAGE_EVERY == 0:
            code, spoil = kinds[planted.garbage.total() % len(kinds)]
            yield _garbage(router, code, spoil, event, planted, now_ms)
        while waiting and waiting[0][0] <= planted.events:
            planted.duplicates += 1
            yield waiting.popleft()[1]
    if event is None:
        return
    for code, spoil in kinds:
        if not planted.garbage[code]:
            yield _garbage(router, code, spoil, event, planted, now_ms)
    for _, message in waiting or [(0, router.route(_json(event)))]:
        planted.duplicates += 1
        yield message


def _garbage(router: Router, code: ErrorCode, spoil: Spoil, event: RawEvent, planted: Planted, now_ms: int) -> Outgoing:
    planted.garbage[code] += 1
    value = spoil(event, now_ms)
    # the neighbour's topic and key: the same partition has just seen a good event
    good = router.route(_json(event))
    return good._replace(value=None) if value is None else router.route(value)._replace(key=good.key)


def _json(event: RawEvent, **changes: object) -> bytes:
    return json.dumps({**event, **changes}, ensure_ascii=False).encode()


def _without(event: RawEvent, name: str) -> bytes:
    return _json({key: value for key, value in event.items() if key != name})


GARBAGE: dict[ErrorCode, Spoil] = {
    ErrorCode.INVALID_JSON: lambda event, _: _json(event)[:-7],
    ErrorCode.MISSING_USER_ID: lambda event, _: _without(event, "user_id"),
    ErrorCode.TS_IN_FUTURE: lambda event, now_ms: _json(event, ts=now_ms + _YEAR_MS),
    ErrorCode.UNKNOWN_MODALITY: lambda event, _: _json(event, modality="horoscope"),
    ErrorCode.NULL_VALUE: lambda event, _: None,
    ErrorCode.TS_TOO_OLD: lambda event, _: _json(event, ts=0),
    ErrorCode.INVALID_UTF8: lambda event, _: _json(event, note="caf").replace(b'"caf"', b'"caf\xe9"'),
    ErrorCode.TOO_LARGE: lambda event, _: _json(event, note="x" * _TOO_LARGE_BYTES),
    ErrorCode.INVALID_USER_ID: lambda event, _: _json(event, user_id=7),
    ErrorCode.NOT_AN_OBJECT: lambda event, _: b"[" + _json(event) + b"]",
    ErrorCode.INVALID_TS: lambda event, _: _json(event, ts="yesterday"),
    ErrorCode.MISSING_TS: lambda event, _: _without(event, "ts"),
}
"""How to spoil a good event for each error code. Profile events have a long window: `ts` 0 lies before it too."""
