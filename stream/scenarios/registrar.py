"""Writes `{prefix}.scenarios`: registers, changes and retires scenarios, and returns when this process serves it so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from typing import Any

from confluent_kafka import TopicPartition

from store.base.errors import BrokerError, NotFoundError, ScenarioError
from store.base.settings import MAX_SCENARIOS, ScenarioSettings
from store.records.scenario import CONFIGURED, Registered
from store.records.scenario_name import every, split
from stream.kafka.client import Connection
from stream.scenarios.change_writer import ChangeRecord, change_writer
from stream.scenarios.registry import ScenarioRegistry
from stream.topics import Topics

TIMEOUT_SECONDS = 15.0

TopicsOf = Callable[[list[str]], object]
"""Called with names of scenarios, candidates included. Raises AnchorstreamError."""


class ScenarioRegistrar:
    """Thread-safe; calls block, one at a time.

    Args:
        registry: read by the tail's thread, which calls `adopted`.
        candidates: names of candidate models.
        make_topics: creates what is missing of these scenarios' topics, and mends what `retire` did to them.
        expire_topics: lets what these topics hold go by itself, soon.
        timeout_seconds: for the broker to acknowledge, and then for the tail to take it in.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        registry: ScenarioRegistry,
        *,
        candidates: Collection[str] = (),
        make_topics: TopicsOf = lambda _: None,
        expire_topics: TopicsOf = lambda _: None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._registry = registry
        self._candidates = tuple(candidates)
        self._make_topics = make_topics
        self._expire_topics = expire_topics
        self._timeout = timeout_seconds
        self._wall_ms = wall_ms
        self._turn = threading.Lock()
        self._news = threading.Condition()
        self._position = 0
        self._writer = change_writer(connection, topics, timeout_seconds)

    def adopted(self, position: int) -> None:
        """Everything of the registry below `position` is served."""
        with self._news:
            self._position = position
            self._news.notify_all()

    def put(self, name: str, settings: ScenarioSettings) -> bool:
        """Register a scenario, or change its query and prompt. Whether it is new; the same again changes nothing.

        Raises:
            ScenarioError: scenario_configured, scenario_limit.
            TopicError: its topic is there and cannot be used.
            BrokerError: the broker did not take it, or it was not served in time.
        """
        with self._alone():
            entry = self._entry(name)
            if entry is not None and entry.settings == settings:
                return False
            if entry is None and len(self._registry.scenarios) >= MAX_SCENARIOS:
                raise ScenarioError(
                    f"there are {MAX_SCENARIOS} scenarios already",
                    action="retire one that is not needed",
                    code="scenario_limit",
                )
            registration = self._new_registration(name) if entry is None else entry.registration
            names = every([name], self._candidates)
            self._make_topics(names)
            self._wait_for(self._write(name, Registered(settings, registration).pack()))
            if entry is None:
                self._make_topics(names)  # another process that retires the name may not have seen this before it did
            return entry is None

    def retire(self, name: str) -> None:
        """Retire a registered scenario, and a candidate's with it.

        Raises:
            NotFoundError: scenario_unknown. ScenarioError: scenario_configured.
            BrokerError: as `put`; or it is retired, but its topics keep what they hold.
        """
        with self._alone():
            if self._entry(name) is None:
                raise NotFoundError(f"there is no scenario {name!r}", code="scenario_unknown")
            names = every([name], self._candidates)
            # before the name is free: else those of its next registration
            self._wait_for(self._write(name, None, *self._void_reports(names)))
            if name not in self._registry.scenarios:
                self._expire_topics(names)
                self._wait_for(self._end())
                if name in self._registry.scenarios:  # registered again by another process meanwhile
                    self._make_topics(names)

    def close(self) -> None:
        """Release the writer."""
        with self._turn:
            self._writer.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=self._timeout):
            raise self._late("an earlier change of the scenarios is still under way")
        try:
            yield
        finally:
            self._turn.release()

    def _entry(self, name: str) -> Registered | None:
        entry = self._registry.scenarios.get(split(name)[0])
        if entry is not None and (entry.registration == CONFIGURED or split(name)[1]):
            what = "is computed for every scenario by a candidate model" if split(name)[1] else "is"
            raise ScenarioError(
                f"{name!r} {what} of the configuration",
                action="change the file that serve and the workers are started with",
                code="scenario_configured",
            )
        return entry

    def _new_registration(self, name: str) -> int:
        # above all earlier ones of this name, whatever the clocks say
        return max(self._wall_ms(), self._registry.registrations.get(name, CONFIGURED) + 1)

    def _end(self) -> int:
        """Position behind the registry's last record, committed or about to be: a reader comes by it when it is."""
        whole: dict[str, Any] = {"isolation.level": "read_uncommitted"}
        with closing(self._connection.consumer(f"{self._topics.scenarios}.end", **whole)) as consumer:
            tp = TopicPartition(self._topics.scenarios, 0)
            return int(consumer.get_watermark_offsets(tp, timeout=self._timeout, cached=False)[1])

    def _write(self, name: str, value: bytes | None, *also: ChangeRecord) -> int:
        """Position behind the record, once it is durable."""
        self._writer.write([*also, ChangeRecord(self._topics.scenarios, name, value)])
        return self._end()

    def _void_reports(self, names: list[str]) -> list[ChangeRecord]:
        """What workers reported of the back-fills: the topic must not grow with every name there ever was."""
        keys = (f"{name}|{partition}" for name in names for partition in range(self._topics.partitions))
        return [ChangeRecord(self._topics.back_fills, key, None) for key in keys]

    def _wait_for(self, position: int) -> None:
        with self._news:
            if not self._news.wait_for(lambda: self._position >= position, self._timeout):
                raise self._late("the change is written, but serve has not taken it in yet")

    def _late(self, why: str) -> BrokerError:
        return BrokerError(
            f"after {self._timeout:g} s {why}", action="look at the scenarios, and ask again", code="registry_late"
        )
