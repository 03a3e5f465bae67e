"""Where an account lies is told once a second, again every minute, and at last; users are counted now and then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import TopicPartition

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from stream.commit_metadata import decode
from stream.kafka.client import Connection
from stream.token_log.account_marks import AGAIN_SECONDS, SAY_SECONDS, AccountMarks
from stream.topics import TopicSpec
from tests.support.processes import wait_until


class Bench:
    def __init__(self, connection: Connection, topic: str) -> None:
        ensure(connection, [TopicSpec(topic, 2)])
        self.connection, self.topic = connection, topic
        self.now, self.users, self.counted, self.takes = 1000.0, 5, 0, 0.0
        self.marks = AccountMarks(connection, topic, f"{topic}.account", lambda: self.now)

    def count(self) -> int:
        self.counted += 1
        self.now += self.takes
        return self.users

    def told(self, partition: int = 0) -> tuple[int, dict[str, str]]:
        with closing(self.connection.consumer(f"{self.topic}.account")) as consumer:
            (tp,) = consumer.committed([TopicPartition(self.topic, partition)], timeout=10)
            return tp.offset, decode(tp.metadata)

    def say_until(self, offset: int) -> None:
        """The broker takes a moment."""
        self.marks.say()
        wait_until(lambda: self.told()[0] == offset, f"{offset} is told")


@pytest.fixture
def bench(shared_embedded_broker: EmbeddedBroker, topic_prefix: str) -> Iterator[Bench]:
    made = Bench(shared_embedded_broker.connection, topic_prefix)
    yield made
    made.marks.end()


def test_it_is_told_once_a_second_and_at_last(bench: Bench) -> None:
    bench.marks.open(0, bench.count)
    bench.marks.note(0, 7, 3)
    bench.say_until(7)
    assert bench.told()[1] == {"events": "3", "users": "5"}
    bench.marks.note(0, 9, 4)
    bench.marks.say()
    bench.marks.close([0, 1])
    assert bench.told()[0] == 9, "waited for: the next owner may be another process"
    bench.now += SAY_SECONDS
    bench.marks.say()
    assert bench.told()[0] == 9


def test_what_was_undone_does_not_stay_so(bench: Bench) -> None:
    """A frozen former owner commits what it had; the partition's owner says its own again."""
    bench.marks.open(0, bench.count)
    bench.marks.note(0, 7, 3)
    bench.say_until(7)
    with closing(bench.connection.consumer(f"{bench.topic}.account")) as other:
        other.commit(offsets=[TopicPartition(bench.topic, 0, 2)], asynchronous=False)
    assert bench.told()[0] == 2
    bench.now += AGAIN_SECONDS
    bench.say_until(7)


def test_counting_users_takes_a_small_share_of_the_time(bench: Bench) -> None:
    bench.marks.open(0, bench.count)
    bench.takes = 0.5
    bench.marks.note(0, 1, 1)
    bench.say_until(1)
    bench.users = 6
    for n in range(2, 6):
        bench.now += SAY_SECONDS
        bench.marks.note(0, n, n)
        bench.say_until(n)
    assert bench.counted == 1
    assert bench.told()[1]["users"] == "5"
    bench.now += 50
    bench.marks.say()
    assert bench.counted == 2, "also without news, until the number that was told is the newest"
    wait_until(lambda: bench.told()[1]["users"] == "6", "the users are told")
