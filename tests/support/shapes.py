"""Made-up events of three shapes other than ours, for whoever has to make sense of them."""

from __future__ import annotations

import csv
import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FROM_S = 1_700_000_000
"""2023-11-14T22:13:20Z."""
HOUR = 3600
EVENTS = ("Product Viewed", "Order Completed", "Page Viewed")


def segment_events(users: int = 60, rows: int = 3000, seed: int = 1) -> list[dict[str, Any]]:
    """Nested events of a shop as Segment sends them, in order; one in ten has no user."""
    rng = random.Random(seed)
    events = []
    for n in range(rows):
        at = FROM_S + n * 600 + rng.randrange(300)
        user = rng.randrange(users)
        name = rng.choice(EVENTS)
        event: dict[str, Any] = {
            "type": "track",
            "event": name,
            "messageId": f"ajs-{seed}-{n:06d}",
            "anonymousId": f"{rng.getrandbits(64):016x}",
            "timestamp": f"{_iso(at)}.{rng.randrange(1000):03d}Z",
            "sentAt": f"{_iso(at + 1)}.000Z",
            "context": {
                "ip": f"10.0.{rng.randrange(256)}.{rng.randrange(256)}",
                "device": {"type": rng.choice(["ios", "android", "web"])},
                "traits": {"email": f"person{user}@example.org"},
            },
            "properties": {"path": rng.choice(["/", "/shoes", "/hats", "/cart"])},
        }
        if rng.random() > 0.1:
            event["userId"] = f"u-{user}"
        if name != "Page Viewed":
            event["properties"] |= {"category": rng.choice(["shoes", "hats", "coats"])}
        if name == "Order Completed":
            event["properties"]["total"] = round(rng.uniform(5, 300), 2)
        events.append(event)
    return events


def write_segment(path: Path, events: list[dict[str, Any]]) -> None:
    """As JSON Lines."""
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def visits(users: int = 80, rows: int = 2500, seed: int = 2) -> list[dict[str, str]]:
    """Rows of a table: seconds, integer ids, everything text, some values empty; two rows come twice."""
    rng = random.Random(seed)
    table = [
        {
            "customer_no": str(1000 + rng.randrange(users)),
            "visited_at": str(FROM_S + n * HOUR // 2),
            "store": rng.choice(["north", "south", "east"]),
            "reason": rng.choice(["return", "buy", "look", ""]),
            "minutes": "" if rng.random() < 0.05 else f"{rng.uniform(1, 90):.1f}",
            "phone": f"+49 30 {rng.randrange(10**6, 10**7)}",
        }
        for n in range(rows)
    ]
    return [*table[:100], table[5], table[7], *table[100:]]


def write_csv(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> None:
    """With a header."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
