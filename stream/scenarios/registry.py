"""What is registered: the scenarios of the configuration and those of `{prefix}.scenarios`, as they come and go."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

from store.base import logs
from store.base.settings import NAME, ScenarioSettings
from store.records.scenario import CONFIGURED, Registered
from stream.kafka.client import Connection
from stream.reading.control_topic import ControlTopic
from stream.topics import Topics

log = logs.get(__name__)


class ScenarioRegistry:
    """Reads the registry; for one thread (`scenarios` is replaced, never changed: any thread may read it).

    A record that has the name of a configured scenario is ignored, one that cannot be read too: each with a warning.

    Args:
        configured: the scenarios of the configuration.
    """

    def __init__(self, connection: Connection, topics: Topics, configured: Mapping[str, ScenarioSettings]) -> None:
        self.scenarios: Mapping[str, Registered] = {
            name: Registered(settings, CONFIGURED) for name, settings in configured.items()
        }
        """Configured and registered, without candidates."""
        self.registrations: dict[str, int] = {}
        """The newest registration of every name ever seen, those retired too: a new one must be above it."""
        self._configured = frozenset(configured)
        self._topic = topics.scenarios
        self._reader = ControlTopic(connection, topics.scenarios, topics.group_serve, self._apply)

    @property
    def position(self) -> int:
        """Next offset of the registry: every record below it is reflected."""
        return self._reader.position

    def load(self, stop: threading.Event) -> None:
        """Read to the end as of now; leaves early when `stop` is set. Raises BrokerError."""
        self._reader.load(stop)

    def poll(self) -> bool:
        """Take in what has come, without waiting; whether `scenarios` changed. Raises BrokerError."""
        before = self.scenarios
        self._reader.poll()
        return self.scenarios != before

    def close(self) -> None:
        """Release the consumer."""
        self._reader.close()

    def _apply(self, message: Any) -> None:
        try:
            name = (message.key() or b"").decode()
            if not re.fullmatch(NAME, name):
                raise ValueError(f"key {name!r:.80} is not the name of a scenario")
            value = message.value()
            found = None if value is None else Registered.unpack(value)
        except ValueError as exc:
            log.warning(logs.RECORD_REFUSED, topic=self._topic, offset=message.offset(), detail=str(exc))
            return
        if found is None:
            if name not in self._configured and name in self.scenarios:
                self.scenarios = {other: entry for other, entry in self.scenarios.items() if other != name}
                log.info(logs.SCENARIO_RETIRED, scenario=name)
            return
        self.registrations[name] = max(found.registration, self.registrations.get(name, 0))
        if name in self._configured:
            log.warning(
                logs.REGISTRATION_IGNORED, scenario=name, detail="the configuration has a scenario of this name"
            )
            return
        found = Registered(found.settings, found.registration, revision=message.offset() + 1)
        known = self.scenarios.get(name)
        self.scenarios = {**self.scenarios, name: found}
        again = known is not None and known.registration == found.registration
        log.info(
            logs.SCENARIO_CHANGED if again else logs.SCENARIO_REGISTERED,
            scenario=name,
            registration=found.registration,
            query=found.settings.query,
        )
