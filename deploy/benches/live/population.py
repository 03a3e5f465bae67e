"""Users as a benchmark of the whole system needs them: long histories, then single events. Seeded.

Modalities are the paper's six with their event caps. Texts follow a power law over several thousand, so most are in the
processor's cache and new ones keep coming; histories differ in length as people do (log-normal, sigma 0.6).
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from deploy.settings.config import paper_modalities

HISTORY_DAYS = 60
_SHARES = {"bill": 36, "minipro": 20, "spm": 22, "search": 4, "app": 16, "profile": 2}
_TOPICS = {name: settings.topic for name, settings in paper_modalities().items()}
_DAY_MS = 86_400_000


class RawEvent(NamedTuple):
    """One message for a raw topic. ts: event time, ms."""

    event_id: str
    user_id: str
    topic: str
    ts: int
    value: bytes


class Population:
    """users: how many. events: of a history on average. now_ms: histories end here and reach back HISTORY_DAYS."""

    def __init__(self, users: int, events: int, *, now_ms: int, seed: int = 1) -> None:
        self.users = [f"user-{i:05}" for i in range(users)]
        self._rng = random.Random(seed)
        self._now_ms = now_ms
        # the mean of this distribution is 1
        self._lengths = [max(1, round(events * self._rng.lognormvariate(-0.18, 0.6))) for _ in self.users]
        self._ids = itertools.count()

    def history(self) -> list[RawEvent]:
        """All histories, in time order."""
        span = HISTORY_DAYS * _DAY_MS
        events = [
            self.event(user, self._now_ms - self._rng.randrange(1, span))
            for user, length in zip(self.users, self._lengths, strict=True)
            for _ in range(length)
        ]
        return sorted(events, key=lambda event: event.ts)

    def visits(self, per_second: int) -> Iterator[str]:
        """Who does something next, without end: in each second `per_second` different users."""
        while True:
            yield from self._rng.sample(self.users, per_second)

    def event(self, user: str, ts: int) -> RawEvent:
        """Something this user does at `ts`."""
        rng, event_id = self._rng, f"e{next(self._ids):08}"
        modality = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
        body = {"event_id": event_id, "user_id": user, "ts": ts, **_FIELDS[modality](rng)}
        return RawEvent(event_id, user, _TOPICS[modality], ts, json.dumps(body).encode())


def _rank(rng: random.Random, n: int) -> int:
    """A rank below n, the first ones much more often."""
    return min(n - 1, int(rng.paretovariate(0.7)) - 1)


def _bill(rng: random.Random) -> dict[str, object]:
    merchant = _rank(rng, 1500)
    channel = rng.choice(("card", "wallet", "transfer"))
    amount = round(rng.lognormvariate(3, 1), 2)
    return {"merchant": f"shop {merchant}", "category": f"kind {merchant % 40}", "channel": channel, "amount": amount}


_FIELDS: Mapping[str, Callable[[random.Random], dict[str, object]]] = {
    "bill": _bill,
    "minipro": lambda rng: {"program": f"program {_rank(rng, 80)}", "page": f"page {rng.randrange(4)}"},
    "spm": lambda rng: {"path": f"home.{_rank(rng, 300)}.{rng.randrange(3)}"},
    "search": lambda rng: {"query": f"thing {_rank(rng, 40)} near {_rank(rng, 40)}"},
    "app": lambda rng: {"action": rng.choice(("opened", "installed", "removed")), "app": f"app {_rank(rng, 100)}"},
    "profile": lambda rng: {"age": f"{10 * rng.randrange(2, 8)}s", "city": f"city {_rank(rng, 30)}"},
}
