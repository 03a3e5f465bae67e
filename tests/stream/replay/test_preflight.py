"""The verdict before anything is sent is the one that ingest gives, and says where to look."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.base.settings import ModalitySettings
from stream.clock import AGREE, EventClock
from stream.events.event import Event
from stream.events.validate import Validator
from stream.ingest.judge import Judge
from stream.rejection import Rejection, Skipped
from stream.replay.preflight import UNSENDABLE, FileVerdict, Preflight
from stream.replay.replay import Outgoing, Router
from stream.replay.row_file import Row
from stream.settings import Clock, Condition, IngestSettings, MappingSettings
from tests.support.raw_message import RawMessage

MODALITIES = {
    "visit": ModalitySettings(topic="visits", text="{store}", numbers=("minutes",), window_days=30),
    "order": ModalitySettings(topic="shop", text="{sku}", window_days=30),
    "page": ModalitySettings(topic="shop", text="{path}", window_days=30),
    "person": ModalitySettings(topic="person", kind="tabular", window_days=30),
}
MAPPING = {
    "visits": MappingSettings(user_id="no", user_id_integers=True, where=(Condition(field="store", present=True),)),
}
STREAM = IngestSettings(clock=Clock.STREAM, max_age_days=200 * 365)
NOW_MS = 1_772_366_400_000
DAY_MS = 86_400_000
PARTITIONS = 3


def partition_of(key: bytes | None) -> int:
    return 0 if key is None else sum(key) % PARTITIONS


def preflight(ingest: IngestSettings = STREAM) -> Preflight:
    return Preflight(MODALITIES, MAPPING, ingest, partition_of=partition_of, dead_letters="dead")


def rows(values: list[bytes], file: str = "a.jsonl", topic: str | None = None) -> list[tuple[Row, Outgoing]]:
    router = Router(MODALITIES, "dead", MAPPING, topic=topic)
    numbered = [Row(file, number, value) for number, value in enumerate(values, 1)]
    return [(row, router.route_row(row)) for row in numbered]


events = st.fixed_dictionaries(
    {"ts": st.integers(0, 40).map(lambda days: NOW_MS + days * DAY_MS) | st.sampled_from([None, "noon", 10**17])},
    optional={
        "user_id": st.sampled_from(["u1", "u2", "u3", "", 7]),
        "no": st.sampled_from([17, "18", None, True]),
        "modality": st.sampled_from(["visit", "order", "page", "person", "nonsense"]),
        "store": st.sampled_from(["north", None, ""]),
        "minutes": st.sampled_from([3, "3", None]),
        "sku": st.sampled_from(["s1", ["s1"]]),
        "age": st.integers(0, 99),
    },
).map(lambda event: json.dumps(event).encode())


@given(
    values=st.lists(events | st.sampled_from([b"{broken", b"[1]", b"\xff"]), max_size=80),
    topic=st.sampled_from([None, "visits", "shop"]),
)
@settings(deadline=None, max_examples=150)
def test_the_verdict_is_that_of_ingest(values: list[bytes], topic: str | None) -> None:
    """Ingest reads the messages partition by partition; what each topic and partition holds decides, not the order."""
    found = rows(values, topic=topic)
    flight = preflight()
    flight.judge(found, NOW_MS + 41 * DAY_MS, whole=True)

    clock = EventClock.of(STREAM, MODALITIES)
    judge = Judge(Validator(MODALITIES, STREAM, clock, mapping=MAPPING), clock)
    by_place: dict[tuple[str, int], list[Any]] = {}
    letters = 0
    for _, message in found:
        letters += message.topic == "dead"
        place = message.topic, partition_of(message.key)
        by_place.setdefault(place, []).append(RawMessage(*place, len(by_place.get(place, ())), message.value))
    expected: Counter[str] = Counter()
    for place, messages in by_place.items():
        if place[0] == "dead":
            continue
        for _, result in [*judge.judge(messages, NOW_MS + 41 * DAY_MS), *judge.conclude(place, NOW_MS + 41 * DAY_MS)]:
            if isinstance(result, Event):
                expected[result.modality] += 1
            elif isinstance(result, Skipped):
                expected[result.reason] += 1
            elif isinstance(result, Rejection):
                expected[result.code] += 1
    expected["missing_modality"] += letters
    got: Counter[str] = Counter()
    for verdict in flight.files.values():
        got.update(verdict.accepted)
        got.update(verdict.skipped)
        got.update({code: of.rows for code, of in verdict.refused.items()})
        assert verdict.undecided == 0
    assert got == +expected


def event(n: int, **fields: Any) -> bytes:
    return json.dumps(
        {"no": 7, "ts": NOW_MS + n, "modality": "visit", "store": "north", "minutes": 3, **fields}
    ).encode()


def test_each_refusal_has_its_first_place() -> None:
    values = [event(n) for n in range(50)]
    values[10] = event(10, minutes="x")
    values[20] = event(20, minutes="y")
    values[30] = b"{broken"
    values[40] = event(40, store=None)
    found = rows(values)
    found.append((long := Row("a.jsonl", 51, None, "longer than 7 bytes"), Router(MODALITIES, "dead").route_row(long)))
    flight = preflight()
    flight.judge(found, NOW_MS, whole=True)
    (verdict,) = flight.files.values()
    assert (verdict.rows, dict(verdict.accepted), dict(verdict.skipped)) == (51, {"visit": 46}, {"where": 1})
    assert {code: (of.rows, of.place) for code, of in verdict.refused.items()} == {
        "invalid_field": (2, "a.jsonl:11"),
        "invalid_json": (1, "a.jsonl:31"),
        UNSENDABLE: (1, "a.jsonl:51"),
    }
    assert not flight.useless
    assert json.loads(json.dumps(flight.to_dict()))["files"][0]["refused"]["invalid_field"]["rows"] == 2


def test_fields_seen_stand_beside_those_expected() -> None:
    values = [
        json.dumps({"no": 7, "ts": NOW_MS, "Store": "n", "minutes": n % 2 or None, "in": {"a": 1}}).encode()
        for n in range(10)
    ]
    flight = preflight()
    flight.judge(rows(values, topic="visits"), NOW_MS, whole=True)
    (seen,) = flight.fields.values()
    assert (seen.topic, seen.modality, seen.rows) == ("visits", "visit", 10)
    assert seen.expected == {"no": 10, "ts": 10, "store": 0, "minutes": 5}
    assert seen.others == {"Store": 10, "in.a": 10}


def test_files_of_which_nothing_would_be_accepted_are_named() -> None:
    """B4, D5: 500 lines with ids that are numbers ended green."""
    flight = preflight()
    good = json.dumps({"user_id": "u1", "ts": NOW_MS, "modality": "order", "sku": "s"}).encode()
    flight.judge(rows([good.replace(b'"u1"', b"1")] * 500, "numbers.jsonl"), NOW_MS, whole=True)
    flight.judge(rows([good], "good.jsonl"), NOW_MS, whole=True)
    flight.judge(rows([event(0, store=None)] * 3, "skipped.jsonl"), NOW_MS, whole=True)
    assert [verdict.file for verdict in flight.useless] == ["numbers.jsonl", "skipped.jsonl"]
    assert not FileVerdict("empty", True).useless
    assert flight.files["numbers.jsonl"].refused["invalid_user_id"].rows == 500


@pytest.mark.parametrize(("whole", "undecided"), [(True, 0), (False, 5)])
def test_the_end_of_a_sample_is_no_end(whole: bool, undecided: int) -> None:
    """A gap of a year, right before the sample ends: what follows may agree."""
    values = [event(n) for n in range(AGREE + 10)] + [event(365 * DAY_MS + n) for n in range(5)]
    flight = preflight()
    flight.judge(rows(values), NOW_MS + 400 * DAY_MS, whole=whole)
    (verdict,) = flight.files.values()
    assert verdict.undecided == undecided
    assert verdict.accepted["visit"] == AGREE + 10
    few = preflight()
    few.judge(rows(values[:3]), NOW_MS + 400 * DAY_MS, whole=False)
    assert few.files["a.jsonl"].accepted["visit"] == 3  # a clock that has not begun begins
