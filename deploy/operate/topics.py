"""Our topics beside what the configuration needs of them: looked at, and mended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from deploy import brokers
from deploy.kafka import topics
from deploy.kafka.mend import mend
from deploy.lock import DataDirLock, holder
from deploy.settings.config import Settings
from store.records.scenario_name import every
from stream.kafka.client import Connection
from stream.lag.reader import LagReader
from stream.lag.scenarios import LagScenarios
from stream.topics import Topics, TopicSpec

CONNECT_SECONDS = 5.0


class TopicState(NamedTuple):
    """partitions: None = it is not there. fault: what is wrong and what mends it; "" = nothing."""

    name: str
    partitions: int | None
    fault: str


def look(settings: Settings) -> list[TopicState]:
    """Every topic of ours, registered scenarios' too. Changes nothing. Raises BrokerError."""
    with _broker(settings) as connection:
        wanted = [spec for spec in _specs(connection, settings) if spec.ours]
        there = {name: len(topic.partitions) for name, topic in connection.metadata().topics.items()}
        lines = topics.faults(connection, wanted)
    states = []
    for spec in wanted:
        fault = "\n".join(lines.get(spec.name, ())) if spec.name in there else "not there: mend creates it"
        states.append(TopicState(spec.name, there.get(spec.name), fault))
    return states


def mend_all(settings: Settings) -> list[str]:
    """A line for each thing done. Raises TopicError: what only a person can mend; BrokerError."""
    with _broker(settings) as connection:
        specs = _specs(connection, settings)
        return mend(connection, specs, replication_factor=settings.kafka.replication_factor)


@contextmanager
def _broker(settings: Settings) -> Iterator[Connection]:
    """The broker; a local one that does not run is started for as long: `up` refuses to, with such topics."""
    if settings.kafka.bootstrap_servers == "local" and holder(settings.store.data_dir.absolute()) is None:
        with DataDirLock.acquire(settings.store.data_dir.absolute()), brokers.start(settings) as running:
            yield running.connection
    else:
        yield brokers.connect(settings, timeout_s=CONNECT_SECONDS)


def _specs(connection: Connection, settings: Settings) -> list[TopicSpec]:
    names = Topics(settings.kafka)
    scenarios = LagScenarios(connection, names, (), settings.scenarios, settings.candidates)
    reader = LagReader(connection, ())
    try:
        scenarios.refresh(reader)
        prefix = names.embeddings("")
        read = {target.topic for target in scenarios.plan() if target.topic.startswith(prefix)}
    finally:
        reader.close()
        scenarios.close()
    configured = names.specs(settings.modalities, every(settings.scenarios, settings.candidates))
    known = {spec.name for spec in configured}
    return [*configured, *(names.embeddings_spec(name.removeprefix(prefix)) for name in sorted(read - known))]
