"""The registry of raw topics: names that never change, whoever writes."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from stream.raw_topics.registry import RawTopic, RawTopics, source_name
from stream.settings import KafkaSettings
from stream.topics import Topics

IDS = st.text("ABab01+/", min_size=1, max_size=22)


@given(IDS, IDS, IDS)
def test_places_of_two_topics_never_have_one_name(first: str, one: str, two: str) -> None:
    names = {source_name("raw", RawTopic(first, current)) for current in {first, one, two}}
    assert len(names) == len({first, one, two})
    assert source_name("raw", RawTopic(first, first)) == "raw"


@given(IDS, IDS)
def test_record_round_trip(first: str, current: str) -> None:
    assert RawTopic.unpack(RawTopic(first, current).pack()) == (first, current)


@pytest.mark.parametrize("value", [b"", b"\xff", b"\x93\x02\xa1a\xa1b", b"\x93\x01\x01\x02", b"\xa1a"])
def test_what_is_no_record_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="record"):
        RawTopic.unpack(value)


def test_the_first_topic_keeps_the_name_for_every_reader(
    shared_embedded_broker: EmbeddedBroker, topic_prefix: str
) -> None:
    connection, topics = shared_embedded_broker.connection, Topics(KafkaSettings(topic_prefix=topic_prefix))
    ensure(connection, [spec for spec in topics.specs({}, ()) if spec.name == topics.raw_topics])
    stop = threading.Event()
    one, two = (RawTopics(connection, topics, topics.group_ingest) for _ in range(2))
    one.register({"raw": "A"}, stop)
    two.register({"raw": "A", "other": "X"}, stop)
    assert (one.sources, two.sources) == ({"raw": "raw"}, {"raw": "raw", "other": "other"})
    two.register({"raw": "B"}, stop)
    one.register({"raw": "B"}, stop)
    assert one.sources == two.sources == {"raw": source_name("raw", RawTopic("A", "B")), "other": "other"}
    for reader in (one, two):
        reader.close()
