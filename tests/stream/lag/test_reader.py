"""Lag on real brokers: the embedded one, and Apache Kafka (marker kafka)."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import TopicCollection, TopicPartition
from confluent_kafka.admin import NewPartitions
from structlog.testing import capture_logs

from deploy.kafka import topics
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.lag.evidence import Evidence
from stream.lag.reader import Freshness, GroupTopic, LagReader, plan
from stream.lag.status import LagPolicy, Status
from stream.settings import KafkaSettings
from stream.topics import Topics, TopicSpec


class Bench:
    """A topic of four partitions on some broker, and a group that commits by hand."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self.connection = connection
        self.topic = topic
        self.group = f"g-{topic}"
        self.producer = connection.producer()
        self.readers: list[LagReader] = []

    def produce(self, partition: int, *timestamps: int) -> None:
        for stamp in timestamps:
            self.producer.produce(self.topic, b"v", partition=partition, timestamp=stamp)
        assert self.producer.flush(10) == 0

    def commit(self, partition: int, offset: int, group: str = "", metadata: str = "") -> None:
        consumer = self.connection.consumer(group or self.group)
        position = TopicPartition(self.topic, partition, offset, metadata=metadata)
        consumer.commit(offsets=[position], asynchronous=False)
        consumer.close()

    def reader(self, *more: GroupTopic, **options: object) -> LagReader:
        targets = (GroupTopic("processor", self.group, self.topic), *more)
        reader = LagReader(self.connection, targets, **options)  # type: ignore[arg-type]
        self.readers.append(reader)
        return reader


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def connection(request: pytest.FixtureRequest) -> Connection:
    if request.param == "kafka":
        return request.getfixturevalue("kafka_broker").connection  # type: ignore[no-any-return]
    return request.getfixturevalue("shared_embedded_broker").connection  # type: ignore[no-any-return]


@pytest.fixture
def bench(connection: Connection, topic_prefix: str) -> Iterator[Bench]:
    topics.ensure(connection, [TopicSpec(topic_prefix, 4, ours=False)])
    until = time.monotonic() + 10
    while topic_prefix not in connection.metadata().topics and time.monotonic() < until:
        time.sleep(0.05)  # Kafka acknowledges a topic before every broker knows it
    made = Bench(connection, topic_prefix)
    yield made
    for reader in made.readers:
        reader.close()


def test_numbers(bench: Bench) -> None:
    now = int(time.time() * 1000)
    bench.produce(0, *(now - 60_000 + i * 1000 for i in range(10)))
    bench.produce(1, now, now, now)
    bench.produce(2, now - 5000)
    bench.commit(0, 4)
    bench.commit(1, 3)
    report = bench.reader().read()
    rows = {p.partition: p for p in report.partitions}
    assert [(p.committed, p.log_start, p.log_end, p.lag_messages) for p in rows.values()] == [
        (4, 0, 10, 6), (3, 0, 3, 0), (None, 0, 1, 1), (None, 0, 0, 0),
    ]  # fmt: skip
    assert rows[0].lag_seconds == pytest.approx(56, abs=3)  # the record at offset 4, not the oldest and not the newest
    assert rows[2].lag_seconds == pytest.approx(5, abs=3)
    assert (rows[1].lag_seconds, rows[3].lag_seconds) == (0.0, 0.0)
    assert [p.lag_seconds_source for p in rows.values()] == ["record", "caught_up", "record", "caught_up"]
    assert [p.retention_headroom for p in rows.values()] == [4, 3, None, None]
    # on Kafka we are told that the group has no member: whatever waits is read by nobody
    waits, never = (Status.UNKNOWN, Status.NO_COMMIT) if bench.connection.embedded else (Status.STOPPED, Status.STOPPED)
    assert [p.status for p in rows.values()] == [waits, Status.OK, never, Status.OK]
    assert report.lag_messages == 7
    assert report.status is never
    (group,) = report.groups()
    assert (group.lag_messages, group.status) == (7, never)
    assert group.lag_seconds == pytest.approx(56, abs=3)


