"""Where a letter of a mapped topic goes back to: judged by its mapping, with the id of its place where it has none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from store.base.settings import ModalitySettings
from stream.clock import EventClock
from stream.dead_letters.read import RefusedEvent
from stream.dead_letters.target import UNWANTED, Left, Target, Targets
from stream.events.event import Event
from stream.events.validate import Validator
from stream.rejection import ErrorCode
from stream.settings import Condition, IngestSettings, KafkaSettings, MappingSettings
from stream.topics import Topics

NOW = 1_763_719_200_000
TOPICS = Topics(KafkaSettings())
MODALITIES = {
    "order": ModalitySettings(topic="track", text="{sku}", numbers=("total",)),
    "page": ModalitySettings(topic="track", text="{path}"),
    "other": ModalitySettings(topic="other"),
}
MAPPING = {
    "track": MappingSettings(
        user_id="user.id",
        event_id=("order", "line"),
        modality="event",
        modalities={"Order Completed": "order", "Page Viewed": "page"},
        where=(Condition(field="type", equals="track"),),
        numbers_from_text=True,
        empty_is_absent=True,
    )
}
GOOD: dict[str, Any] = {
    "type": "track",
    "event": "Order Completed",
    "user": {"id": "u1"},
    "ts": NOW,
    "sku": "s",
    "order": "",
}


def validator() -> Validator:
    settings = IngestSettings()
    return Validator(MODALITIES, settings, EventClock.of(settings, MODALITIES), mapping=MAPPING)


def target(event: dict[str, Any], *, topic: str = "track", partition: int | None = 2) -> Target | Left:
    value = json.dumps(event).encode()
    letter = RefusedEvent(0, 9, NOW, "code", "", topic, partition, None if partition is None else 7, b"u1", value)
    settings = IngestSettings()
    partitions = {"track": 4, "other": 4, TOPICS.events: 4}
    clock = EventClock.of(settings, MODALITIES)
    return Targets(TOPICS, MODALITIES, settings, partitions, clock, MAPPING).target(letter, value, NOW)


def test_what_is_sent_again_has_the_id_it_would_have_had() -> None:
    found = target(GOOD)
    assert isinstance(found, Target)
    assert (found.topic, found.partition) == ("track", 2)
    again = validator().validate(found.value, "track", 2, 99, NOW, NOW)
    first = validator().validate(json.dumps(GOOD).encode(), "track", 2, 7, NOW, NOW)
    assert isinstance(again, Event)
    assert isinstance(first, Event)
    assert again.event_id == first.event_id == "track/2/7"


def test_an_id_of_its_own_stays() -> None:
    event = {**GOOD, "order": "o1", "line": 3}
    found = target(event)
    assert isinstance(found, Target)
    assert found.value == json.dumps(event).encode()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"type": "page"}, UNWANTED),
        ({"user": {"id": " "}}, ErrorCode.MISSING_USER_ID),
        ({"event": "Foo"}, ErrorCode.UNKNOWN_MODALITY),
        ({"total": "1,5"}, ErrorCode.INVALID_FIELD),
    ],
)
def test_what_would_be_refused_or_skipped_stays(changes: dict[str, Any], code: str) -> None:
    found = target(GOOD | changes)
    assert isinstance(found, Left)
    assert found.code == code


@pytest.mark.parametrize(
    ("event", "topic"),
    [
        (GOOD, "track"),
        ({**GOOD, "event": "Page Viewed", "path": "/"}, "track"),
        ({"modality": "other", "user_id": "u1", "ts": NOW, "x": 1}, "other"),
        ({"modality": "order", "user_id": "u1", "ts": NOW}, ErrorCode.MISSING_MODALITY),
        (GOOD | {"event": "Foo"}, ErrorCode.MISSING_MODALITY),
    ],
)
def test_a_line_of_a_file_goes_where_it_names_a_modality(event: dict[str, Any], topic: str) -> None:
    found = target(event, partition=None)
    assert (found.topic if isinstance(found, Target) else found.code) == topic
