"""A scenario's embeddings as they are now, one by one: from the service, or from their topic without it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from deploy.operate.service_client import Service
from store.base.errors import NotFoundError
from store.records.embedding import EmbeddingRecord
from store.records.scenario import CONFIGURED
from store.records.scenario_name import split
from stream.reading.whole_topic import WholeTopic
from stream.scenarios.registry import ScenarioRegistry
from stream.topics import Topics

if TYPE_CHECKING:
    from deploy.settings.config import Settings
    from stream.kafka.client import Connection

CLIENT = "anchorstream-export"


class Exported(NamedTuple):
    """gone: nothing is known of the user any more (all events left the window, or they were erased); the record is the
    last there was."""

    record: EmbeddingRecord
    gone: bool = False


Progress = Callable[[int, int], object]
"""Called with (done, all): records of the service, messages of a topic."""


def from_service(service: Service, scenario: str, on_progress: Progress) -> Iterator[Exported]:
    """In order of user id; users that come or change meanwhile are there as their page found them.

    Raises:
        NotFoundError: no such scenario. ServiceError.
    """
    found = service.scenarios().get(scenario)
    if found is None:
        raise NotFoundError(
            f"the service has no scenario {scenario!r}", action="`anchorstream scenarios list` shows them"
        )
    for done, item in enumerate(service.embeddings(scenario), start=1):
        yield Exported(_record(item))
        on_progress(done, max(done, found["users"]))


def from_topic(
    connection: Connection, topics: Topics, scenario: str, registration: int, on_progress: Progress, *, gone: bool
) -> Iterator[Exported]:
    """Partition by partition, in the order in which users came; holds one partition's records, about 500 bytes each.

    Args:
        registration: of the scenario; records of an earlier life of its name are left out.
        gone: those too of whom nothing is known any more, as far as the broker still has their last record.

    Raises:
        NotFoundError: there is no such topic. BrokerError: the broker stopped answering.
        ValueError: a record that this version cannot read.
    """
    with WholeTopic(connection, topics.embeddings(scenario), CLIENT) as whole:
        spans = whole.spans()
        total, before = sum(span.end - span.begin for span in spans), 0
        for span in spans:
            last: dict[bytes, tuple[bytes, bool]] = {}
            for message in whole.messages([span]):
                key, value = message.key() or b"", message.value()
                if value is not None:
                    last.pop(key, None)  # the order is that of the newest
                    last[key] = value, False
                elif gone and key in last:
                    last[key] = last[key][0], True
                else:
                    last.pop(key, None)
                on_progress(before + message.offset() - span.begin, total)
            before += span.end - span.begin
            for value, is_gone in last.values():
                record = EmbeddingRecord.unpack(value)
                if record.registration == registration:
                    yield Exported(record, is_gone)
        on_progress(total, total)


def registration_of(settings: Settings, connection: Connection, topics: Topics, scenario: str) -> int:
    """Which registration of its name a scenario is; a candidate's is its scenario's.

    Raises:
        NotFoundError: neither configured nor registered. BrokerError.
    """
    name, _ = split(scenario)
    if name in settings.scenarios:
        return CONFIGURED
    if topics.scenarios in connection.metadata().topics:
        registry = ScenarioRegistry(connection, topics, settings.scenarios)
        try:
            registry.load(threading.Event())
        finally:
            registry.close()
        if name in registry.scenarios:
            return registry.scenarios[name].registration
    raise NotFoundError(
        f"no scenario {name!r} is configured or registered", action="`anchorstream scenarios list` shows them"
    )


def _record(item: dict[str, Any]) -> EmbeddingRecord:
    names = {field.name for field in msgspec.structs.fields(EmbeddingRecord)} & item.keys()
    return EmbeddingRecord(**{name: item[name] for name in names} | {"vector": np.asarray(item["vector"], np.float32)})
