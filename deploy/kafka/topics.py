"""Topics as the configuration needs them: created if missing, verified otherwise."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic, OffsetSpec

from deploy.kafka.forced_settings import WISHES
from deploy.kafka.topic_faults import MEND_COMMAND, judge
from deploy.kafka.topic_settings import REQUEST_SECONDS, revive
from store.base import logs
from store.base.errors import BrokerError, TopicError
from stream.kafka.client import Connection
from stream.kafka.patience import patiently
from stream.topics import MAX_MESSAGE_BYTES, TopicSpec

BROKERS_OWN = -1
"""Replication factor: the broker's default."""
LEADING_SECONDS = 15.0
MEND = f"{MEND_COMMAND} does what no data is lost by; the rest as its line says; then start again"
_POLICY = frozenset({KafkaError.POLICY_VIOLATION, KafkaError.INVALID_CONFIG})
log = logs.get(__name__)


def ensure(connection: Connection, specs: Iterable[TopicSpec], *, replication_factor: int = 1) -> list[str]:
    """Create what is missing and verify what is there.

    Verified are partitions and every setting of `TopicSpec.config`; of topics that are not ours, nothing. On an
    embedded broker only partitions, as it has no settings. The topic of a scenario that was retired and is back gets
    its settings back. What a cluster's policy forces is taken where it is safe, with a warning.

    Returns:
        Names of the topics created.

    Raises:
        TopicError: one line for each difference, with the command that mends it. Missing topics were created.
        BrokerError: the broker did not answer or refused to create a topic.
    """
    wanted = {spec.name: spec for spec in specs}
    there = _partitions(connection)
    missing = [spec for name, spec in wanted.items() if name not in there]
    created = []
    if missing:
        created = (
            _create_embedded(connection, missing)
            if connection.embedded
            else _create(connection, missing, replication_factor)
        )
        for name in created:
            log.info(logs.TOPIC_CREATED, topic=name, partitions=wanted[name].partitions)
        there = _wait_until_listed(connection, wanted)
    ours = [spec for spec in wanted.values() if spec.ours]
    faults = [fault.line for fault in partition_faults(connection, [s for s in ours if s.name not in created], there)]
    if not connection.embedded:
        judged = judge(connection, ours)
        faults += [line for lines in judged.faults.values() for line in lines]
        if judged.retired:
            revive(connection, judged.retired)
        for detail in judged.forced:
            log.warning(logs.TOPIC_DIFFERS, detail=detail)
    if faults:
        raise TopicError("\n".join(faults), action=MEND)
    return created


def faults(connection: Connection, specs: Iterable[TopicSpec]) -> dict[str, list[str]]:
    """{topic: lines} of those of ours which exist, are in use, and have something wrong. Changes nothing.

    Raises:
        BrokerError: the broker did not answer.
    """
    there = _partitions(connection)
    ours = [spec for spec in specs if spec.ours and spec.name in there]
    found = {fault.spec.name: [fault.line] for fault in partition_faults(connection, ours, there)}
    if not connection.embedded:
        for name, lines in judge(connection, ours).in_use().items():
            found[name] = [*found.get(name, ()), *lines]
    return found


def _partitions(connection: Connection) -> dict[str, int]:
    return {name: len(topic.partitions) for name, topic in connection.metadata().topics.items()}


