"""What became of the demo's events, each number from where it is decided, none derived from the others."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from store.buffer.changes import Outcomes
from store.buffer.view import BufferView, find
from stream.dead_letters import read as dead_letters
from stream.kafka.client import Connection


class EventCounts(NamedTuple):
    """published: acknowledged to the sender. accepted, duplicates: in the processor's databases.

    dead_lettered: raw messages in the dead-letters topic, by code.
    """

    published: int
    accepted: int
    duplicates: int
    dead_lettered: Counter[str]

    @property
    def add_up(self) -> bool:
        """Whether every event is accounted for."""
        return self.published == self.accepted + self.duplicates + self.dead_lettered.total()


def processed(data_dir: Path, identity: str) -> Outcomes:
    """Outcomes of all partitions, as the processors committed them with the rows (each event once)."""
    total = Outcomes()
    with ExitStack() as stack:
        for path in find(data_dir / "processor", identity).values():
            view = stack.enter_context(BufferView(path, {}))
            total = Outcomes(*map(int.__add__, total, view.outcomes))
    return total


def refused(connection: Connection, topic: str) -> Counter[str]:
    """Refused raw messages by code: one refused twice (ingest was killed in between) counts once.

    Raises:
        BrokerError: the topic cannot be read to its end.
    """
    seen: set[tuple[str | None, int | None, int | None]] = set()
    codes: Counter[str] = Counter()
    for letter in dead_letters.read(connection, topic):
        place = (letter.source_name or letter.source_topic, letter.source_partition, letter.source_offset)
        if place not in seen:
            seen.add(place)
            codes[letter.error] += 1
    return codes
