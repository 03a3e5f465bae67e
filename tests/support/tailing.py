"""A serve tail in a thread over topics of its own, and what its neighbours write to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deploy.kafka.topics import ensure
from store.base.settings import ModalitySettings, ScenarioSettings
from store.index.index import ScenarioIndex
from store.index.serve_state import ServeState
from store.index.snapshot import SnapshotStore
from store.records.back_fill import BackFillRecord
from store.records.embedding import EmbeddingRecord
from store.records.scenario import Registered
from store.records.scenario_name import every
from stream.events.event import Event, pack
from stream.kafka.client import Connection
from stream.kafka.partitioner import partition_of
from stream.scenarios.feed import ScenarioFeed
from stream.serve.tail import ServeTail
from stream.settings import KafkaSettings
from stream.topics import Topics
from tests.support.offsets import committed

SCENARIOS = ("churn", "credit")


class World:
    """Topics of their own on a broker, and what serve's neighbours write to them."""

    def __init__(self, connection: Connection, prefix: str, data: Path) -> None:
        self.topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=2))
        specs = self.topics.specs({"bill": ModalitySettings(topic=f"{prefix}-raw")}, SCENARIOS)
        ensure(connection, specs)
        self.connection = connection
        self.data = data
        self.producer = connection.producer()
        self.offset = 0

    def record(
        self,
        user: str,
        offset: int,
        *,
        seed: int = 0,
        scenarios: Sequence[str] = SCENARIOS,
        registration: int = 0,
    ) -> None:
        vector = np.random.default_rng(seed).standard_normal(128).astype(np.float32)
        for scenario in scenarios:
            record = EmbeddingRecord(user, scenario, "m", 1, 2, 3, vector, {"raw:0": offset}, {"bill": 1}, registration)
            self._send(self.topics.embeddings(scenario), user, record.pack())

    def erase(self, user: str, *, scenarios: Sequence[str] = SCENARIOS) -> None:
        for scenario in scenarios:
            self._send(self.topics.embeddings(scenario), user, None)

    def event(
        self, *users: str, modality: str = "bill", headers: Sequence[tuple[str, bytes]] = (), age_ms: int = 0
    ) -> int:
        """One message of `events`; all users must share a partition. Returns the last raw offset."""
        now = int(time.time() * 1000) - age_ms
        events = []
        for user in users:
            events.append(Event(user, modality, now, f"e{self.offset}", "", (), None, "raw", 0, self.offset, now, now))
            self.offset += 1
        partition = partition_of(users[0], 2)
        self.producer.produce(self.topics.events, pack(now, events), partition=partition, headers=list(headers))
        self.flush()
        return self.offset - 1

    def flush(self) -> None:
        assert self.producer.flush(10) == 0

    def committed(self, group: str, topic: str) -> list[int]:
        return [tp.offset for tp in committed(self.connection, group, topic, 2)]

    def _send(self, topic: str, user: str, value: bytes | None) -> None:
        self.producer.produce(topic, value, user.encode(), partition_of(user, 2))

    def register(self, name: str, query: str, registration: int, *, candidates: Sequence[str] = ()) -> None:
        """As the registrar does: the topics first."""
        ensure(self.connection, map(self.topics.embeddings_spec, every([name], candidates)))
        record = Registered(ScenarioSettings(query=query), registration)
        self.producer.produce(self.topics.scenarios, record.pack(), name.encode(), 0)
        self.flush()

    def retire(self, name: str) -> None:
        self.producer.produce(self.topics.scenarios, None, name.encode(), 0)
        self.flush()

    def report(self, name: str, registration: int, *, complete: bool, revision: int = 1 << 40) -> None:
        """As the workers of both partitions do."""
        for partition in range(2):
            record = BackFillRecord(name, partition, registration, "m", 3, 3, complete, 1, revision)
            self.producer.produce(self.topics.back_fills, record.pack(), record.key, 0)
        self.flush()

    def tail(self, **options: Any) -> Running:
        return Running(self, options)


class Running:
    """A tail in a thread; leaving the `with` stops it, `failure` is what it raised."""

    def __init__(self, world: World, options: dict[str, Any]) -> None:
        connection = options.pop("connection", world.connection)
        self.state = ServeState(SCENARIOS, 2)
        self.catalog, self.pending, self.back_fills = self.state.catalog, self.state.pending, self.state.back_fills
        configured = {scenario: ScenarioSettings(query=f"{scenario}?") for scenario in SCENARIOS}
        candidates = options.pop("candidates", ())
        if candidates:
            ensure(connection, map(world.topics.embeddings_spec, every(SCENARIOS, candidates)))
        make_topics = options.pop("make_topics", lambda _: None)
        feed = ScenarioFeed(connection, world.topics, configured, candidates, self.back_fills, make_topics)
        self.registry = feed.registry
        snapshots = SnapshotStore(world.data / "serve", identity=connection.identity)
        self.tail = ServeTail(connection, world.topics, {"bill"}, feed, self.state, snapshots, **options)
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.tail.run(self.stop)
        except Exception as exc:
            self.failure = exc

    def __enter__(self) -> Running:
        self._thread.start()
        until(lambda: self.tail.ready.is_set() or self.failure is not None)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def indexes(self) -> dict[str, ScenarioIndex]:
        return {name: served.index for name, served in self.catalog.items()}

    def users(self) -> list[list[str]]:
        return [self.users_of(scenario) for scenario in SCENARIOS]

    def users_of(self, scenario: str) -> list[str]:
        return [row.record.user_id for row in self.indexes[scenario].page("", 1000)]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@contextmanager
def running(world: World, **options: Any) -> Iterator[Running]:
    with world.tail(**options) as tail:
        assert tail.failure is None
        yield tail
