"""A client that never joins its group again ends its role, which is started anew; without a broker nobody ends."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic

from deploy.brokers.local import LocalKafka
from store.base.errors import BrokerError
from stream.kafka import membership
from stream.kafka.membership import ASK_EVERY_SECONDS, JOIN_SECONDS, Membership
from stream.kafka.patience import patiently


@pytest.mark.kafka
def test_who_is_no_member_though_the_broker_answers_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random faults, seeds 136 and 319: ingest was thrown out while the broker was away twice, and read nothing more;
    in 319 it kept its old id."""
    monkeypatch.setattr(membership, "_ASK_SECONDS", 30.0)
    broker = LocalKafka(tmp_path)
    now = [0.0]
    connection = broker.connection
    consumer, other = connection.consumer("g"), connection.consumer("g")
    try:
        admin = connection.admin()
        admin.create_topics([NewTopic("t", 1, 1)])["t"].result(30)
        of_member, of_none, of_gone = (Membership(connection, "g", lambda: now[0]) for _ in range(3))
        consumer.subscribe(["t"])
        deadline = time.monotonic() + 60
        while not consumer.memberid():
            consumer.poll(0.1)
            assert time.monotonic() < deadline
        gone = SimpleNamespace(memberid=lambda: "thrown-out-1", assignment=list)
        without = SimpleNamespace(memberid=consumer.memberid, assignment=list)  # too few partitions for all
        everyone = ((of_none, other), (of_gone, gone), (of_member, without))
        for now[0] in (0.0, ASK_EVERY_SECONDS, ASK_EVERY_SECONDS + JOIN_SECONDS - 1):
            for one, of in everyone:
                one.look(of)
        now[0] += 1 + ASK_EVERY_SECONDS
        of_member.look(without)
        with pytest.raises(BrokerError, match="not a member of g"):
            of_gone.look(gone)
        with pytest.raises(BrokerError, match="not a member of g") as caught:
            of_none.look(other)
        assert caught.value.code == "group_not_joined"
        broker.stop()
        monkeypatch.setattr(membership, "_ASK_SECONDS", 2.0)
        for _ in range(3):
            now[0] += 2 * JOIN_SECONDS
            of_none.look(other)  # nobody can join
        broker.restart()
        monkeypatch.setattr(membership, "_ASK_SECONDS", 30.0)
        patiently(lambda: broker.connection.reader("g").committed([TopicPartition("t", 0)], timeout=30), Event())
        for after in (ASK_EVERY_SECONDS, JOIN_SECONDS - 1):  # it has just come back
            now[0] += after
            of_none.look(other)
        now[0] += ASK_EVERY_SECONDS
        with pytest.raises(BrokerError, match="not a member of g"):
            of_none.look(other)
    finally:
        consumer.close()
        other.close()
        broker.stop()
