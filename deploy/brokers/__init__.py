"""The broker of a configuration: started by us (`embedded`, `local`) or somebody's own.

`start` is for the process that owns the data directory, `connect` for every other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

from deploy.settings.config import Settings
from store.base.errors import BrokerError
from store.base.files import read_json
from stream.kafka.client import Connection, connected
from stream.topics import Topics, TopicSpec

READY_FILE = Path("run") / "broker.json"
"""Under the data directory: kind, bootstrap, identity, pid (and control) of the broker started by us."""
KEPT_FOLDER = "kept"
_POLL_SECONDS = 0.05


class Broker(Protocol):
    """A broker process of ours."""

    @property
    def connection(self) -> Connection: ...

    @property
    def pid(self) -> int: ...

    def alive(self) -> bool:
        """Whether the process runs."""

    def stop(self) -> None:
        """End it in order; no effect if it has ended."""

    def kill(self) -> None:
        """SIGKILL, as a crash would."""

    def restart(self) -> None:
        """Start it again after `stop` or `kill`; raises BrokerError where that loses its data (embedded)."""


class RunningBroker:
    """What `start` returns; a context manager that stops what it started. Somebody else's broker has no process."""

    def __init__(self, connection: Connection, process: Broker | None = None) -> None:
        self._connection = connection
        self.process = process

    @property
    def connection(self) -> Connection:
        """How to reach it; ask again after `process.restart()`, which may choose other ports."""
        return self._connection if self.process is None else self.process.connection

    def alive(self) -> bool:
        """Whether our process runs; True for somebody else's broker, of which this says nothing."""
        return self.process is None or self.process.alive()

    def stop(self) -> None:
        """Stop our process, if any."""
        if self.process is not None:
            self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def specs(settings: Settings) -> list[TopicSpec]:
    """Every topic of the configuration."""
    return Topics(settings.kafka).specs(settings.modalities, settings.scenario_names)


def start(settings: Settings, *, keep: bool = False, waiting: Callable[[], object] = lambda: None) -> RunningBroker:
    """Start the configured broker, or find somebody's own. An embedded one has its topics; else deploy/kafka/topics.py.

    Args:
        keep: an embedded one begins with what it was given before, and keeps what it is given (`<data_dir>/kept`): raw
            topics, and scenarios registered while it ran.
        waiting: called while a local one comes up, now or when it is restarted; what it raises ends that.

    Raises:
        BrokerError: it did not come up, or cannot be reached.
    """
    kafka = settings.kafka
    data_dir = settings.store.data_dir.absolute()
    if kafka.bootstrap_servers == "embedded":
        from deploy.brokers.embedded import Keep
        from deploy.brokers.process import EmbeddedBroker

        partitions = {spec.name: spec.partitions for spec in specs(settings)}
        what = Keep(data_dir / KEPT_FOLDER, kept_topics(settings), (Topics(kafka).group_ingest,)) if keep else None
        embedded = EmbeddedBroker(
            data_dir / READY_FILE, partitions, log_path=data_dir / "logs" / "broker.log", keep=what
        )
        return RunningBroker(embedded.connection, embedded)
    if kafka.bootstrap_servers == "local":
        from deploy.brokers.local import LocalKafka

        local = LocalKafka(data_dir, ready_file=data_dir / READY_FILE, properties=kafka.properties, waiting=waiting)
        return RunningBroker(local.connection, local)
    return RunningBroker(connected(kafka.bootstrap_servers, kafka.properties))


def kept_topics(settings: Settings) -> tuple[str, ...]:
    """What an embedded broker keeps: all that does not follow from the rest."""
    return (Topics(settings.kafka).scenarios, *sorted({m.topic for m in settings.modalities.values()}))


def restoring(settings: Settings) -> int:
    """How many messages an embedded broker is still being given back; 0 = none, or it is another broker."""
    state = read_json(settings.store.data_dir.absolute() / READY_FILE) or {}
    return int(state.get("restoring", 0))


def connect(settings: Settings, *, timeout_s: float = 15.0, waiting: Callable[[], object] | None = None) -> Connection:
    """Connection of a process that did not start the broker; waits for one that is still coming up.

    Args:
        waiting: called while waiting; what it raises ends the wait.

    Raises:
        BrokerError: no broker in time.
    """
    kafka = settings.kafka
    if not kafka.managed:
        return connected(kafka.bootstrap_servers, kafka.properties, timeout_s=timeout_s)
    path = settings.store.data_dir.absolute() / READY_FILE
    deadline = time.monotonic() + timeout_s
    while True:
        state = read_json(path)
        if state is not None and state["kind"] == kafka.bootstrap_servers and _alive(state["pid"]):
            return from_state(state, kafka.properties)
        if time.monotonic() > deadline:
            seen = "there is none" if state is None else f"it names a {state['kind']} broker, pid {state['pid']}, gone"
            raise BrokerError(
                f"no {kafka.bootstrap_servers} broker runs for this data directory ({path}: {seen})",
                action="start it with `anchorstream up`, or set kafka.bootstrap_servers to a broker that runs",
            )
        if waiting is not None:
            waiting()
        time.sleep(_POLL_SECONDS)


def from_state(state: dict[str, Any], properties: dict[str, str | int | float | bool]) -> Connection:
    """Connection as run/broker.json describes it."""
    return Connection(
        bootstrap=state["bootstrap"],
        properties=properties,
        embedded=state["kind"] == "embedded",
        identity=state["identity"],
        control=state.get("control", ""),
        keeper=state.get("keeper", ""),
        history=state.get("history", ""),
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
