"""A client that never joins its group again ends its role, which is started anew; without a broker nobody ends."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from confluent_kafka.admin import NewTopic

from deploy.brokers.local import LocalKafka
from store.base.errors import BrokerError
from stream.kafka.membership import JOIN_SECONDS, Membership


@pytest.mark.kafka
def test_who_is_no_member_though_the_broker_answers_ends(tmp_path: Path) -> None:
    """Random faults, seeds 136 and 319: ingest was thrown out while the broker was away twice, and read nothing more;
    in 319 it kept its old id."""
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
        for now[0] in (0.0, JOIN_SECONDS - 1):
            for membership, of in ((of_none, other), (of_gone, gone), (of_member, without)):
                membership.look(of)
        now[0] = JOIN_SECONDS + 1
        of_member.look(without)
        with pytest.raises(BrokerError, match="not a member of g"):
            of_gone.look(gone)
        with pytest.raises(BrokerError, match="not a member of g") as caught:
            of_none.look(other)
        assert caught.value.code == "group_not_joined"
        broker.stop()
        for now[0] in (2 * JOIN_SECONDS + 2, 4 * JOIN_SECONDS, 6 * JOIN_SECONDS):
            of_none.look(other)  # nobody can join
    finally:
        consumer.close()
        other.close()
        broker.stop()
