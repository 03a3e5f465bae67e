"""A reader that lives longer than the broker, in a process of its own: what librdkafka gets wrong ends that."""

from __future__ import annotations

import multiprocessing as mp
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from deploy.brokers.local import LocalKafka
from deploy.kafka import topics
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.lag.reader import GroupTopic, LagReader
from stream.topics import TopicSpec
from tests.conftest import need_kafka

TOPIC = "restarted"
GROUPS = ("first", "second")
RECOVERY_SECONDS = 60.0


def _answer(connection: Connection, pipe: Pipe) -> None:
    """Reads lag whenever it is told to, with one reader all the time."""
    plan = [GroupTopic(f"r{n}", group, TOPIC) for n, group in enumerate(GROUPS)]
    reader = LagReader(connection, plan, timeout_seconds=2)
    while pipe.recv():
        try:
            report = reader.read(max_age_seconds=0)
        except BrokerError as exc:
            pipe.send(exc.detail)
        else:
            pipe.send((report.whole, {g.group: (g.lag_messages, g.members) for g in report.groups()}))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalKafka]:
    need_kafka()
    broker = LocalKafka(tmp_path)
    yield broker
    broker.stop()


@pytest.mark.kafka
@pytest.mark.slow
def test_lag_is_read_again_after_every_restart_of_the_broker(broker: LocalKafka) -> None:
    """E1: blind for good after the first restart, the process aborted at the second."""
    connection = broker.connection
    topics.ensure(connection, [TopicSpec(TOPIC, 2, ours=False)])
    producer = connection.producer()
    member: Any = connection.consumer(GROUPS[0])
    member.subscribe([TOPIC])
    other = connection.consumer(GROUPS[1])
    context = mp.get_context("spawn")
    pipe, theirs = context.Pipe()
    child = context.Process(target=_answer, args=(connection, theirs), daemon=True)
    child.start()
    theirs.close()

    def read_until(expected: dict[str, tuple[int, int | None]]) -> None:
        until = time.monotonic() + RECOVERY_SECONDS
        answer: object = None
        while time.monotonic() < until:
            member.poll(0)
            pipe.send(True)
            answer = pipe.recv()  # EOFError: the child is dead
            if answer == (True, expected):
                return
            time.sleep(0.1)
        raise AssertionError(answer)

    try:
        for produced, restart in enumerate((None, broker.stop, broker.kill, broker.stop)):
            if restart is not None:
                restart()
                for _ in range(2):
                    pipe.send(True)
                    assert isinstance(pipe.recv(), str)
                broker.restart()
            producer.produce(TOPIC, b"v", partition=0)
            assert producer.flush(30) == 0
            read_until({GROUPS[0]: (produced + 1, 1), GROUPS[1]: (1, 0)})
            other.commit(offsets=[TopicPartition(TOPIC, 0, produced + 1)], asynchronous=False)
        assert child.is_alive()
    finally:
        child.kill()
        member.close()
        other.close()