def test_two_groups_in_one_partition_have_their_own_seconds(bench: Bench) -> None:
    now = int(time.time() * 1000)
    bench.produce(0, now - 40_000, now - 20_000, now)
    bench.commit(0, 0)
    bench.commit(0, 1, group="other")
    report = bench.reader(GroupTopic("freshness", "other", bench.topic)).read()
    seconds = {p.role: p.lag_seconds for p in report.partitions if p.partition == 0}
    assert seconds == {"processor": pytest.approx(40, abs=3), "freshness": pytest.approx(20, abs=3)}


def test_verdicts_over_time(bench: Bench) -> None:
    policy = LagPolicy(evidence_seconds=0.2, stalled_seconds=0.2, window_seconds=5)
    reader = bench.reader(policy=policy)
    now = int(time.time() * 1000)
    bench.produce(0, *[now] * 10)
    bench.commit(0, 2)

    def status() -> Status:
        for _ in range(4):
            time.sleep(0.1)
            report = reader.read(max_age_seconds=0)
        return report.partitions[0].status

    # on the embedded broker membership is unknown, and nothing new came; on Kafka the group has no member
    assert status() is (Status.STALLED if bench.connection.embedded else Status.STOPPED)
    bench.produce(0, now)
    assert status() is Status.STOPPED  # something new came
    bench.commit(0, 11)
    assert status() is Status.OK
    row = reader.read(max_age_seconds=0).partitions[0]
    assert row.lag_messages == 0
    assert row.commit_age_seconds is not None
    assert row.commit_age_seconds < 3
    bench.commit(0, 1)
    assert status() is Status.REWOUND


def test_a_status_that_stays_unknown_is_logged_once_with_its_reason(bench: Bench) -> None:
    """Random faults, seed 9201: `unknown` for minutes, and nothing in any log."""
    now = [time.time()]
    other = GroupTopic("freshness", f"other-{bench.topic}", bench.topic, joins=False)
    reader = bench.reader(other, clock=lambda: now[0])
    bench.produce(0, int(now[0] * 1000), int(now[0] * 1000))
    bench.commit(0, 1, other.group)

    def look(after: float) -> list[Any]:
        now[0] += after
        with capture_logs() as told:
            report = reader.read(max_age_seconds=0)
        (row,) = [p for p in report.partitions if p.group == other.group and p.partition == 0]
        assert row.status is Status.UNKNOWN
        return [line for line in told if line["event"] == "lag_unknown" and line["group"] == other.group]

    assert look(0) == []
    (line,) = look(61)
    assert line["readings"] == 1
    assert "a verdict takes 3 over 10 s" in line["detail"]
    assert look(61) == []


def test_who_asks_again_has_a_verdict(bench: Bench) -> None:
    policy = LagPolicy(evidence_seconds=0.2, stalled_seconds=0.2, window_seconds=60)
    other = GroupTopic("freshness", f"other-{bench.topic}", bench.topic, joins=False)
    evidence = Evidence(bench.reader(other, policy=policy), interval_seconds=0.6)
    bench.produce(0, int(time.time() * 1000), int(time.time() * 1000))
    bench.commit(0, 1, other.group)
    first = {p.status for p in evidence.read().partitions if p.group == other.group}
    assert Status.UNKNOWN in first
    assert evidence._gathering.acquire(timeout=60)  # nobody asks meanwhile
    evidence._gathering.release()
    (row,) = [p for p in evidence.read().partitions if p.group == other.group and p.partition == 0]
    assert row.status is Status.STALLED
    evidence.close()


