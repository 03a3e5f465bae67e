"""A seeded stream of behaviour with duplicates, disorder and garbage, and what must become of it."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

DAY_MS = 86_400_000
NOW = 1_500_000_000_000
"""Event times lie before this; the tests run ingest with `clock = "stream"`."""

CONFIG = """
[kafka]
bootstrap_servers = "{bootstrap}"
partitions = {partitions}
[ingest]
clock = "stream"
max_ahead_days = 90
[modalities.click]
topic = "web.click"
text = "{{page}} from {{referrer}}"
numbers = ["seconds"]
window_days = 30
max_events = 40
[modalities.pay]
topic = "shop.pay"
text = "{{shop}}"
numbers = ["amount"]
window_days = 90
max_events = 20
[modalities.person]
topic = "web.person"
kind = "tabular"
window_days = 365
[scenarios.churn]
query = "Will this user stop coming?"
[scenarios.coupon]
query = "Will this user use a coupon?"
[store]
data_dir = "{data_dir}"
snapshot_interval_seconds = 2
[serve]
port = 0
[model]
threads = 1
"""

PAGES = ("home", "search results", "shoes", "basket", "checkout", "help", "account", "news")
SHOPS = ("bakery", "garage", "book store", "pharmacy", "cinema")
TOPICS = {"click": "web.click", "pay": "shop.pay", "person": "web.person"}


@dataclass(slots=True)
class Message:
    """One raw Kafka message to send, and what it must become: `accepted`, `duplicate` or a dead-letter code."""

    topic: str
    key: bytes | None
    value: bytes | None
    fate: str


@dataclass(slots=True)
class Behaviour:
    """The stream in sending order."""

    messages: list[Message] = field(default_factory=list)
    users: set[str] = field(default_factory=set)

    def count(self, fate: str) -> int:
        """Messages with this fate."""
        return sum(m.fate == fate for m in self.messages)


def behaviour(
    seed: int,
    *,
    users: int = 20,
    events: int = 1000,
    garbage: float = 0.03,
    unnamed: float = 0.0,
    passers_by: int = 0,
    start_ms: int = NOW,
    label: str = "e",
) -> Behaviour:
    """A stream of about `events` messages of `users` users over the 60 days before `start_ms`.

    5 % are exact duplicates sent later, arrival is shuffled within about a day and a half, `garbage` is the share of
    messages that must end in dead letters, `unnamed` that of events without an `event_id` (none of them is sent twice).
    passers_by: so many more users click once and are gone: they leave the buffer when the window has passed twice.
    """
    rng = random.Random(seed)
    names = random.Random(f"{seed} names")
    out = Behaviour()
    good: list[tuple[float, Message]] = []
    for i in range(events):
        user = f"user-{rng.randrange(users)}"
        out.users.add(user)
        ts = start_ms - int(60 * DAY_MS * (1 - i / events))
        modality = rng.choices(("click", "pay", "person"), (6, 3, 1))[0]
        event: dict[str, object] = {"event_id": f"{label}{i}", "user_id": user, "ts": ts}
        if modality == "click":
            event |= {"page": rng.choice(PAGES), "referrer": rng.choice(PAGES), "seconds": rng.randrange(300)}
        elif modality == "pay":
            event |= {"shop": rng.choice(SHOPS), "amount": round(rng.lognormvariate(3, 1), 2)}
        else:
            event |= {"age": rng.choice(("20-30", "30-40", "40-50")), "children": rng.choice((None, 0, 1, 2))}
        if nameless := names.random() < unnamed:
            del event["event_id"]
        message = Message(TOPICS[modality], user.encode(), json.dumps(event).encode(), "accepted")
        at = ts + rng.random() * 1.5 * DAY_MS
        good.append((at, message))
        if rng.random() < 0.05 and not nameless:
            copy = Message(message.topic, message.key, message.value, "duplicate")
            good.append((at + rng.random() * 3 * DAY_MS, copy))
    for i in range(passers_by):
        user, ts = f"{label}-passer-by-{i}", start_ms - int(names.random() * 25 * DAY_MS)
        out.users.add(user)
        event = {"event_id": f"{label}p{i}", "user_id": user, "ts": ts, "page": names.choice(PAGES)}
        good.append((float(ts), Message(TOPICS["click"], user.encode(), json.dumps(event).encode(), "accepted")))
    good.sort(key=lambda pair: pair[0])
    for _, message in good:
        out.messages.append(message)
        if rng.random() < garbage:
            out.messages.append(rubbish(rng, rng.choice(sorted(TOPICS.values()))))
    return out


def rubbish(rng: random.Random, topic: str) -> Message:
    """One message that no ingest may accept."""
    ok = {"user_id": "user-0", "ts": NOW - DAY_MS, "page": "home"}
    fate, value = rng.choice(
        [
            ("invalid_json", b'{"user_id": "user-0", '),
            ("not_an_object", b"[1, 2]"),
            ("null_value", None),
            ("missing_user_id", json.dumps({"ts": NOW}).encode()),
            ("invalid_user_id", json.dumps(ok | {"user_id": 5}).encode()),
            ("invalid_ts", json.dumps(ok | {"ts": "yesterday"}).encode()),
            ("ts_in_future", json.dumps(ok | {"ts": 32_503_680_000_000}).encode()),
            ("ts_too_old", json.dumps(ok | {"ts": 1000}).encode()),
            ("unknown_modality", json.dumps(ok | {"modality": "smell"}).encode()),
            ("invalid_utf8", b'{"user_id": "\xff\xfe"}'),
            ("too_large", json.dumps(ok | {"page": "x" * 70_000}).encode()),
        ]
    )
    return Message(topic, b"user-0", value, fate)
