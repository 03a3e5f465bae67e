"""Settings of topics that are there already: changed, and those of a retired scenario's topic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.kafka.futures import all_of
from stream.topics import HOUR_MS

REQUEST_SECONDS = 15.0
EXPIRING = {"cleanup.policy": "delete", "retention.ms": str(HOUR_MS)}
"""Of a retired scenario's topic: what it holds goes, and the empty topic stays. An hour, so that a serve or worker that
has not heard yet meets no gap."""


def expire(connection: Connection, names: Iterable[str]) -> None:
    """Let what these topics hold be deleted by age. No effect on an embedded broker, which has no settings.

    Raises:
        BrokerError: the broker refused.
    """
    if not connection.embedded:
        alter(connection, dict.fromkeys(names, EXPIRING))


def revive(connection: Connection, wanted: Mapping[str, Mapping[str, str]]) -> None:
    """Undo `expire`: {topic: its settings}. Raises BrokerError: the broker refused."""
    alter(connection, {topic: {**dict.fromkeys(EXPIRING), **settings} for topic, settings in wanted.items()})


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
    admin = connection.admin()  # must outlive its answers
    answers = admin.incremental_alter_configs(resources, request_timeout=REQUEST_SECONDS)
    try:
        all_of(answers, 2 * REQUEST_SECONDS)
    except KafkaException as exc:
        raise BrokerError(
            f"the broker does not change the settings of {', '.join(settings)}: {exc.args[0].str()}",
            action="grant AlterConfigs on these topics to this user",
        ) from exc