def test_a_reading_is_shared_for_a_moment_and_the_record_is_fetched_once(bench: Bench) -> None:
    now = int(time.time() * 1000)
    bench.produce(0, now - 30_000, now)
    clock = [time.time()]
    reader = bench.reader(wall=lambda: clock[0], clock=lambda: clock[0])
    first = reader.read()
    assert reader.read() is first
    clock[0] += 10
    second = reader.read()
    assert second is not first
    ages = [r.partitions[0].lag_seconds for r in (first, second)]
    assert ages[0] is not None
    assert ages[1] == pytest.approx(ages[0] + 10, abs=0.01)  # the same record, remembered


def test_many_threads_may_read(bench: Bench) -> None:
    bench.produce(0, int(time.time() * 1000))
    reader = bench.reader()
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(reader.read(max_age_seconds=0).lag_messages)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [1] * 6


def test_topics_that_are_missing_are_named_and_not_created(bench: Bench) -> None:
    name = f"missing-{uuid.uuid4().hex}"
    reader = bench.reader(GroupTopic("ingest", "i", name))
    assert reader.read().missing_topics == (name,)
    assert not reader.read().whole
    assert reader.read(max_age_seconds=0).missing_topics == (name,)
    assert {p.topic for p in reader.read().partitions} == {bench.topic}


def test_the_plan_can_change(bench: Bench) -> None:
    reader = bench.reader()
    other = f"{bench.topic}-other"
    topics.ensure(bench.connection, [TopicSpec(other, 2, ours=False)])
    with reader._lock:  # a reading is under way: serve's tail, which says so, must not wait for it
        reader.watch([GroupTopic("serve", "s", other)])
    assert [(p.topic, p.partition) for p in reader.read().partitions] == [(other, 0), (other, 1)]


