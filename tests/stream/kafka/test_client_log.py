"""E11: one line a minute and cause. E9: the cause of a refused connection is named."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from deploy.brokers.local import LocalKafka
from deploy.checks.broker import check_broker
from deploy.checks.finding import Level
from deploy.kafka.topics import ensure
from deploy.operate.doctor import bounded
from deploy.settings.config import load
from store.base.errors import BrokerError
from stream.kafka.client import Connection
from stream.kafka.client_log import EVERY_SECONDS, OncePerCause, Throttling, cause, once_per_cause
from stream.topics import TopicSpec
from tests.support.quotas import set_quota
from tests.support.secured_kafka import SecuredKafka

KB = 1000
REFUSED = (
    "FAIL [{client}] [thrd:{broker}/bootstrap]: {broker}/bootstrap: Connect to ipv4#{broker} failed: "
    "Connection refused (after {ms}ms in state CONNECT)"
)


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("librdkafka", logging.ERROR, "x.py", 1, "%s", (text,), None)


def test_one_line_per_minute_and_cause_says_how_many_it_stands_for() -> None:
    clock = [0.0]
    only = OncePerCause(clock=lambda: clock[0])
    passed = []
    for second in range(130):
        for client in ("a#consumer-1", "b#producer-2"):
            clock[0] = float(second)
            line = record(REFUSED.format(client=client, broker=f"127.0.0.1:{9000 + second}", ms=second))
            if only.filter(line):
                passed.append((second, line.getMessage()))
    assert [second for second, _ in passed] == [0, 60, 120]
    assert passed[0][1].endswith("in state CONNECT)")
    assert passed[1][1].endswith(f"[and {2 * int(EVERY_SECONDS) - 1} more like it]")


def test_all_loggers_of_a_package_together(caplog: pytest.LogCaptureFixture) -> None:
    """E11: the processor wrote 3,500 lines a minute without a broker."""
    names = ["told", "told.consumer.fetcher", "toldother"]
    loggers = [logging.getLogger(name) for name in names]
    once_per_cause("told")
    once_per_cause("told")
    for n in range(50):
        for logger in loggers:
            logger.error("Unable connect to node with id %d: [Errno 111] Connect call failed", n)
    assert [found.name for found in caplog.records if found.name != "toldother"] == ["told"]
    assert sum(found.name == "toldother" for found in caplog.records) == 50, "not of the package"
    loggers[1].error("Failed fetch messages from 1: NodeNotReadyError")
    assert caplog.records[-1].name == names[1]


def test_another_cause_is_another_line() -> None:
    only = OncePerCause()
    others = [
        REFUSED.format(client="c", broker="b:1", ms=0),
        "FAIL [c] [thrd:b:1/1]: b:1/1: Disconnected: connection closed by peer (after 7088ms in state UP)",
        "FAIL [c] [thrd:b:1/1]: ssl://b:1/1: SSL handshake failed: certificate verify failed (after 3ms in state SSL)",
        "SESSTMOUT [c] [thrd:main]: Consumer group session timed out (in join-state steady) after 10010 ms",
    ]
    assert len({cause(text) for text in others}) == 4
    assert [only.filter(record(text)) for text in others] == [True] * 4
    assert [only.filter(record(text)) for text in others] == [False] * 4


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({"security.protocol": "SSL"}, "SSL handshake failed|in state SSL_HANDSHAKE"),
        (
            {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "u",
             "sasl.password": "secret"},
            "SASL",
        ),
    ],
    ids=["TLS against a plain listener", "SASL against a plain listener"],
)  # fmt: skip
def test_why_a_connection_is_refused_is_said(kafka_broker: LocalKafka, properties: dict[str, str], says: str) -> None:
    """E9: `Local: Broker transport failure`, whatever it was."""
    with pytest.raises(BrokerError) as caught:
        Connection(kafka_broker.connection.bootstrap, properties).metadata(timeout_s=4)
    assert re.search(says, caught.value.detail, re.IGNORECASE)
    assert "secret" not in str(caught.value)


def test_a_closed_port_is_said() -> None:
    with pytest.raises(BrokerError) as caught:
        Connection("127.0.0.1:9").metadata(timeout_s=2)
    assert "Connection refused" in caught.value.detail


def test_clients_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """E11: every one of them was `rdkafka`."""
    mine = Connection("127.0.0.1:9").named("anchorstream-worker-0")
    assert mine.faust_options()["broker_client_id"] == "anchorstream-worker-0"
    assert Connection("127.0.0.1:9", {"client.id": "theirs"}).named("ours").properties["client.id"] == "theirs"
    caplog.set_level(logging.DEBUG, "librdkafka")
    consumer = mine.consumer("g", debug="generic")
    consumer.poll(0.2)
    consumer.close()
    assert "[anchorstream-worker-0#consumer-" in caplog.text


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sasl.password": "wrong-password"}, "Invalid username or password"),
        ({"ssl.ca.location": None}, "certificate verify failed"),
        ({"sasl.mechanism": "SCRAM-SHA-256"}, "Unsupported SASL mechanism: broker's supported mechanisms: PLAIN"),
    ],
    ids=["password", "CA", "mechanism"],
)
def test_why_a_log_in_is_refused_is_said(
    secured_kafka: SecuredKafka, tmp_path: Path, change: dict[str, str | None], says: str
) -> None:
    """E9, on a listener with SASL over TLS: by the roles' first question, and by doctor."""
    merged = {**secured_kafka.properties, **change}
    properties = {key: value for key, value in merged.items() if value is not None}
    with pytest.raises(BrokerError) as caught:
        Connection(secured_kafka.secured_bootstrap, properties).metadata(timeout_s=10)
    assert says in caught.value.detail
    lines = "\n".join(f'"{key}" = "{value}"' for key, value in properties.items())
    (tmp_path / "a.toml").write_text(
        f'[kafka]\nbootstrap_servers = "{secured_kafka.secured_bootstrap}"\n[kafka.properties]\n{lines}\n'
        f'[modalities.a]\ntopic = "a"\n[scenarios.churn]\nquery = "?"\n[store]\ndata_dir = "{tmp_path}"\n'
    )
    settings = load(tmp_path / "a.toml")
    found = bounded("broker", lambda: check_broker(settings), 120)
    assert found.level is Level.FAIL
    assert says in found.detail
    for text in (str(caught.value), found.detail):
        assert "password" not in text.replace("Invalid username or password", "")


