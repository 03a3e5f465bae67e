"""Positions that cannot be served: seen, said, and set where the role goes on."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from deploy import cli
from deploy.brokers.local import LocalKafka
from deploy.kafka.topics import ensure
from deploy.operate.offsets import EARLIEST, LATEST, Position, moves
from store.base.errors import ConfigError, DataLossError
from store.base.settings import ModalitySettings
from stream.ingest.ingest import Ingest
from stream.raw_counts import read_counts
from stream.settings import IngestSettings, KafkaSettings
from stream.topics import Topics
from tests.stream.processor.test_batch_writer import NEVER, Message, pack_of, writer_of

N = 4


@given(
    committed=st.none() | st.integers(0, 50),
    start=st.integers(0, 30),
    length=st.integers(0, 30),
    to=st.sampled_from([EARLIEST, LATEST]) | st.integers(0, 60).map(str),
    every=st.booleans(),
)
def test_a_move_lands_in_the_log_and_tells_what_it_costs(
    committed: int | None, start: int, length: int, to: str, every: bool
) -> None:
    end = start + length
    position = Position("ingest", "g", "t", 0, committed, start, end)
    assert position.lost == len(range(committed if committed is not None else start, start))
    try:
        made = moves([position], to, every=every)
    except ConfigError:
        assert to.isdigit()
        assert not start <= int(to) <= end
        return
    if not made:
        assert not every
        assert committed is None or start <= committed <= end
        return
    (move,) = made
    assert start <= move.to <= end
    before = set(range(start if committed is None or committed > end else committed, end))
    unread = before & set(range(start, end))
    assert move.skipped == len(unread - set(range(move.to, end)))
    assert move.again == len(set(range(move.to, end)) - unread)


def configure(path: Path, broker: LocalKafka, prefix: str) -> Path:
    file = path / "anchorstream.toml"
    file.write_text(
        f'[kafka]\nbootstrap_servers = "{broker.connection.bootstrap}"\ntopic_prefix = "{prefix}"\n'
        f'partitions = 1\n[modalities.bill]\ntopic = "{prefix}-raw"\n[scenarios.churn]\nquery = "?"\n'
    )
    return file


def test_retention_passed_while_ingest_was_down(
    kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B7: one partition a start, by a tool that is not there, with a group called GROUP."""
    connection, raw = kafka_broker.connection, f"{topic_prefix}-raw"
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=N))
    modalities = {"bill": ModalitySettings(topic=raw)}
    ensure(connection, topics.specs(modalities, ()))
    config = ["--config", str(configure(tmp_path, kafka_broker, topic_prefix))]
    producer = connection.producer()
    for n in range(10 * N):
        producer.produce(raw, b"{}", partition=n % N)
    producer.flush(10)
    consumer = connection.consumer(topics.group_ingest)
    consumer.commit(
        offsets=[
            TopicPartition(raw, p, 2 if p else 9, metadata="clock=5,since=3,begin=0,refused=x:2") for p in range(N)
        ],
        asynchronous=False,
    )
    admin = connection.admin()
    for answer in admin.delete_records([TopicPartition(raw, p, 7) for p in range(N)]).values():
        answer.result(10)

    with pytest.raises(DataLossError) as caught:
        Ingest(connection, topics, modalities, IngestSettings()).run(threading.Event())
    assert "`anchorstream offsets reset ingest --to earliest`" in caught.value.action

    capsys.readouterr()
    assert cli.run(["offsets", "list", "ingest", "--json", *config]) == 1
    listed = json.loads(capsys.readouterr().out)["positions"]
    assert [(p["partition"], p["lost"], p["status"]) for p in listed] == [
        (0, 0, "ok"), *((p, 5, "lost") for p in range(1, N)),
    ]  # fmt: skip

    member = connection.consumer(topics.group_ingest)
    assigned = threading.Event()
    member.subscribe([raw], on_assign=lambda *_: assigned.set())
    while not assigned.is_set():
        member.poll(0.1)
    reset = ["offsets", "reset", "ingest", "--to", "earliest", *config]
    assert cli.run(reset) == 2
    assert "member" in capsys.readouterr().err
    member.close()

    def offsets() -> list[tuple[int, str]]:
        found = consumer.committed([TopicPartition(raw, p) for p in range(N)], timeout=10)
        return [(tp.offset, tp.metadata or "") for tp in found]

    before = offsets()
    capsys.readouterr()
    assert cli.run([*reset, "--dry-run", "--json"]) == 0
    assert offsets() == before
    made = json.loads(capsys.readouterr().out)["moves"]
    assert [(m["partition"], m["to"], m["lost"], m["skipped"], m["read_again"]) for m in made] == [
        (p, 7, 5, 0, 0) for p in range(1, N)
    ]
    assert cli.run(reset) == 0
    assert [offset for offset, _ in offsets()] == [9, 7, 7, 7]
    assert all("clock=5" in metadata for _, metadata in offsets())
    counts = [read_counts(metadata) for _, metadata in offsets()]
    assert [(c.messages, c.passed_over) for c in counts if c is not None] == [(2, 0), *[(7, 5)] * (N - 1)]

    stop = threading.Event()
    running = threading.Thread(target=Ingest(connection, topics, modalities, IngestSettings()).run, args=(stop,))
    running.start()
    try:
        for _ in range(600):
            if [offset for offset, _ in offsets()] == [10] * N:
                break
            stop.wait(0.1)
    finally:
        stop.set()
        running.join(40)
    assert [offset for offset, _ in offsets()] == [10] * N
    assert cli.run(["offsets", "list", "ingest", *config]) == 0
    consumer.close()


