"""What is wrong with the settings of topics that are there, and what would mend it. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ConfigResource

from deploy.kafka.forced_settings import own_setting, tolerated
from deploy.kafka.topic_settings import EXPIRING, REQUEST_SECONDS
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.topics import LEAST_MESSAGE_BYTES, MAX_MESSAGE_BYTES, TopicSpec

MEND_COMMAND = "`anchorstream topics mend`"


@dataclass(slots=True)
class Judged:
    """faults: {topic: lines} of those whose settings cannot be used. forced: a line for each that differs safely.

    wrong: {topic: what it must have instead}. retired: {topic: its settings} of scenarios' topics that are as
    `topic_settings.expire` leaves them. missing: topics that are not there.
    """

    faults: dict[str, list[str]] = field(default_factory=dict)
    forced: list[str] = field(default_factory=list)
    wrong: dict[str, dict[str, str]] = field(default_factory=dict)
    retired: dict[str, Mapping[str, str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def in_use(self) -> dict[str, list[str]]:
        """The faults where all these topics are in use: then one that is as a retired scenario's has one, too."""
        emptied = {name: [f"{name} is set to be emptied within the hour: {MEND_COMMAND}"] for name in self.retired}
        return self.faults | emptied


def judge(connection: Connection, specs: Sequence[TopicSpec], *, timeout_s: float = REQUEST_SECONDS) -> Judged:
    """Compare what the broker says with `TopicSpec.config`.

    Raises:
        BrokerError: the broker does not tell.
    """
    judged = Judged()
    if not specs:
        return judged
    resources = {spec.name: ConfigResource(ConfigResource.Type.TOPIC, spec.name) for spec in specs}
    admin = connection.admin()  # must outlive its answers
    answers = admin.describe_configs(list(resources.values()), request_timeout=timeout_s)
    replicas = _replicas(connection)
    told = {name: _settled(answers[resource], timeout_s) for name, resource in resources.items()}
    for spec in specs:
        told_of = told[spec.name]
        if isinstance(told_of, KafkaError):
            if told_of.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                judged.missing.append(spec.name)
                continue
            raise BrokerError(
                f"{spec.name}: the broker does not tell the topic's settings: {told_of.str()}",
                action="grant DescribeConfigs on the topic to this user",
            )
        found = {name: entry.value for name, entry in told_of.items()}
        if ".embeddings." in spec.name and all(found.get(key) == value for key, value in EXPIRING.items()):
            judged.retired[spec.name] = spec.config
        else:
            _judge(connection, spec, found, replicas, judged)
    return judged


def _settled(answer: Future[Any], timeout_s: float) -> Any:
    """What was answered, or the KafkaError in its place: all are awaited, whatever one says."""
    try:
        return answer.result(timeout_s + 1)
    except KafkaException as exc:
        return exc.args[0]
    except TimeoutError:
        return KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001


def _judge(
    connection: Connection,
    spec: TopicSpec,
    found: Mapping[str, str],
    replicas: Mapping[str, int],
    judged: Judged,
) -> None:
    alter = f"kafka-configs.sh --bootstrap-server {connection.bootstrap} --alter --topic {spec.name} --add-config "
    wrong: dict[str, str] = {}
    faults: list[str] = []
    longest = found.get("max.message.bytes")
    if "max.message.bytes" not in spec.config and longest is not None and int(longest) < LEAST_MESSAGE_BYTES:
        wrong["max.message.bytes"] = str(MAX_MESSAGE_BYTES)
        faults.append(
            f"{spec.name} has max.message.bytes={longest}, and up to {LEAST_MESSAGE_BYTES} bytes are sent to it at "
            f"once: {alter}max.message.bytes={MAX_MESSAGE_BYTES}"
        )
    has = {key: found.get(key, "(unknown)") for key in spec.config}
    differs = {key: value for key, value in spec.config.items() if not _same(has[key], value)}
    meaning = {key: tolerated(key, value, has[key]) for key, value in differs.items()}
    judged.forced += [f"{spec.name} has {key}={has[key]}: {why}" for key, why in meaning.items() if why is not None]
    if other := {key: value for key, value in differs.items() if meaning[key] is None}:
        wrong |= other
        have = ", ".join(f"{key}={has[key]}" for key in other)
        need = ",".join(f"{key}={_quoted(value)}" for key, value in other.items())
        ours = " and ".join(way for key in other if (way := own_setting(key, has[key])) is not None)
        faults.append(f"{spec.name} has {have}: {alter}{need}{f'; or set {ours}' if ours else ''}")
    if wrong:
        judged.wrong[spec.name] = wrong
    in_sync = found.get("min.insync.replicas", "1")
    if int(in_sync) > replicas.get(spec.name, int(in_sync)):
        faults.append(
            f"{spec.name} has min.insync.replicas={in_sync} and {replicas[spec.name]} replica(s): nothing can "
            "be written. Add replicas (kafka-reassign-partitions.sh); or, while nothing is in our topics, delete "
            f"them and set kafka.replication_factor to {int(in_sync) + 1}"
        )
    if faults:
        judged.faults[spec.name] = faults


def _replicas(connection: Connection) -> dict[str, int]:
    """Fewest replicas of a topic's partitions."""
    return {
        name: min(len(partition.replicas) for partition in topic.partitions.values())
        for name, topic in connection.metadata().topics.items()
        if topic.partitions
    }


def _same(found: str, wanted: str) -> bool:
    return sorted(part.strip() for part in found.split(",")) == sorted(part.strip() for part in wanted.split(","))


def _quoted(value: str) -> str:
    return f"[{value}]" if "," in value else value
