"""Ad-hoc queries as serve asks them: the reply of the user's worker, or an error in time, whatever comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from structlog.testing import capture_logs

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from store.base.errors import BrokerError
from store.records.embed_messages import SCENARIO, EmbedReply, EmbedRequest
from store.records.embedding import EmbeddingRecord
from stream.kafka.client import Connection
from stream.kafka.partitioner import partition_of
from stream.serve import embed_client
from stream.serve.embed_client import EmbedClient
from stream.settings import KafkaSettings
from stream.topics import Topics

PARTITIONS = 3
VECTOR = np.eye(1, 128, dtype=np.float32)[0]


class World:
    """Topics of their own on a broker; the test plays the workers."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self.connection = connection
        self.topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=PARTITIONS))
        ensure(connection, self.topics.specs({}, ()))
        self._producer = connection.producer(**{"linger.ms": 0})
        self._consumer = connection.consumer("workers", **{"fetch.wait.max.ms": 10})
        self._consumer.assign([TopicPartition(self.topics.embed_requests, p, 0) for p in range(PARTITIONS)])

    def requests(self, count: int) -> list[tuple[int, EmbedRequest]]:
        """The next requests, with their partitions."""
        out: list[tuple[int, EmbedRequest]] = []
        deadline = time.monotonic() + 30
        while len(out) < count:
            assert time.monotonic() < deadline, f"{len(out)} of {count} requests"
            message = self._consumer.poll(1)
            if message is not None:
                assert message.error() is None
                out.append((message.partition(), EmbedRequest.unpack(message.value())))
        return out

    def no_request(self) -> bool:
        return self._consumer.poll(0.5) is None

    def reply(self, *values: bytes | None) -> None:
        for value in values:
            self._producer.produce(self.topics.embed_replies, value, partition=0)
        assert self._producer.flush(10) == 0

    def close(self) -> None:
        self._consumer.close()

    @contextmanager
    def client(self, **options: Any) -> Iterator[EmbedClient]:
        client = EmbedClient(self.connection, self.topics, **options)
        stop = threading.Event()
        failures: list[BaseException] = []

        def run() -> None:
            try:
                client.run(stop)
            except BaseException as exc:
                failures.append(exc)
                raise

        thread = threading.Thread(target=run)
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while (probe := client.ask("nobody", "?", None, 1)).done():
                assert code(probe) == "not_ready"
                assert time.monotonic() < deadline
                assert not failures
                time.sleep(0.01)
            self.requests(1)
            if "clock" in options:
                options["clock"].now += 1
            assert code(probe) == "embed_timeout"
            yield client
        finally:
            stop.set()
            thread.join(30)
        assert not thread.is_alive()
        assert not failures


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def code(future: Future[EmbedReply]) -> str:
    """Error of a reply that is there or comes soon; "" = a record."""
    return future.result(30).error


def record_of(request: EmbedRequest) -> EmbeddingRecord:
    return EmbeddingRecord(request.user_id, SCENARIO, f"m:{request.query}", 1, 2, 3, VECTOR)


def answer(request: EmbedRequest) -> bytes:
    return EmbedReply(request.id, record_of(request)).pack()


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest, topic_prefix: str) -> Iterator[World]:
    fixture = {"embedded": "shared_embedded_broker", "kafka": "kafka_broker"}[request.param]
    broker: EmbeddedBroker | LocalKafka = request.getfixturevalue(fixture)
    world = World(broker.connection, topic_prefix)
    yield world
    world.close()


@pytest.fixture
def embedded(shared_embedded_broker: EmbeddedBroker, topic_prefix: str) -> Iterator[World]:
    world = World(shared_embedded_broker.connection, topic_prefix)
    yield world
    world.close()


def test_each_gets_the_reply_to_its_own_request(world: World) -> None:
    with world.client() as client:
        before = time.time_ns() // 1_000_000
        futures = {
            f"user-{i}": client.ask(f"user-{i}", f"query {i}", "tuned" if i % 2 else None, 20_000) for i in range(9)
        }
        asked = world.requests(9)
        assert len({request.id for _, request in asked}) == 9
        for partition, request in asked:
            assert partition == partition_of(request.user_id, PARTITIONS)
            i = int(request.user_id.removeprefix("user-"))
            assert (request.query, request.prompt) == (f"query {i}", "tuned" if i % 2 else None)
            assert before + 20_000 <= request.expires_at <= time.time_ns() // 1_000_000 + 20_000
        # in another order
        world.reply(*(answer(request) for _, request in reversed(asked)))
        for user, future in futures.items():
            record = future.result(30).record
            assert record is not None
            assert (record.user_id, record.model) == (user, f"m:query {user.removeprefix('user-')}")


def test_what_is_not_ours_is_ignored(embedded: World) -> None:
    with embedded.client() as client, capture_logs() as lines:
        future = client.ask("anna", "?", None, 20_000)
        ((_, request),) = embedded.requests(1)
        other = EmbedRequest("of another serve", "bert", "?", None, 0)
        embedded.reply(answer(other), b"\xff", None, b"", EmbedReply("", None, "user_unknown").pack())
        assert not future.done()
        embedded.reply(answer(request), EmbedReply(request.id, None, "restoring", "too late").pack())
        assert code(future) == ""
        # the thread has read the late one too
        again = client.ask("anna", "?", None, 20_000)
        ((_, request),) = embedded.requests(1)
        embedded.reply(EmbedReply(request.id, None, "user_unknown", "nobody").pack())
        assert again.result(30).detail == "nobody"
    assert [line["event"] for line in lines].count("embed_reply_refused") == 3