@pytest.mark.parametrize("length", [1, 5])
def test_events_made_anew(kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path, length: int) -> None:
    """A3: the buffer's offset lay in the new topic, or beyond its end, and no reset reached it."""
    connection = kafka_broker.connection
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=1))
    producer = connection.producer()

    def send(n: int) -> list[Message]:
        for i in range(n):
            producer.produce(topics.events, pack_of(i), partition=0)
        assert producer.flush(10) == 0
        return [Message(0, i, pack_of(i)) for i in range(n)]

    def outcome(messages: list[Message]) -> int | None:
        writer = writer_of(connection, topic_prefix, tmp_path)
        try:
            writer.apply(messages, NEVER)
            return writer.durable(0)
        finally:
            writer.close()

    writer_of(connection, topic_prefix, tmp_path).close()  # makes the topics
    assert outcome(send(3)) == 3
    admin = connection.admin()
    admin.delete_topics([topics.events])[topics.events].result(20)
    while topics.events in connection.metadata().topics:
        pass
    ensure(connection, [spec for spec in topics.specs({}, ()) if spec.name == topics.events])
    producer = connection.producer()
    messages = send(length)
    with pytest.raises(DataLossError) as caught:
        outcome(messages)
    assert "`anchorstream offsets reset processor --to earliest --all`" in caught.value.action
    config = str(configure(tmp_path, kafka_broker, topic_prefix))
    assert cli.run(["offsets", "reset", "processor", "--to", "earliest", "--all", "--config", config]) == 0
    assert outcome(messages) == length


def test_what_has_no_position_of_its_own_is_refused(
    kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=1))
    ensure(kafka_broker.connection, topics.specs({}, ["churn"]))
    config = ["--config", str(configure(tmp_path, kafka_broker, topic_prefix))]
    assert cli.run(["offsets", "reset", "serve", "--to", "latest", *config]) == 2
    assert "snapshots" in capsys.readouterr().err
    assert cli.run(["offsets", "reset", "nobody", "--to", "latest", *config]) == 1
    assert "freshness" in capsys.readouterr().err


@pytest.mark.parametrize("length", [0, 50])
def test_tokens_made_anew(kafka_broker: LocalKafka, topic_prefix: str, tmp_path: Path, length: int) -> None:
    """A3: a log that had grown as long as the old one was read on from the middle, without a word."""
    connection = kafka_broker.connection
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=1))
    writer = writer_of(connection, topic_prefix, tmp_path)
    producer = connection.producer()
    producer.produce(topics.events, pack_of(0), partition=0)
    assert producer.flush(10) == 0
    writer.apply([Message(0, 0, pack_of(0))], NEVER)
    writer.close()
    admin = connection.admin()
    admin.delete_topics([topics.tokens])[topics.tokens].result(20)
    while topics.tokens in connection.metadata().topics:
        pass
    ensure(connection, [spec for spec in topics.specs({}, ()) if spec.name == topics.tokens])
    producer = connection.producer()
    for n in range(length):
        producer.produce(topics.tokens, b"", key=b"%d" % n, partition=0)
    assert producer.flush(10) == 0
    writer = writer_of(connection, topic_prefix, tmp_path)
    with pytest.raises(DataLossError, match="made anew"):
        writer.apply([Message(0, 0, pack_of(0))], NEVER)
    writer.close()