@pytest.mark.parametrize("end", ["commit", "abort"])
@pytest.mark.parametrize("connection", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
def test_what_a_transaction_leaves_behind_is_no_lag(bench: Bench, end: str) -> None:
    """E5: the control record at its end took an offset that nobody ever commits."""
    producer = bench.connection.producer(**{"transactional.id": bench.topic})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(bench.topic, b"v", partition=0)
    producer.flush(10)
    (producer.commit_transaction if end == "commit" else producer.abort_transaction)(20)
    read = 1 if end == "commit" else 0
    reader = bench.reader()
    if end == "commit":
        assert reader.read().lag_messages == 2
    bench.commit(0, read)
    row = reader.read(max_age_seconds=0).partitions[0]
    assert (row.committed, row.log_end, row.lag_messages, row.lag_seconds) == (read, 2, 0, 0.0)
    assert row.lag_seconds_source == "caught_up"
    bench.produce(0, int(time.time() * 1000))
    row = reader.read(max_age_seconds=0).partitions[0]
    assert (row.log_end, row.lag_messages, row.lag_seconds_source) == (3, 3 - read, "record")


@pytest.mark.parametrize("connection", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
def test_an_open_transaction_is_called_that(bench: Bench) -> None:
    bench.produce(0, int(time.time() * 1000))
    bench.commit(0, 1)
    reader = bench.reader(policy=LagPolicy(evidence_seconds=0.2))
    producer = bench.connection.producer(**{"transactional.id": bench.topic})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(bench.topic, b"v", partition=0)
    producer.flush(10)
    for _ in range(4):
        report = reader.read(max_age_seconds=0)
        time.sleep(0.1)
    row = report.partitions[0]
    assert (row.log_end, row.lag_messages, row.status) == (1, 0, Status.OPEN_TRANSACTION)
    producer.abort_transaction(20)
    assert reader.read(max_age_seconds=0).status is Status.OK


@pytest.mark.parametrize("connection", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
def test_a_commit_beyond_the_end_is_ahead(bench: Bench) -> None:
    """A4: it read as `ok` while the role died of it."""
    bench.produce(0, int(time.time() * 1000))
    bench.commit(0, 5)
    row = bench.reader().read().partitions[0]
    assert (row.committed, row.log_end, row.lag_messages, row.status) == (5, 1, 0, Status.AHEAD)


def test_partitions_that_are_added_are_seen_by_the_next_reading(bench: Bench) -> None:
    """B19: after up to 10 s here, and the whole cluster was asked."""
    if bench.connection.embedded:
        pytest.skip("no CreatePartitions on the embedded broker")
    reader = bench.reader()
    assert len(reader.read().partitions) == 4
    admin = bench.connection.admin()
    admin.create_partitions([NewPartitions(bench.topic, 6)])[bench.topic].result(10)
    until = time.monotonic() + 10
    while len(bench.connection.metadata().topics[bench.topic].partitions) < 6 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(reader.read(max_age_seconds=0).partitions) == 6


def test_a_timestamp_that_cannot_be_right_is_not_shown_as_lag(bench: Bench) -> None:
    """B17: producers that write the event's own time, of 2017 say, made lag of years; and one far ahead made none."""
    now = int(time.time() * 1000)
    clock = [time.time()]
    reader = bench.reader(clock=lambda: clock[0])
    bench.produce(0, now)
    bench.commit(0, 1)
    assert reader.read().lag_messages == 0
    bench.produce(0, 1_500_000_000_000, now)
    bench.produce(1, now + 1_800_000)
    clock[0] += 7
    rows = reader.read().partitions
    assert (rows[0].lag_seconds, rows[0].lag_seconds_source) == (pytest.approx(7, abs=0.1), "observed")
    assert rows[1].lag_seconds_source == "observed"
    # seen for the first time there is nothing to hold against it
    first = bench.reader(wall=lambda: clock[0]).read().partitions
    assert first[0].lag_seconds == pytest.approx(clock[0] - 1_500_000_000, abs=5)
    assert (first[1].lag_seconds, first[1].lag_seconds_source) == (None, "unknown")


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_step_of_the_wall_clock_changes_no_verdict(bench: Bench, hours: int) -> None:
    """Back by an hour: for an hour every verdict rested on readings of the future, and none was forgotten."""
    wall, clock = [time.time()], [0.0]
    reader = bench.reader(wall=lambda: wall[0], clock=lambda: clock[0])
    now = int(wall[0] * 1000)
    bench.produce(0, now)
    bench.commit(0, 1)
    assert reader.read().lag_messages == 0
    bench.produce(0, now)
    statuses = []
    for look in range(20):
        wall[0] += 5
        clock[0] += 5
        if look == 2:
            wall[0] += 3600 * hours
        row = reader.read().partitions[0]
        statuses.append(row.status)
        if look < 10:  # while the last reading without lag is remembered, no record's time is needed
            assert row.lag_seconds is not None
            assert row.lag_seconds <= 5 * (look + 1) + 60
    assert len(reader._samples[bench.group, bench.topic, 0]) <= 14  # of a minute
    stands = Status.STALLED if bench.connection.embedded else Status.STOPPED
    assert statuses[-1] is stands


def test_members_are_counted_where_the_broker_tells(bench: Bench) -> None:
    consumer = bench.connection.consumer(bench.group)
    consumer.subscribe([bench.topic])
    deadline = time.monotonic() + 20
    while not consumer.assignment() and time.monotonic() < deadline:
        consumer.poll(0.1)
    (group,) = bench.reader().read().groups()
    consumer.close()
    assert group.members == (None if bench.connection.embedded else 1)


@pytest.mark.kafka
@pytest.mark.parametrize("connection", ["kafka"], indirect=True)
def test_deleted_unread_is_told(bench: Bench) -> None:
    """Retention passes the commit (only a real broker can delete on request)."""
    bench.produce(0, *[int(time.time() * 1000)] * 10)
    bench.commit(0, 2)
    place = TopicPartition(bench.topic, 0, 6)
    admin = bench.connection.admin()  # kept: its answer dies with it
    admin.delete_records([place])[place].result(10)
    row = bench.reader().read().partitions[0]
    assert (row.committed, row.log_start, row.retention_headroom, row.lag_messages) == (2, 6, -4, 4)
    assert row.status is Status.REWOUND
    assert row.lag_seconds is not None


@pytest.mark.parametrize("connection", [pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
def test_a_topic_made_anew_is_called_that(bench: Bench) -> None:
    """E4: `ahead` or `rewound` of a topic that is there no more, and no word of its being another."""
    now = [1000.0]
    watching = bench.reader(clock=lambda: now[0])
    bench.produce(0, *[int(time.time() * 1000)] * 10)
    admin = bench.connection.admin()
    describe = TopicCollection([bench.topic])
    before = str(admin.describe_topics(describe)[bench.topic].result(10).topic_id)
    bench.commit(0, 10, metadata=f"clock=5,topic={before}")
    assert (watching.read().lag_messages, watching.read().made_anew) == (0, ())
    admin.delete_topics([bench.topic])[bench.topic].result(10)
    while bench.topic in bench.connection.metadata().topics:
        time.sleep(0.05)
    topics.ensure(bench.connection, [TopicSpec(bench.topic, 4, ours=False)])
    bench.producer = bench.connection.producer()
    bench.produce(0, *[int(time.time() * 1000)] * 3)
    bench.commit(0, 8, metadata=f"clock=5,topic={before}")  # one that was under way
    for reader in (watching, bench.reader(clock=lambda: now[0])):
        report = reader.read(max_age_seconds=0)
        row = report.partitions[0]
        assert report.made_anew == (bench.topic,)
        assert (row.committed, row.lag_messages, row.retention_headroom) == (None, 3, None)
        assert row.status not in (Status.REWOUND, Status.AHEAD)
    assert report.to_dict()["made_anew"] == [bench.topic]
    # its reader has begun anew: who saw it happen says so for a window
    after = str(admin.describe_topics(describe)[bench.topic].result(10).topic_id)
    bench.commit(0, 3, metadata=f"clock=5,topic={after}")
    for reader, seen in ((watching, (bench.topic,)), (bench.reader(clock=lambda: now[0]), ())):
        report = reader.read(max_age_seconds=0)
        assert (report.made_anew, report.status) == (seen, Status.OK)
    now[0] += 61
    assert watching.read(max_age_seconds=0).made_anew == ()


def test_json(bench: Bench) -> None:
    bench.produce(1, int(time.time() * 1000))
    report = bench.reader(freshness=lambda: Freshness(0.2, 0.9)).read()
    body = report.to_dict()
    assert body["freshness_seconds"] == {"p50": 0.2, "p99": 0.9}
    assert body["lag_messages"] == 1
    assert body["groups"][0]["role"] == "processor"
    assert len(body["partitions"]) == 4
    assert json.loads(json.dumps(body)) == body


def test_observe_ends_once_nothing_waits(bench: Bench) -> None:
    begun = time.monotonic()
    assert bench.reader().observe(seconds=30).lag_messages == 0
    assert time.monotonic() - begun < 10


def test_a_broker_that_does_not_answer_is_an_error_in_time() -> None:
    reader = LagReader(Connection("127.0.0.1:9"), [GroupTopic("ingest", "g", "t")], timeout_seconds=1)
    begun = time.monotonic()
    with pytest.raises(BrokerError) as caught:
        reader.read()
    assert time.monotonic() - begun < 5
    assert "doctor" in caught.value.action
    reader.close()


def test_the_plan_covers_every_group() -> None:
    names = Topics(KafkaSettings())
    targets = plan(names, ["b", "a", "a"], ["churn"])
    assert [(t.role, t.topic) for t in targets] == [
        ("ingest", "a"),
        ("ingest", "b"),
        ("processor", "anchorstream.events"),
        ("worker", "anchorstream.tokens"),
        ("serve", "anchorstream.embeddings.churn"),
        ("freshness", "anchorstream.events"),
    ]
    groups = {value for name, value in vars(names).items() if name.startswith("group_")}
    assert {t.group for t in targets} == groups - {names.group_account}, "which reads nothing"
