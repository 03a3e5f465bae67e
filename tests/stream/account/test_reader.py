"""The account as read from the broker, of an ingest and a processor that run, die, and are of another version."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from deploy.brokers.local import LocalKafka
from deploy.kafka.topics import ensure
from deploy.run.spawn import Spawn
from store.base.settings import ModalitySettings
from stream.account.reader import AccountReader
from stream.account.report import AccountReport
from stream.events.event import Event, pack
from stream.ingest.ingest import Ingest
from stream.kafka.client import Connection
from stream.settings import IngestSettings, KafkaSettings
from stream.topics import Topics, TopicSpec
from tests.stream.processor.test_processor import PARTITIONS, Bench
from tests.support.processes import Role, running, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.crash]
GROUP = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}


class Account(Bench):
    """One raw topic, its ingest in a thread and its processor as a process."""

    def __init__(self, connection: Connection, prefix: str, tmp_path: Path, spawn: Spawn) -> None:
        topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=PARTITIONS))
        super().__init__(connection, topics, tmp_path / "data", tmp_path / "logs", spawn)
        self.raw = f"{prefix}-web"
        self.modalities = {"click": ModalitySettings(topic=self.raw, text="{page}", window_days=10, max_events=1000)}
        ensure(connection, topics.specs(self.modalities, ()))
        self.now = int(time.time() * 1000)

    def publish(self, first: int, last: int) -> None:
        """Of ten events one is no JSON and one is there twice."""
        producer = self.connection.producer()
        for n in range(first, last):
            event = {"user_id": f"u{n % 7}", "ts": self.now - n, "event_id": f"e{n - (n % 10 == 9)}", "page": "p"}
            event["page"] = f"p{n - (n % 10 == 9)}"
            event["ts"] = self.now - n + (n % 10 == 9)
            event["user_id"] = f"u{(n - (n % 10 == 9)) % 7}"
            producer.produce(self.raw, b"{" if n % 10 == 5 else json.dumps(event).encode(), partition=n // 10 % 2)
        assert producer.flush(20) == 0

    @contextmanager
    def ingesting(self) -> Iterator[None]:
        stop, failures = threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                Ingest(self.connection, self.topics, self.modalities, IngestSettings(batch_messages=20)).run(stop)
            except BaseException as exc:
                failures.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
        assert failures == []

    def processor(self) -> Role:
        modalities = {name: m.model_dump(mode="json") for name, m in self.modalities.items()}
        return self.child(modalities=modalities)

    def read(self, seconds: float = 60) -> AccountReport:
        with closing(AccountReader(self.connection, self.topics, [self.raw])) as reader:
            report = reader.settled(seconds=seconds)
        assert report.adds_up, report.to_dict()
        return report

    def forget(self, group: str) -> None:
        """As a broker does after offsets.retention.minutes."""
        admin = self.connection.admin()

        def gone() -> bool:
            return admin.delete_consumer_groups([group])[group].exception() is None

        wait_until(gone, f"{group} has no members and is deleted")


@pytest.fixture
def system(kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path, spawn: Spawn) -> Account:
    broker = kafka_broker.connection
    return Account(Connection(broker.bootstrap, GROUP, identity=broker.identity), topic_prefix, tmp_path, spawn)


def test_kills_and_lost_commits_and_it_adds_up(system: Account) -> None:
    system.publish(0, 200)
    before = system.read(seconds=0)
    assert before.lines() == ["published 200 = 200 not yet read", "accepted 0 = 0"]
    with system.ingesting():
        child = system.processor()
        with running(child, ready_s=60):
            wait_until(lambda: any(system.committed().values()), "something is processed")
            child.kill()
    system.publish(200, 400)
    with system.ingesting(), running(system.processor(), ready_s=60):
        report = system.read()
    assert report.lines() == [
        "published 400 = 360 accepted + 40 refused",
        "accepted 360 = 320 new + 40 duplicates",
    ]
    assert report.refused == {"invalid_json": 40}
    assert report.users == 7
    # nothing runs, and it is still told
    assert replace(system.read(), at=report.at) == report
    since = report.topics[0].since
    assert since is not None

    # ingest's commits are lost: it reads all again, and counts anew
    system.forget(system.topics.group_ingest)
    with system.ingesting(), running(system.processor(), ready_s=60):
        report = system.read()
    assert report.lines() == ["published 400 = 360 accepted + 40 refused", "accepted 360 = 360 duplicates"]
    assert report.topics[0].since is not None
    assert report.topics[0].since > since


def test_what_was_there_before_counts_began(system: Account) -> None:
    """Upgraded: offsets without counts, packs without a header. Both are read, and counted from here on."""
    system.publish(0, 100)
    with closing(system.connection.consumer(system.topics.group_ingest)) as consumer:
        consumer.commit(
            offsets=[TopicPartition(system.raw, p, 30, metadata=f"clock={system.now}") for p in range(2)],
            asynchronous=False,
        )
    producer = system.connection.producer()
    event = Event("u1", "click", system.now, "old", "p", (), None, system.raw, 0, 3, system.now, system.now)
    producer.produce(system.topics.events, pack(system.now, [event]), partition=0)
    producer.flush(20)
    report = system.read(seconds=0)
    assert report.lines()[0] == "published 40 = 40 not yet read"
    assert report.topics[0].since is None
    with system.ingesting(), running(system.processor(), ready_s=60):
        report = system.read()
        wait_until(system.done, "the old pack too is applied")
    assert report.lines()[0] == "published 40 = 36 accepted + 4 refused"
    assert report.totals()["ahead"] == report.totals()["uncounted"] == 0
    assert report.topics[0].since is not None


@pytest.mark.kafka
def test_a_log_whose_records_were_all_deleted(kafka_broker: LocalKafka, topic_prefix: str) -> None:
    """Retention set by hand on `tokens`: the account was `broker_unreachable` from then on."""
    connection = kafka_broker.connection
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=1))
    ensure(connection, [TopicSpec(name, 1) for name in (topics.tokens, topics.events, topics.dead_letters)])
    producer = connection.producer()
    producer.produce(topics.tokens, b"x", partition=0)
    assert producer.flush(20) == 0
    with closing(connection.consumer(topics.group_account)) as consumer:
        consumer.commit(offsets=[TopicPartition(topics.tokens, 0, 0)], asynchronous=False)
    admin = connection.admin()  # kept: its answer dies with it
    for answer in admin.delete_records([TopicPartition(topics.tokens, 0, 1)]).values():
        answer.result(20)
    with closing(AccountReader(connection, topics, [])) as reader:
        assert reader.read().settled
