"""Topics of scenarios that are registered and retired while the system runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from deploy import topics
from deploy.topics import REQUEST_SECONDS
from store.errors import BrokerError, TopicError
from stream.client import Connection
from stream.topics import HOUR_MS, TopicSpec

EXPIRING = {"cleanup.policy": "delete", "retention.ms": str(HOUR_MS)}
"""Of a retired scenario's topic: what it holds goes, and the empty topic stays. An hour, so that a serve or worker that
has not heard yet meets no gap."""


def make(connection: Connection, specs: Iterable[TopicSpec], *, replication_factor: int = 1) -> None:
    """Create what is missing, and bring back to its spec what `expire` has altered.

    Raises:
        TopicError: a topic has other partitions. BrokerError: the broker refused.
    """
    wanted = list(specs)
    try:
        topics.ensure(connection, wanted, replication_factor=replication_factor)
    except TopicError:
        if connection.embedded:
            raise
        alter(connection, {spec.name: {**dict.fromkeys(EXPIRING), **spec.config} for spec in wanted})
        topics.ensure(connection, wanted, replication_factor=replication_factor)


def expire(connection: Connection, names: Iterable[str]) -> None:
    """Let what these topics hold be deleted by age. No effect on an embedded broker, which has no settings.

    Raises:
        BrokerError: the broker refused.
    """
    if not connection.embedded:
        alter(connection, dict.fromkeys(names, EXPIRING))


def alter(connection: Connection, settings: Mapping[str, Mapping[str, str | None]]) -> None:
    """Change settings of topics: {topic: {key: value}}; None = the broker's default.

    Raises:
        BrokerError: the broker refused, or did not answer.
    """
    resources = [
        ConfigResource(
            ConfigResource.Type.TOPIC,
            topic,
            incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                if value is not None
                else ConfigEntry(key, None, incremental_operation=AlterConfigOpType.DELETE)
                for key, value in of.items()
            ],
        )
        for topic, of in settings.items()
    ]
    admin = connection.admin()
    answers = admin.incremental_alter_configs(resources, request_timeout=REQUEST_SECONDS)
    for resource, answer in answers.items():
        try:
            answer.result()
        except KafkaException as exc:
            shown = ", ".join(f"{key}={value}" for key, value in settings[resource.name].items())
            raise BrokerError(
                f"{resource.name}: the broker does not set {shown}: {exc.args[0].str()}",
                action="grant AlterConfigs on the topic to this user",
            ) from exc