def _wait_until_listed(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """A broker answers "created" before its metadata knows; a client that comes too early would be told "unknown"."""
    deadline = time.monotonic() + REQUEST_SECONDS
    while absent := set(names) - (there := _partitions(connection)).keys():
        if time.monotonic() > deadline:
            raise BrokerError(
                f"created, but not to be seen after {REQUEST_SECONDS:g} s: {', '.join(sorted(absent))}",
                action="check the state of the brokers and this user's Describe rights on the topics",
                code="topic_create_failed",
            )
        time.sleep(0.05)
    return there


def forced_settings(connection: Connection, specs: Iterable[TopicSpec]) -> list[str]:
    """What topics that are there have otherwise than asked, safely: a line each. Raises BrokerError."""
    return [] if connection.embedded else judge(connection, [spec for spec in specs if spec.ours]).forced


def refusal(connection: Connection, specs: Iterable[TopicSpec], *, replication_factor: int) -> BrokerError | None:
    """Why the broker would not create these topics; None if it would. Creates none."""
    if connection.embedded or not (wanted := list(specs)):
        return None
    try:
        _create(connection, wanted, replication_factor, validate_only=True)
    except BrokerError as exc:
        return exc
    return None


def check_partitions(connection: Connection, specs: Iterable[TopicSpec]) -> None:
    """That those of ours which exist have the partitions they must have: a user's key maps by their number.

    Raises:
        TopicError: as `ensure`. BrokerError: no answer.
    """
    if faults := partition_faults(connection, specs):
        raise TopicError("\n".join(fault.line for fault in faults), action=MEND)


class PartitionFault(NamedTuple):
    """A topic of another number of partitions. unused: nothing was ever written to it: it may be made anew."""

    spec: TopicSpec
    line: str
    unused: bool


def partition_faults(
    connection: Connection, specs: Iterable[TopicSpec], there: Mapping[str, int] | None = None
) -> list[PartitionFault]:
    """Of those of ours which exist. there: partitions of every topic; None = asked here. Raises BrokerError."""
    there = _partitions(connection) if there is None else there
    specs = [spec for spec in specs if spec.ours and spec.name in there]
    wrong = [spec for spec in specs if there[spec.name] != spec.partitions]
    if not wrong:
        return []
    if connection.embedded:
        way = "restart the embedded broker"
        has = "{} has {} partitions, kafka.partitions is {}: {}"
        return [PartitionFault(s, has.format(s.name, there[s.name], s.partitions, way), unused=False) for s in wrong]
    most = max(spec.partitions for spec in specs)
    counts = {there[spec.name] for spec in specs if spec.partitions == most}
    written = _written(connection, wrong, there)
    # whoever has owned a partition of `tokens` has left a record in it, so topics that were used with all of theirs are
    # told from those that were given more
    within = any(n < spec.partitions for spec in wrong for n in written[spec.name])
    beyond = any(n >= spec.partitions for spec in wrong for n in written[spec.name])
    given_more = within and not beyond and any(there[spec.name] > spec.partitions for spec in wrong)
    alike = len(counts) == 1 and not given_more
    return [
        _partition_fault(connection, spec, there[spec.name], written[spec.name], alike=alike, given_more=given_more)
        for spec in wrong
    ]


def _partition_fault(
    connection: Connection,
    spec: TopicSpec,
    partitions: int,
    written: frozenset[int],
    *,
    alike: bool,
    given_more: bool,
) -> PartitionFault:
    """What the broker does not tell, whether partitions were added or the topic was made so, is not claimed."""
    line = f"{spec.name} has {partitions} partitions, kafka.partitions is {spec.partitions}: "
    if spec.partitions == 1:
        line = f"{spec.name} has {partitions} partitions and must have one: "
    elif alike:
        return PartitionFault(spec, f"{line}all topics have: set kafka.partitions = {partitions}", unused=False)
    if not written and not given_more:
        line += (
            f"nothing was ever written to it: kafka-topics.sh --bootstrap-server {connection.bootstrap} --delete "
            f"--topic {spec.name}; it is made anew at the next start"
        )
        return PartitionFault(spec, line, unused=True)
    if partitions > spec.partitions and max(written, default=0) < spec.partitions:
        why = f"none beyond the first {spec.partitions} has records: the others were added, or never used"
    else:
        why = "it has records, by this number or, if it was changed, by several"
    # no setting mends it: users would map to another partition than their history
    line += (
        f"{why}. Kafka takes no partition away, and users' histories lie by the number: start over with another "
        "kafka.topic_prefix, which reads the raw topics anew, and without the folders processor, worker and serve of "
        "store.data_dir; replay the source of what the raw topics no longer have"
    )
    return PartitionFault(spec, line, unused=False)


def _written(connection: Connection, specs: Sequence[TopicSpec], there: Mapping[str, int]) -> dict[str, frozenset[int]]:
    """Partitions of each topic to which something was ever written."""
    asked = {TopicPartition(spec.name, n): OffsetSpec.latest() for spec in specs for n in range(there[spec.name])}

    def ends() -> dict[TopicPartition, int]:
        admin = connection.admin()  # must outlive its answers
        answers = admin.list_offsets(asked, request_timeout=REQUEST_SECONDS)
        return {tp: answer.result(REQUEST_SECONDS + 1).offset for tp, answer in answers.items()}

    try:
        # a broker that has just started takes a while to lead
        found = patiently(ends, threading.Event(), seconds=LEADING_SECONDS)
    except (KafkaException, TimeoutError) as exc:
        raise BrokerError(
            f"the ends of {', '.join(sorted(spec.name for spec in specs))} are not told: {exc}",
            action="check the state of the brokers and this user's Describe rights on the topics",
        ) from exc
    return {
        spec.name: frozenset(tp.partition for tp, end in found.items() if tp.topic == spec.name and end > 0)
        for spec in specs
    }


def _create(
    connection: Connection, specs: Sequence[TopicSpec], replication_factor: int, *, validate_only: bool = False
) -> list[str]:
    """Names of those created; where a policy refuses, asked for with less (`ensure` judges what comes of it)."""
    # whoever asked for one replica takes any number
    factor = BROKERS_OWN if replication_factor == 1 else replication_factor
    created, refused = _create_once(connection, specs, replication_factor, _settings, validate_only)
    for settings in (_settings, _needs):
        again = [spec for spec, error in refused if error.code() in _POLICY]
        if again:
            more, refused_again = _create_once(connection, again, factor, settings, validate_only)
            created += more
            refused = [(spec, error) for spec, error in refused if spec not in again] + refused_again
    if refused:
        spec, error = refused[0]
        raise _refused(connection, spec, replication_factor, error.str())
    return created


def _create_once(
    connection: Connection,
    specs: Sequence[TopicSpec],
    replication_factor: int,
    settings: Callable[[TopicSpec], dict[str, str]],
    validate_only: bool,
) -> tuple[list[str], list[tuple[TopicSpec, KafkaError]]]:
    new = [NewTopic(spec.name, spec.partitions, replication_factor, config=settings(spec)) for spec in specs]
    admin = connection.admin()
    answers = admin.create_topics(new, request_timeout=REQUEST_SECONDS, validate_only=validate_only)
    created: list[str] = []
    refused: list[tuple[TopicSpec, KafkaError]] = []
    for spec in specs:
        try:
            answers[spec.name].result()
            created.append(spec.name)
        except KafkaException as exc:
            # another role was faster
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                refused.append((spec, exc.args[0]))
    return created, refused


def _settings(spec: TopicSpec) -> dict[str, str]:
    return {"max.message.bytes": str(MAX_MESSAGE_BYTES), **spec.config} if spec.ours else {}


def _needs(spec: TopicSpec) -> dict[str, str]:
    return {key: value for key, value in _settings(spec).items() if key not in WISHES}


def _refused(connection: Connection, spec: TopicSpec, replication_factor: int, why: str) -> BrokerError:
    settings = "".join(f" --config {key}={value}" for key, value in spec.config.items()) if spec.ours else ""
    return BrokerError(
        f"{spec.name} could not be created: {why}",
        action=f"let somebody who may create it: kafka-topics.sh --bootstrap-server {connection.bootstrap} --create "
        f"--topic {spec.name} --partitions {spec.partitions} --replication-factor {replication_factor}{settings}",
        code="topic_create_failed",
    )


def _create_embedded(connection: Connection, specs: Sequence[TopicSpec]) -> list[str]:
    """The embedded broker has no CreateTopics: its process has a control address for that."""
    wanted = {"create": {spec.name: spec.partitions for spec in specs}}
    host, _, port = connection.control.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=REQUEST_SECONDS) as s, s.makefile("rwb") as stream:
            stream.write(json.dumps(wanted).encode() + b"\n")
            stream.flush()
            answer: dict[str, Any] = json.loads(stream.readline())
    except (OSError, ValueError) as exc:
        raise BrokerError(
            f"the embedded broker's control address {connection.control or '(none)'} does not answer: {exc}",
            action="restart `anchorstream up`",
        ) from exc
    if "error" in answer:
        raise BrokerError(f"embedded broker: {answer['error']}", action="check topic names and kafka.partitions")
    created: list[str] = answer["created"]
    return created
