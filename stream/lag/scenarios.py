"""Which topics lag is read of, while scenarios are registered and retired."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping

from store.base.settings import ScenarioSettings
from store.records.scenario_name import every
from stream.kafka.client import Connection
from stream.lag.reader import GroupTopic, LagReader, plan
from stream.scenarios.registry import ScenarioRegistry
from stream.topics import Topics


class LagScenarios:
    """Keeps the plan of a LagReader up with the registry. For one thread.

    Args:
        raw_topics: what ingest reads.
        configured: scenarios of the configuration. candidates: names of candidate models.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        raw_topics: Iterable[str],
        configured: Mapping[str, ScenarioSettings],
        candidates: Collection[str] = (),
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._raw_topics = sorted(set(raw_topics))
        self._candidates = tuple(candidates)
        self._registry = ScenarioRegistry(connection, topics, configured)
        self._loaded = False

    def plan(self) -> tuple[GroupTopic, ...]:
        """What our roles read, as of the last `refresh`; before it, of the configuration alone."""
        return plan(self._topics, self._raw_topics, every(self._registry.scenarios, self._candidates))

    def refresh(self, reader: LagReader) -> None:
        """Take in what has been registered and retired. Where the registry's topic is not there yet, nothing has been.

        Raises:
            BrokerError: the broker does not answer.
        """
        if self._loaded:
            changed = self._registry.poll()
        elif self._topics.scenarios in self._connection.metadata().topics:
            self._registry.load(threading.Event())
            self._loaded = changed = True
        else:
            return
        if changed:
            reader.watch(self.plan())

    def close(self) -> None:
        """Release the consumer."""
        self._registry.close()
