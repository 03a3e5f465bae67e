"""The state of a running system, read every second on a thread of its own: lag, freshness, users per scenario."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from deploy.operate.service_client import Service, ServiceError
from deploy.settings.config import Settings
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.lag.reader import LagReader, plan
from stream.topics import Topics


@dataclass(frozen=True, slots=True)
class Status:
    """lag_messages: over all groups; None = not read yet. embeddings: users per scenario.

    Freshness in seconds, of all events since serve started.
    """

    lag_messages: int | None = None
    lag_by_role: Mapping[str, int] = field(default_factory=dict)
    embeddings: Mapping[str, int] = field(default_factory=dict)
    freshness_p50: float | None = None
    freshness_p99: float | None = None
    readings: int = 0

    def arrived(self, users: int) -> bool:
        """Whether nothing is on the way and every scenario has every user."""
        return self.lag_messages == 0 and bool(self.embeddings) and all(n == users for n in self.embeddings.values())

    def line(self) -> str:
        """For people."""
        lag = "–" if self.lag_messages is None else f"{self.lag_messages:,}"
        waiting = [f"{role} {count:,}" for role, count in self.lag_by_role.items() if count]
        of = f" ({', '.join(waiting)})" if waiting else ""
        fresh = "–" if self.freshness_p50 is None else f"{self.freshness_p50:.2f} s"
        users = min(self.embeddings.values(), default=0)
        return f"{users:,} users embedded, lag {lag}{of}, freshness p50 {fresh}"


class Watch:
    """Reads until closed. `status` never blocks; it is the last reading."""

    def __init__(self, connection: Connection, settings: Settings, service: Service, *, every_seconds: float = 1.0):
        raw = {modality.topic for modality in settings.modalities.values()}
        self._reader = LagReader(connection, plan(Topics(settings.kafka), raw, settings.scenarios))
        self._service = service
        self._every = every_seconds
        self._stop = threading.Event()
        self._status = Status()
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)
        self._thread.start()

    @property
    def status(self) -> Status:
        """The last complete reading."""
        return self._status

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join(15.0)
        self._reader.close()

    def _loop(self) -> None:
        while not self._stop.is_set():
            # refused while a role is being restarted: the supervisor reports it, the demo's timeout bounds the wait
            with suppress(BrokerError, ServiceError):
                self._status = self._read()
            self._stop.wait(self._every)

    def _read(self) -> Status:
        scenarios = self._service.get("/v1/scenarios")["scenarios"]
        fresh = self._service.get("/v1/lag")["freshness"]["all"]
        report = self._reader.read()
        return Status(
            report.lag_messages,
            {group.role: group.lag_messages for group in report.groups()},
            {scenario["name"]: int(scenario["users"]) for scenario in scenarios},
            fresh.get("p50"),
            fresh.get("p99"),
            self._status.readings + 1,
        )