@pytest.mark.kafka
@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT", "SSL"])
def test_a_listener_that_wants_another_protocol_and_says_nothing(secured_kafka: SecuredKafka, protocol: str) -> None:
    """It closes the connection without a word: the client cannot know why, so the remedy asks."""
    properties = {**secured_kafka.properties, "security.protocol": protocol}
    if protocol == "SSL":
        properties = {key: value for key, value in properties.items() if not key.startswith("sasl.")}
    with pytest.raises(BrokerError) as caught:
        Connection(secured_kafka.secured_bootstrap, properties).metadata(timeout_s=10)
    assert "closes connections without a word" in caught.value.detail
    assert caught.value.action.endswith(f"here it is {protocol}")


class Held(NamedTuple):
    broker_name: str
    broker_id: int
    throttle_time: float


def test_that_the_broker_holds_back_is_said_once_a_minute_and_counted() -> None:
    clock, before = [0.0], throttled_seconds()
    throttling = Throttling(clock=lambda: clock[0])
    with capture_logs() as told:
        for second in range(70):
            clock[0] = float(second)
            throttling(Held("b:9092/1", 1, 0.2))  # a quota that is just reached
        assert told == []
        assert not throttling.holds()
        for second in range(130):
            clock[0] = 100.0 + second
            throttling(Held("b:9092/1", 1, 2.5))
    assert throttling.holds()
    clock[0] += 2.5
    assert not throttling.holds()
    assert [(line["event"], line["seconds"]) for line in told] == [("client_throttled", 2.5)] * 3
    assert throttled_seconds() - before == pytest.approx(70 * 0.2 + 130 * 2.5)


@pytest.mark.kafka
def test_a_quota_of_the_broker_is_seen(kafka_broker: LocalKafka, topic_prefix: str) -> None:
    """A role that is held back said nothing of it; doctor and lag had only that it was slow, or stalled."""
    connection = kafka_broker.connection.named(f"c-{topic_prefix}")
    ensure(connection, [TopicSpec(topic_prefix, 1, ours=False)])
    set_quota(connection, f"c-{topic_prefix}", producer_byte_rate=20 * KB, consumer_byte_rate=20 * KB)
    before, deadline = throttled_seconds(), time.monotonic() + 120
    producer = connection.producer(**{"compression.type": "none"})
    with capture_logs() as told:
        while not told:
            assert time.monotonic() < deadline
            producer.produce(topic_prefix, b"x" * 50 * KB)
            producer.poll(0.2)
    assert told[0]["event"] == "client_throttled"
    assert throttled_seconds() > before


def throttled_seconds() -> float:
    return REGISTRY.get_sample_value("anchorstream_throttled_seconds_total") or 0.0
