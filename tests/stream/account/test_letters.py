"""Dead letters are looked at once each, and for a while at a time: there may be millions."""

from __future__ import annotations

from contextlib import closing

import pytest

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from stream.account import reader as account_reader
from stream.account.reader import AccountReader
from stream.dead_letter import NO_PARTITION, dead_letter
from stream.kafka.client import Connection
from stream.rejection import ErrorCode, Rejection
from stream.settings import KafkaSettings
from stream.topics import Topics


def refuse(connection: Connection, topic: str, count: int) -> None:
    producer = connection.producer()
    for n in range(count):
        why = Rejection(ErrorCode.MISSING_MODALITY, "")
        letter = dead_letter(why, None, b"{}", "raw", NO_PARTITION if n % 2 else 0, n)
        producer.produce(topic, letter.value, partition=n % 3, headers=letter.headers)
    assert producer.flush(20) == 0


def test_letters_are_looked_at_once_each(
    shared_embedded_broker: EmbeddedBroker, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = shared_embedded_broker.connection
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix, partitions=3))
    ensure(connection, topics.specs({}, ()))
    with closing(AccountReader(connection, topics, [])) as reader:
        assert reader.read().settled
        refuse(connection, topics.dead_letters, 60)
        monkeypatch.setattr(account_reader, "LETTER_SECONDS", 0.0)
        report = reader.read()
        assert 0 < report.unseen_letters < 60
        assert not report.settled
        monkeypatch.undo()
        assert reader.read().refused == {"missing_modality": 30}
        assert reader.read().refused == {"missing_modality": 30}
        refuse(connection, topics.dead_letters, 6)
        assert reader.settled(seconds=30).refused == {"missing_modality": 33}
