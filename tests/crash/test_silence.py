"""A population goes silent and time passes: workers are killed and partitions move in mid-round, on real Kafka.

Afterwards every user stands where the history of the events says, and each tick has been published once.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from deploy.run.spawn import Spawn
from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from store.records.embedding import EmbeddingRecord
from store.window.silence import HOUR_MS, SilenceTicks
from stream.commit_metadata import Horizon, read_horizon
from tests.crash.system import TIMEOUT, System, system
from tests.support.behaviour import DAY_MS, NOW, Message
from tests.support.offsets import committed
from tests.support.worker_bench import read_topic

USERS = 150
PARTITIONS = 2
SMALL_BATCHES = "batch_tokens = 64\n"
"""One user in a batch of a round, so that it takes seconds."""

pytestmark = [pytest.mark.kafka, pytest.mark.crash, pytest.mark.timeout(TIMEOUT)]


def pays(names: Sequence[str], ts: int, label: str) -> list[Message]:
    """One payment of each; times a second apart."""
    return [
        Message(
            "shop.pay",
            name.encode(),
            json.dumps(
                {"event_id": f"{label}{i}", "user_id": name, "ts": ts + i * 1000, "shop": "bakery", "amount": i}
            ).encode(),
            "accepted",
        )
        for i, name in enumerate(names)
    ]


def horizons(s: System) -> list[Horizon | None]:
    found = committed(s.launcher.connection, s.topics.group_worker, s.topics.tokens, PARTITIONS)
    return [read_horizon(tp.metadata) for tp in found]


def until(true: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_a_round(s: System, upto: int) -> bool:
    """Whether some of one is committed and some is not; False: all of it was over before it was seen."""
    begun = False

    def seen() -> bool:
        nonlocal begun
        found = horizons(s)
        begun = any(h is not None and 0 < h.reached < h.at for h in found)
        return begun or all(h is not None and h.reached >= upto - HOUR_MS for h in found)

    until(seen)
    return begun


def ticks_published(s: System) -> dict[tuple[str, str], list[int]]:
    """(scenario, user) → times after the newest event at which its records stand, in order; as a committed reader."""
    out: dict[tuple[str, str], list[int]] = defaultdict(list)
    for scenario in s.settings.scenarios:
        for message in read_topic(s.launcher.connection, s.topics.embeddings(scenario), PARTITIONS):
            record = EmbeddingRecord.unpack(message.value())
            if record.newest_event < record.as_of:
                out[scenario, record.user_id].append(record.as_of)
    return out


def test_a_population_goes_silent(tmp_path: Path, spawn: Spawn, texts: TextEncoder, users: UserEncoder) -> None:
    silent, clocks = [f"silent-{i}" for i in range(USERS)], [f"clock-{i}" for i in range(16)]
    with system(tmp_path, spawn, further=SMALL_BATCHES, worker=2) as s:
        with s.judged(texts, users):
            s.send(pays(silent, NOW, "first"))
            s.send(pays(clocks, NOW + DAY_MS // 2, "begin"))
        killed_in_one = 0
        for number, day in enumerate((2, 3, 9, 30)):  # no row is older than its window, so nobody is swept
            with s.judged(texts, users):
                s.send(pays(clocks, NOW + day * DAY_MS, f"day{day}-"))
                killed_in_one += wait_for_a_round(s, NOW + day * DAY_MS)
                s.launcher.kill(f"worker-{number % 2}")  # its partition moves, and comes back
        assert killed_in_one
        ticks = SilenceTicks(s.settings.model.silence_days)
        found = ticks_published(s)
        for user in silent:
            for scenario in s.settings.scenarios:
                times = found[scenario, user]
                assert times == sorted(set(times)), f"{user} {scenario}: a tick twice"
                newest = NOW + 1000 * silent.index(user)
                assert all(ticks.stands_at(user, newest, at) == at for at in times), "a tick at another time"
                assert 2 <= len(times) <= 4
