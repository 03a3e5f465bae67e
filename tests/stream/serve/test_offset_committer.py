"""A group's commits by processes that are no members of it: never back, and never forgotten. On both brokers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, TopicPartition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.brokers.local import LocalKafka
from deploy.kafka import topics
from stream.kafka.client import Connection
from stream.serve.offset_committer import RENEW_SECONDS, OffsetCommitter
from stream.topics import TopicSpec

SECONDS = 20.0


class Spied:
    """A consumer whose commits are noted."""

    def __init__(self, consumer: Any, sent: list[dict[tuple[str, int], int]]) -> None:
        self._consumer = consumer
        self._sent = sent

    def commit(self, offsets: list[TopicPartition], **options: Any) -> None:
        self._sent.append({(tp.topic, tp.partition): tp.offset for tp in offsets})
        self._consumer.commit(offsets=offsets, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


class Group:
    """One topic of two partitions, and those that commit for one group."""

    def __init__(self, connection: Connection, name: str) -> None:
        topics.ensure(connection, [TopicSpec(name, 2, ours=False)])
        self.connection = connection
        self.topic = name
        self.clock = [0.0]
        self.committers: list[OffsetCommitter] = []

    def committer(self) -> OffsetCommitter:
        made = OffsetCommitter(self.connection, f"g-{self.topic}", clock=lambda: self.clock[0])
        self.committers.append(made)
        return made

    def commit(self, committer: OffsetCommitter, *offsets: int) -> None:
        """Offer, and step until it is settled."""
        committer.offer({(self.topic, partition): offset for partition, offset in enumerate(offsets)})
        deadline = time.monotonic() + SECONDS
        while not committer._done.items() >= committer._wanted.items() or committer._in_flight or committer._renewed:
            assert time.monotonic() < deadline
            committer.step()
            self.clock[0] += 0.1
            time.sleep(0.005)

    def committed(self) -> list[int]:
        consumer = self.committers[0].consumer
        return [tp.offset for tp in consumer.committed([TopicPartition(self.topic, p) for p in range(2)], timeout=10)]


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def group(request: pytest.FixtureRequest, topic_prefix: str) -> Iterator[Group]:
    name = {"embedded": "shared_embedded_broker", "kafka": "kafka_broker"}[request.param]
    made = Group(request.getfixturevalue(name).connection, topic_prefix)
    yield made
    for committer in made.committers:
        committer.offer({})
        committer.close()


def test_what_is_offered_is_committed(group: Group) -> None:
    one = group.committer()
    group.commit(one, 3, 0)
    assert group.committed() == [3, 0]
    group.commit(one, 5, 1)
    assert group.committed() == [5, 1]


def test_a_restart_that_catches_up_does_not_take_the_group_back(group: Group) -> None:
    """B12, E3: a serve without its snapshot committed 1,000 over 1,000,000, which read as `rewound` and paged."""
    group.commit(group.committer(), 1_000_000, 7)
    fresh = group.committer()
    group.commit(fresh, 1_000, 8)
    assert group.committed() == [1_000_000, 8]
    group.commit(fresh, 1_000_001, 8)
    assert group.committed() == [1_000_001, 8]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 50)), max_size=12))
def test_of_two_the_furthest_counts(shared_embedded_broker: object, steps: list[tuple[int, int]]) -> None:
    """Two serves, in any order; each goes forward at its own pace, or starts again from nothing."""
    group = Group(shared_embedded_broker.connection, f"two-{time.time_ns()}")  # type: ignore[attr-defined]
    two = [group.committer(), group.committer()]
    seen = 0
    for which, offset in steps:
        group.commit(two[which], offset, 0)
        now = group.committed()[0]
        seen = max(seen, offset)
        assert now == seen
    for committer in two:
        committer.offer({})
        committer.close()


def test_commits_are_made_again_before_the_broker_forgets_them(group: Group) -> None:
    """E6: after offsets.retention.minutes of quiet the whole topic was lag."""
    one = group.committer()
    group.commit(one, 4, 0)
    sent: list[dict[tuple[str, int], int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one._client, "_client", Spied(one._client._client, sent))
        group.commit(one, 4, 0)
        assert sent == []
        group.clock[0] += RENEW_SECONDS
        one.step()
        group.commit(one, 4, 0)
        assert sent == [{(group.topic, 0): 4, (group.topic, 1): 0}]


def test_a_renewal_takes_nobody_back(group: Group) -> None:
    behind, ahead = group.committer(), group.committer()
    group.commit(behind, 4, 0)
    group.commit(ahead, 9, 0)
    group.clock[0] += RENEW_SECONDS
    behind.step()
    group.commit(behind, 4, 0)
    assert group.committed() == [9, 0]


@pytest.mark.kafka
def test_a_group_that_is_deleted_is_committed_again_though_nothing_comes(
    kafka_broker: LocalKafka, topic_prefix: str
) -> None:
    """A quiet system was `no_commit` until traffic came."""
    group = Group(kafka_broker.connection, topic_prefix)
    one = group.committer()
    group.commit(one, 7, 0)
    admin = kafka_broker.connection.admin()
    admin.delete_consumer_groups([one.group])[one.group].result(SECONDS)
    assert group.committed() == [OFFSET_INVALID, OFFSET_INVALID]
    deadline = time.monotonic() + SECONDS
    while group.committed() != [7, 0]:
        assert time.monotonic() < deadline
        group.clock[0] += 1.0
        one.step()
        time.sleep(0.01)