def test_replies_from_before_the_start_are_not_read(embedded: World) -> None:
    embedded.reply(*[b"not a reply"] * 5)
    with capture_logs() as lines, embedded.client() as client:
        future = client.ask("anna", "?", None, 20_000)
        embedded.reply(answer(embedded.requests(1)[0][1]))
        assert code(future) == ""
    assert not [line for line in lines if line["event"] == "embed_reply_refused"]


def test_before_the_start_and_after_the_end_nobody_is_asked(embedded: World) -> None:
    idle = EmbedClient(embedded.connection, embedded.topics)
    assert code(idle.ask("anna", "?", None, 20_000)) == "not_ready"
    with embedded.client() as client:
        waiting = client.ask("anna", "?", None, 60_000)
        embedded.requests(1)
        assert not waiting.done()
    # whoever waited is told at once
    assert waiting.done()
    assert code(waiting) == "not_ready"
    assert code(client.ask("anna", "?", None, 20_000)) == "not_ready"
    assert embedded.no_request()


def test_without_a_reply_it_is_sent_once_more_and_then_given_up(embedded: World) -> None:
    clock = Clock()
    with embedded.client(clock=clock) as client:
        future = client.ask("anna", "?", None, 10_000)
        (first,) = embedded.requests(1)
        clock.now += 4.9
        assert embedded.no_request()
        clock.now += 0.2
        assert embedded.requests(1) == [first]
        clock.now += 4.8
        assert embedded.no_request()
        assert not future.done()
        clock.now += 0.2
        assert code(future) == "embed_timeout"
        assert "10000 ms" in future.result().detail
        embedded.reply(answer(first[1]))  # too late: no effect, no failure
        assert embedded.no_request()


def test_a_request_that_was_read_by_nobody_is_answered_the_second_time(embedded: World) -> None:
    clock = Clock()
    with embedded.client(clock=clock) as client:
        future = client.ask("anna", "?", None, 10_000)
        embedded.requests(1)  # by a worker that lost its partition
        clock.now += 5
        ((_, request),) = embedded.requests(1)
        embedded.reply(answer(request))
        assert code(future) == ""


def test_too_many_are_refused_and_places_come_free(embedded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with embedded.client() as client:
        monkeypatch.setattr(embed_client, "MAX_IN_FLIGHT", 3)
        futures = [client.ask("anna", "?", None, 60_000) for _ in range(3)]
        assert code(client.ask("anna", "?", None, 60_000)) == "busy"
        asked = embedded.requests(3)
        embedded.reply(answer(asked[0][1]))
        assert code(futures[0]) == ""
        futures[0] = client.ask("anna", "?", None, 60_000)
        assert not futures[0].done()
        assert code(client.ask("anna", "?", None, 60_000)) == "busy"


def test_a_cancelled_one_harms_nobody(embedded: World) -> None:
    with embedded.client() as client:
        gone = client.ask("anna", "first", None, 20_000)
        stays = client.ask("anna", "second", None, 20_000)
        assert gone.cancel()
        asked = sorted((request.query, request) for _, request in embedded.requests(2))
        embedded.reply(*(answer(request) for _, request in asked))
        assert code(stays) == ""
        assert gone.cancelled()


def test_many_threads_may_ask(embedded: World) -> None:
    replies: dict[str, EmbedReply] = {}
    with embedded.client() as client:

        def ask(user: str) -> None:
            replies[user] = client.ask(user, "?", None, 30_000).result(40)

        threads = [threading.Thread(target=ask, args=(f"user-{i}",)) for i in range(40)]
        for thread in threads:
            thread.start()
        for _, request in embedded.requests(40):
            embedded.reply(answer(request))
        for thread in threads:
            thread.join(60)
    assert len(replies) == 40
    assert all(reply.record is not None and reply.record.user_id == user for user, reply in replies.items())


def test_a_request_that_the_client_library_refuses(embedded: World) -> None:
    embedded.connection = replace(embedded.connection, properties={"message.max.bytes": 1000})
    with embedded.client() as client:
        refused = client.ask("anna", "?" * 2000, None, 20_000)
        assert code(refused) == "embed_unsent"
        assert refused.result().detail
        assert not client._waiting  # its place is free again
        future = client.ask("anna", "?", None, 20_000)
        embedded.reply(answer(embedded.requests(1)[0][1]))
        assert code(future) == ""


def test_a_broker_that_does_not_answer_ends_the_role(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_vain(_: object, __: threading.Event) -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    monkeypatch.setattr(embed_client, "patiently", in_vain)
    client = EmbedClient(Connection("127.0.0.1:9"), Topics(KafkaSettings()))
    stop = threading.Event()
    with pytest.raises(BrokerError, match="embed-replies"):
        client.run(stop)
    stop.set()
    client.run(stop)  # told to stop while it waited: no failure
