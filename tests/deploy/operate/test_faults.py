"""The table of faults in docs/lag.md, by doing: what lag, doctor and the logs of a running system say of each."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from deploy import cli
from deploy.kafka.topics import ensure
from tests.support.faulty_system import System, each_is_said
from tests.support.faulty_system import system as system

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(1500)]
WORKER = "anchorstream.worker"
UNSEEN = AclBinding(
    ResourceType.GROUP,
    WORKER,
    ResourcePatternType.LITERAL,
    "User:ANONYMOUS",
    "*",
    AclOperation.DESCRIBE,
    AclPermissionType.DENY,
)


@contextmanager
def worker_dead(system: System) -> Iterator[str]:
    system.up.kill("worker")
    system.produce()
    try:
        yield "worker"
    finally:
        system.revive("worker")


@contextmanager
def worker_frozen(system: System) -> Iterator[str]:
    pid = system.up.kill("worker", signal.SIGSTOP)
    system.produce()
    try:
        yield "worker"
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def healthy(system: System) -> Iterator[str]:
    system.produce()
    system.healthy()
    yield "worker"


@contextmanager
def broker_away(system: System) -> Iterator[str]:
    system.kafka.kill()
    try:
        yield "ingest"
    finally:
        system.kafka.restart()


@contextmanager
def group_unreadable(system: System) -> Iterator[str]:
    for answer in system.admin.create_acls([UNSEEN]).values():
        answer.result(30)
    try:
        yield "worker"
    finally:
        found = AclBindingFilter(
            ResourceType.GROUP,
            WORKER,
            ResourcePatternType.LITERAL,
            None,
            None,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        for answer in system.admin.delete_acls([found]).values():
            answer.result(30)
        system.revive("worker")  # its heartbeats are refused too: once its session has passed it ends


@contextmanager
def retention_passed(system: System) -> Iterator[str]:
    system.up.remove_role("ingest-0")
    system.produce()
    consumer = system.kafka.connection.consumer("looks")
    places = [TopicPartition("bills", p) for p in range(2)]
    ends = [TopicPartition(tp.topic, tp.partition, consumer.get_watermark_offsets(tp, timeout=30)[1]) for tp in places]
    consumer.close()
    for answer in system.admin.delete_records(ends).values():
        answer.result(30)
    system.up.add_role("ingest", 0)
    try:
        yield "ingest"
    finally:
        assert cli.run(["offsets", "reset", "ingest", "--to", "earliest", "--config", str(system.config)]) == 0
        system.revive("ingest")


@contextmanager
def raw_topic_deleted(system: System) -> Iterator[str]:
    for answer in system.admin.delete_topics(["bills"], operation_timeout=30).values():
        answer.result(60)
    try:
        yield "ingest"
    finally:
        ensure(system.kafka.connection, [system.topics.specs(system.settings.modalities, ())[0]])


FAULTS: dict[str, Callable[[System], AbstractContextManager[str]]] = {
    "healthy and loaded": healthy,
    "worker dead": worker_dead,
    "worker frozen": worker_frozen,
    "broker away": broker_away,
    "one group may not be described": group_unreadable,
    "retention passed a stopped reader": retention_passed,
    "a raw topic is deleted": raw_topic_deleted,
}


def test_each_main_fault_is_said_as_the_table_has_it(
    system: System, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    """E7. One system for all of them: each fault is mended before the next."""
    each_is_said(system, FAULTS, capsys, subtests)
