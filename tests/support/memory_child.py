"""A token buffer under an endless stream of a fixed set of users, in a process of its own: what it takes in memory.

`python -m tests.support.memory_child DIRECTORY EVENTS` prints one JSON line, see `Figures`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from store.base import logs
from store.base.settings import ModalitySettings
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer
from store.window.encoded_event import EncodedEvent
from tests.models.events import MIB, days
from tests.support.memory import resident_bytes

USERS = 200
WINDOW = 40
"""Rows of a user in each of the two windows, of the newest events and of those young enough, and in one memory."""
DIM = 384
BATCH = 500
SAMPLES = 200
VECTORS = 997
"""A prime: a user's rows have different ones, so that the disk holds what it would of real ones."""
STEP_MS = 1000
START_MS = 1_700_000_000_000
DUPLICATES = 50
"""One event in so many comes a second time."""
MODALITIES = {
    "count": ModalitySettings(topic="a", numbers=("amount",), window_days=3650, memory_days=0, max_events=WINDOW),
    # every other event is of this modality: a user has one each 2 * USERS steps
    "age": ModalitySettings(
        topic="b",
        window_days=days(2 * USERS * WINDOW * STEP_MS),
        memory_days=days(4 * USERS * WINDOW * STEP_MS),
        max_events=1000,
    ),
}


class Figures(NamedTuple):
    """resident: bytes after each of SAMPLES equal parts of the stream. rows, row_bytes: what the buffer holds at the
    end, keys and values; disk: bytes after compaction. outcomes: of all events, by name."""

    seconds: float
    resident: list[int]
    rows: int
    row_bytes: int
    disk: int
    outcomes: dict[str, int]


def stream() -> Iterator[EncodedEvent]:
    """Endless, a second apart; vectors, numbers and users are made once and taken in turn."""
    rng = np.random.default_rng(7)
    vectors = list((rng.integers(-2048, 2049, (VECTORS, DIM)) / 16384).astype(np.float16))
    users = [f"user-{n:04d}" for n in rng.permutation(USERS).tolist()]
    number, none = np.ones(1, np.float32), np.zeros(0, np.float32)
    last: deque[EncodedEvent] = deque(maxlen=DUPLICATES)
    n = 0
    while True:
        ts = START_MS + STEP_MS * n
        by_count = n % 2 == 0
        event = EncodedEvent(
            users[n // 2 % USERS], "count" if by_count else "age", ts, f"event-{n}", n,
            number if by_count else none, vectors[n % VECTORS], None, f"raw:{n % 8}", n // 8, ts,
        )  # fmt: skip
        yield event
        last.append(event)
        if n % DUPLICATES == DUPLICATES - 1:
            yield last[0]
        n += 1


def measure(directory: Path, events: int) -> Figures:
    """Apply `events` events as the processor does, without its log."""
    buffer = TokenBuffer.open(
        directory,
        modalities=MODALITIES,
        encoder_id="none",
        dim=DIM,
        identity="none",
        expiry_granularity_ms=60_000,
        resources=BufferResources.create(block_cache_bytes=16 * MIB, write_buffer_bytes=16 * MIB),
    )
    source, resident = stream(), []
    began = time.monotonic()
    batches, outcomes = events // BATCH, Counter[str]()
    for i in range(batches):
        changes = buffer.prepare([next(source) for _ in range(BATCH)], source_offset=i)
        outcomes.update(changes.outcomes._asdict())
        buffer.commit(changes, log_offset=buffer.log_offset + len(changes.rows) + len(changes.sweep_rows))
        if (i + 1) * SAMPLES // batches > i * SAMPLES // batches:
            resident.append(resident_bytes(os.getpid()))
    seconds = time.monotonic() - began
    buffer.compact()
    sizes = [len(key) + len(value) for key, value in buffer.rows()]
    figures = Figures(seconds, resident, len(sizes), sum(sizes), buffer.disk_bytes(), dict(outcomes))
    buffer.close()
    return figures


if __name__ == "__main__":
    logs.configure("child", level="WARNING")
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))._asdict()))  # noqa: T201
