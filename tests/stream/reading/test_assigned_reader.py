"""A client that is given nothing is replaced and reads on where it was; who has nothing to read is left alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic
from structlog.testing import capture_logs

from deploy.brokers.local import LocalKafka
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.reading import assigned_reader
from stream.reading.assigned_reader import AssignedReader

STILL_SECONDS = 1.0
SECONDS = 60.0

pytestmark = pytest.mark.kafka


class Log:
    """A topic of two partitions, its writers, and a reader of it from the beginning."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self.name = name
        admin = connection.admin()
        admin.create_topics([NewTopic(name, 2, 1)])[name].result(30)
        self.reader = self._new_reader()
        self.reader.assign([TopicPartition(name, 0, 0), TopicPartition(name, 1, 0)])
        self.clients = [self.client]

    def _new_reader(self) -> AssignedReader:
        # no event tells the end of a partition: its polls are empty, as they are without one
        return AssignedReader(self.connection, self.name, still_seconds=STILL_SECONDS)

    @property
    def client(self) -> Any:
        return self.reader._client

    def write(self, partition: int, *values: str) -> None:
        producer = self.connection.producer()
        for value in values:
            producer.produce(self.name, value, partition=partition)
        assert producer.flush(SECONDS) == 0

    def transact(self, partition: int, value: str, *, commit: bool) -> None:
        producer = self.connection.producer(**{"transactional.id": f"{self.name}-writer"})
        producer.init_transactions(SECONDS)
        producer.begin_transaction()
        producer.produce(self.name, value, partition=partition)
        producer.flush(SECONDS)
        (producer.commit_transaction if commit else producer.abort_transaction)(SECONDS)

    def read(self, count: int) -> list[str]:
        """The next so many values; it takes as long as it takes."""
        found: list[str] = []
        deadline = time.monotonic() + SECONDS
        while len(found) < count:
            assert time.monotonic() < deadline, found
            found += self._values(0.1)
        return found

    def rest(self, looks: int = 3) -> list[str]:
        """What comes until another client has looked so often."""
        second, found = self.reader._watch._second, []
        deadline = time.monotonic() + SECONDS
        for _ in range(looks):
            for running in (True, False):
                while (second._running is not None) is not running:
                    assert time.monotonic() < deadline
                    found += self._values(0.02)
        for _ in range(20):
            found += self._values(0.1)
        return found

    def _values(self, seconds: float) -> list[str]:
        out = []
        for message in self.reader.consume(100, seconds):
            assert message.error() is None
            out.append(message.value().decode())
        return out


@pytest.fixture
def written(kafka_broker: LocalKafka, request: pytest.FixtureRequest) -> Iterator[Log]:
    log = Log(kafka_broker.connection, f"reading-{abs(hash(request.node.name)) % 10**9}")
    yield log
    log.reader.close()


def stop_giving(log: Log) -> None:
    """Fetching ends underneath, without an error, as in librdkafka's own stuck states."""
    log.client.pause([TopicPartition(log.name, 0), TopicPartition(log.name, 1)])


def test_a_client_that_is_given_nothing_is_replaced_and_reads_on_where_it_was(written: Log) -> None:
    """Random faults, seed 9201: after a broker's restart serve read nothing for as long as it was watched."""
    written.write(0, "a", "b")
    written.write(1, "c")
    assert sorted(written.read(3)) == ["a", "b", "c"]
    stuck = written.client
    stop_giving(written)
    written.write(0, "d", "e")
    written.write(1, "f")
    with capture_logs() as told:
        got = written.read(3)
    assert sorted(got) == ["d", "e", "f"]
    assert written.client is not stuck
    (line,) = [line for line in told if line["event"] == "client_replaced"]
    assert line["partitions"][f"{written.name}:0"] == {"position": 2, "end": 4}
    assert written.rest() == []  # nothing twice


def test_who_is_held_back_by_a_quota_is_left_alone(written: Log) -> None:
    """A new client is given a record before its first wait, so it looked as if the old one were stuck."""
    held = [True]
    written.reader._watch._held_back = lambda: held[0]
    client = written.client
    stop_giving(written)
    written.write(0, "a")
    deadline = time.monotonic() + 5 * STILL_SECONDS
    while time.monotonic() < deadline:
        assert written._values(0.1) == []
    assert written.client is client
    held[0] = False
    assert written.read(1) == ["a"]


def test_before_anything_has_come_too(written: Log) -> None:
    stop_giving(written)
    written.write(1, "a")
    assert written.read(1) == ["a"]


def test_what_the_owner_has_paused_stays_paused(written: Log) -> None:
    written.reader.pause([TopicPartition(written.name, 1)])
    stop_giving(written)
    written.write(0, "a")
    written.write(1, "b")
    assert written.read(1) == ["a"]  # by a new client
    assert written.rest() == []
    replacing = written.client
    written.reader.resume([TopicPartition(written.name, 1)])
    assert written.read(1) == ["b"]
    assert written.client is replacing


def test_who_has_nothing_to_read_is_left_alone(written: Log) -> None:
    """An end that lies above the position is none: markers of transactions, what was aborted, an open transaction."""
    written.transact(0, "committed", commit=True)
    written.transact(1, "aborted", commit=False)
    client = written.client
    open_one = written.connection.producer(**{"transactional.id": f"{written.name}-open"})
    open_one.init_transactions(SECONDS)
    open_one.begin_transaction()
    open_one.produce(written.name, "open", partition=0)
    open_one.flush(SECONDS)
    assert written.rest() == ["committed"]
    assert written.client is client
    open_one.commit_transaction(SECONDS)
    assert written.read(1) == ["open"]
    assert written.client is client


def test_a_partition_that_is_begun_elsewhere_goes_on_there(written: Log) -> None:
    """What the client says of the position before is not taken for it."""
    written.write(0, "a", "b", "c")
    assert written.read(3) == ["a", "b", "c"]
    one = [TopicPartition(written.name, 0)]
    written.reader.incremental_unassign(one)
    written.reader.incremental_assign([TopicPartition(written.name, 0, 1)])
    stop_giving(written)
    written.read(0)
    got = written.read(2)
    assert got == ["b", "c"]


def test_a_broker_that_gives_nobody_anything_is_waited_for(tmp_path: Any) -> None:
    broker = LocalKafka(tmp_path)
    written = Log(broker.connection, "t")
    try:
        written.write(0, "a")
        assert written.read(1) == ["a"]
        client = written.client
        broker.stop()
        for _ in range(30):
            written._values(0.1)
        assert written.client is client
        broker.restart()
        written.write(0, "b")
        assert written.read(1) == ["b"]
    finally:
        written.reader.close()
        broker.stop()


def test_new_clients_that_are_given_nothing_either_end_the_role(written: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assigned_reader, "TRIES", 1)
    written.write(0, "a")
    make = written.reader._make

    def dead() -> Any:
        client = make()
        assign = client.assign
        return _Dead(client, assign)

    written.read(1)
    stop_giving(written)
    written.write(0, "b")
    written.reader._make = dead
    with pytest.raises(BrokerError, match="were given nothing") as caught:
        written.read(1)
    assert caught.value.code == "client_stuck"


class _Dead:
    """A client that pauses whatever it is assigned."""

    def __init__(self, client: Any, assign: Any) -> None:
        self._client = client
        self._assign = assign

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._assign(partitions)
        self._client.pause(partitions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
