"""Our topics brought to what the configuration needs, by what no data is lost by."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import KafkaException

from deploy.kafka import topics
from deploy.kafka.topic_faults import judge
from deploy.kafka.topic_settings import REQUEST_SECONDS, alter, revive
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.kafka.futures import all_of
from stream.topics import TopicSpec


def mend(connection: Connection, specs: Iterable[TopicSpec], *, replication_factor: int = 1) -> list[str]:
    """Set the settings that differ, make anew what nothing was ever written to, create what is missing.

    Returns:
        A line for each thing done.

    Raises:
        TopicError: what only a person can mend; the rest was done.
        BrokerError: the broker refused, or did not answer.
    """
    ours = [spec for spec in specs if spec.ours]
    done: list[str] = []
    if not connection.embedded:
        unused = [fault.spec.name for fault in topics.partition_faults(connection, ours) if fault.unused]
        if unused:
            _delete(connection, unused)
            done += [f"{name}: deleted, as nothing was ever written to it" for name in unused]
        judged = judge(connection, ours)
        if judged.wrong:
            alter(connection, judged.wrong)
            done += [f"{topic}: {key} = {value}" for topic, keys in judged.wrong.items() for key, value in keys.items()]
        if judged.retired:
            revive(connection, judged.retired)
            done += [f"{topic}: no longer set to be emptied" for topic in judged.retired]
        _wait_until_told(connection, [spec for spec in ours if spec.name in judged.wrong | judged.retired])
    made = topics.ensure(connection, ours, replication_factor=replication_factor)
    return done + [f"{name}: created" for name in made]


def _delete(connection: Connection, names: list[str]) -> None:
    admin = connection.admin()  # must outlive its answers
    try:
        all_of(admin.delete_topics(names, request_timeout=REQUEST_SECONDS), 2 * REQUEST_SECONDS)
    except KafkaException as exc:
        raise BrokerError(
            f"the broker does not delete {', '.join(names)}: {exc.args[0].str()}",
            action="grant Delete on these topics to this user",
        ) from exc
    deadline = time.monotonic() + REQUEST_SECONDS
    while connection.metadata().topics.keys() & set(names) and time.monotonic() < deadline:
        time.sleep(0.05)


def _wait_until_told(connection: Connection, specs: list[TopicSpec]) -> None:
    """A broker answers "changed" before it tells the new settings."""
    deadline = time.monotonic() + REQUEST_SECONDS
    while ((found := judge(connection, specs)).wrong or found.retired) and time.monotonic() < deadline:
        time.sleep(0.05)
