"""E12: a raw topic that ingest may not read is named, and the others are read. On a broker with an authorizer."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog.testing
from confluent_kafka.admin import AclOperation, AclPermissionType

from deploy.checks.events import check_events
from deploy.checks.finding import Level
from deploy.kafka.topics import ensure
from deploy.settings.config import load
from store.base import logs
from store.base.errors import AnchorstreamError
from store.base.settings import ModalitySettings
from stream.ingest.ingest import Ingest
from stream.lag.reader import GroupTopic, LagReader
from stream.lag.status import Status
from stream.settings import IngestSettings, KafkaSettings
from stream.topics import Topics, TopicSpec
from tests.support.offsets import committed
from tests.support.secured_kafka import SecuredKafka

pytestmark = pytest.mark.kafka
SECONDS = 180.0
EVENTS = 5


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class Bench:
    """Two raw topics, and an ingest that logs in."""

    def __init__(self, broker: SecuredKafka, prefix: str) -> None:
        self.broker = broker
        self.open, self.denied = f"{prefix}-open", f"{prefix}-denied"
        self.topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=1))
        self.modalities = {"a": ModalitySettings(topic=self.open), "b": ModalitySettings(topic=self.denied)}
        raw = [TopicSpec(topic, 2, ours=False) for topic in (self.open, self.denied)]
        ensure(broker.connection, [*self.topics.specs(self.modalities, ()), *raw])
        self.failures: list[AnchorstreamError] = []

    def send(self) -> None:
        """EVENTS to each partition of both."""
        producer = self.broker.connection.producer()
        for topic in (self.open, self.denied):
            for n in range(2 * EVENTS):
                value = {"user_id": "u", "ts": int(time.time() * 1000), "event_id": f"{topic}{time.time()}{n}", "x": 1}
                producer.produce(topic, json.dumps(value).encode(), partition=n % 2)
        assert producer.flush(60) == 0

    def committed(self, topic: str) -> list[int]:
        return [tp.offset for tp in committed(self.broker.connection, self.topics.group_ingest, topic, 2)]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()

        def run() -> None:
            try:
                Ingest(self.broker.secured, self.topics, self.modalities, IngestSettings()).run(stop)
            except AnchorstreamError as exc:
                self.failures.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def bench(secured_kafka: SecuredKafka, topic_prefix: str) -> Bench:
    return Bench(secured_kafka, topic_prefix)


@pytest.mark.parametrize("seen", [True, False], ids=["read", "read and describe"])
def test_a_denied_topic_is_named_and_the_rest_goes_on(bench: Bench, tmp_path: Path, seen: bool) -> None:
    rules = [bench.broker.permit(bench.denied, AclOperation.READ, AclPermissionType.DENY)]
    if seen:
        rules.append(bench.broker.permit(bench.denied, AclOperation.DESCRIBE, AclPermissionType.ALLOW))
    bench.send()
    with structlog.testing.capture_logs() as said, bench.running():
        until(lambda: bench.committed(bench.open) == [EVENTS] * 2)
        until(lambda: any(line["event"] == logs.TOPIC_DENIED for line in said))
        check_lag(bench, seen)
        check_doctor(bench, tmp_path)
        bench.send()
        until(lambda: bench.committed(bench.open) == [2 * EVENTS] * 2)
        assert all(offset < 0 for offset in bench.committed(bench.denied))
        named = [line["topic"] for line in said if line["event"] == logs.TOPIC_DENIED]
        assert set(named) == {bench.denied}
        for rule in rules:
            bench.broker.withdraw(rule)
        until(lambda: bench.committed(bench.denied) == [2 * EVENTS] * 2)
    assert bench.failures == []


def test_what_is_denied_later_is_named_too(bench: Bench) -> None:
    bench.send()
    with structlog.testing.capture_logs() as said, bench.running():
        until(lambda: bench.committed(bench.denied) == [EVENTS] * 2)
        rule = bench.broker.permit(bench.denied, AclOperation.ALL, AclPermissionType.DENY)
        until(lambda: any(line["event"] == logs.TOPIC_DENIED for line in said))
        bench.send()
        until(lambda: bench.committed(bench.open) == [2 * EVENTS] * 2)
        bench.broker.withdraw(rule)
        until(lambda: bench.committed(bench.denied) == [2 * EVENTS] * 2)
    assert bench.failures == []


def check_lag(bench: Bench, seen: bool) -> None:
    group = bench.topics.group_ingest
    targets = [GroupTopic("ingest", group, topic) for topic in (bench.open, bench.denied)]
    with contextlib.closing(LagReader(bench.broker.secured, targets)) as reader:
        report = reader.read(max_age_seconds=0)
    rows = {(p.topic, p.partition): p for p in report.partitions}
    assert rows[bench.open, 0].lag_messages == 0
    if seen:
        assert rows[bench.denied, 0].lag_messages == EVENTS
        assert rows[bench.denied, 0].status is Status.NO_COMMIT
    else:
        (unreadable,) = report.unreadable
        assert bench.denied in unreadable


def check_doctor(bench: Bench, tmp_path: Path) -> None:
    properties = "\n".join(f'"{key}" = "{value}"' for key, value in bench.broker.properties.items())
    path = tmp_path / "anchorstream.toml"
    path.write_text(
        f'[kafka]\nbootstrap_servers = "{bench.broker.secured_bootstrap}"\ntopic_prefix = "{bench.topics.prefix}"\n'
        f"partitions = 1\n[kafka.properties]\n{properties}\n"
        f'[modalities.a]\ntopic = "{bench.open}"\n[modalities.b]\ntopic = "{bench.denied}"\n'
        f'[scenarios.churn]\nquery = "?"\n[store]\ndata_dir = "{tmp_path}"\n'
    )
    found = check_events(load(path))
    assert found.level is Level.FAIL
    assert f"{bench.denied} cannot be read" in found.detail
    assert bench.open not in found.detail
