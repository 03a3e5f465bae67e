"""Validation: anything in, an Event or a Rejection out; every good event accepted; JSON and msgpack mean the same."""

from __future__ import annotations

import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.settings import ModalitySettings
from store.base.user_id import user_id_fault
from stream.clock import ClockState, EventClock
from stream.events.event import Event, pack, unpack
from stream.events.validate import Validator
from stream.rejection import ErrorCode, Rejection, Skipped
from stream.settings import Clock, IngestSettings

DAY_MS = 86_400_000
NOW = 1_760_000_000_000
MODALITIES = {
    "bill": ModalitySettings(
        topic="bill", text="{merchant} by {channel}", numbers=("amount",), window_days=90, memory_days=0
    ),
    "free": ModalitySettings(topic="free", numbers=("n",), window_days=90, memory_days=365),
    "profile": ModalitySettings(topic="profile", kind="tabular", window_days=90),  # type: ignore[arg-type]
    "a": ModalitySettings(topic="shared", text="{x}"),
    "b": ModalitySettings(topic="shared", text="{y}"),
}
GOOD: dict[str, Any] = {"user_id": "u1", "ts": NOW, "event_id": "e1", "merchant": "m", "channel": "c", "amount": 3}


def validator(clock: Clock = Clock.WALL, **settings: Any) -> Validator:
    found = IngestSettings(clock=clock, **settings)
    return Validator(MODALITIES, found, EventClock.of(found, MODALITIES))


def judge(value: bytes | None, topic: str = "bill") -> Event | Rejection | Skipped:
    return validator().validate(value, topic, 2, 7, NOW - 5, NOW)


def judge_map(topic: str = "bill", **changes: Any) -> Event | Rejection | Skipped:
    """GOOD with changes; `...` removes a key."""
    return judge(as_json({k: v for k, v in (GOOD | changes).items() if v is not ...}), topic)


def as_json(event: Any) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode()


def test_a_good_event_comes_out_rendered() -> None:
    assert judge_map() == Event("u1", "bill", NOW, "e1", "m by c", (3.0,), None, "bill", 2, 7, NOW - 5, NOW)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, ErrorCode.NULL_VALUE),
        (b"", ErrorCode.NULL_VALUE),
        (b"x" * (1 << 20), ErrorCode.TOO_LARGE),
        (b'{"user_id": "\xff"}', ErrorCode.INVALID_UTF8),
        (b"\xff\xfe\x00", ErrorCode.FOREIGN_FORMAT),
        (b'{"user_id": "\\ud800", "ts": 1}', ErrorCode.INVALID_UTF8),
        (b'{"user_id": "u", "ts": 1, "deep": [{"\\uDfff": 1}]}', ErrorCode.INVALID_UTF8),
        (msgpack.packb({"user_id": "u"}).replace(b"u", b"\xff"), ErrorCode.INVALID_UTF8),
        (b"{", ErrorCode.INVALID_JSON),
        (b'{"a":}', ErrorCode.INVALID_JSON),
        (b'{"a":[1,]}', ErrorCode.INVALID_JSON),
        (b"{} {}", ErrorCode.INVALID_JSON),
        (b'{"user_id": "u", "ts": NaN}', ErrorCode.INVALID_JSON),
        (b'{"user_id": "u", "ts": -Infinity}', ErrorCode.INVALID_JSON),
        (b'{"ts": ' + b"9" * 5000 + b"}", ErrorCode.INVALID_JSON),
        (b"[" * 60_000, ErrorCode.INVALID_JSON),
        (b"\xef\xbb\xbf{}", ErrorCode.MISSING_USER_ID),
        (b"\xef\xbb\xbf", ErrorCode.INVALID_JSON),
        (b"\x81\xa1a", ErrorCode.INVALID_MSGPACK),
        (b"\x80\x80", ErrorCode.INVALID_MSGPACK),
        (b"\x81\x01\x02", ErrorCode.INVALID_MSGPACK),
        (b"\x81\xc4\x01a\x02", ErrorCode.INVALID_MSGPACK),
        (b"\xdf\xff\xff\xff\xff", ErrorCode.INVALID_MSGPACK),
        (b"[1]", ErrorCode.NOT_AN_OBJECT),
        (b'"text"', ErrorCode.NOT_AN_OBJECT),
        (b"null", ErrorCode.NOT_AN_OBJECT),
        (b"12", ErrorCode.NOT_AN_OBJECT),
    ],
)
def test_bytes_that_are_no_event(value: bytes | None, code: ErrorCode) -> None:
    result = judge(value)
    assert isinstance(result, Rejection)
    assert result.code is code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"user_id": ...}, ErrorCode.MISSING_USER_ID),
        ({"user_id": None}, ErrorCode.MISSING_USER_ID),
        ({"user_id": ""}, ErrorCode.INVALID_USER_ID),
        ({"user_id": 5}, ErrorCode.INVALID_USER_ID),
        ({"user_id": "u" * 129}, ErrorCode.INVALID_USER_ID),
        ({"event_id": ""}, ErrorCode.INVALID_EVENT_ID),
        ({"event_id": 1}, ErrorCode.INVALID_EVENT_ID),
        ({"event_id": "e" * 129}, ErrorCode.INVALID_EVENT_ID),
        ({"modality": "search"}, ErrorCode.UNKNOWN_MODALITY),
        ({"modality": "profile"}, ErrorCode.UNKNOWN_MODALITY),
        ({"modality": 3}, ErrorCode.UNKNOWN_MODALITY),
        ({"ts": ...}, ErrorCode.MISSING_TS),
        ({"ts": None}, ErrorCode.MISSING_TS),
        ({"ts": True}, ErrorCode.INVALID_TS),
        ({"ts": -1}, ErrorCode.INVALID_TS),
        ({"ts": -0.5}, ErrorCode.INVALID_TS),
        ({"ts": 2**63}, ErrorCode.INVALID_TS),
        ({"ts": 1e300}, ErrorCode.INVALID_TS),
        ({"ts": "yesterday"}, ErrorCode.INVALID_TS),
        ({"ts": "1760000000000"}, ErrorCode.INVALID_TS),
        ({"ts": "2025-10-09T08:53:20"}, ErrorCode.INVALID_TS),
        ({"ts": "2025-02-30T00:00:00Z"}, ErrorCode.INVALID_TS),
        ({"ts": "1969-12-31T23:59:59Z"}, ErrorCode.INVALID_TS),
        ({"ts": "0001-01-01T00:00:00+23:59"}, ErrorCode.INVALID_TS),
        ({"ts": [1]}, ErrorCode.INVALID_TS),
        ({"ts": NOW + 600_001}, ErrorCode.TS_IN_FUTURE),
        ({"ts": 2**63 - 1}, ErrorCode.TS_IN_FUTURE),
        ({"ts": NOW - 90 * DAY_MS - 1}, ErrorCode.TS_TOO_OLD),
        ({"ts": 0}, ErrorCode.TS_TOO_OLD),
        ({"amount": "3"}, ErrorCode.INVALID_FIELD),
        ({"amount": True}, ErrorCode.INVALID_FIELD),
        ({"amount": 1e39}, ErrorCode.INVALID_FIELD),
        ({"amount": 10**400}, ErrorCode.INVALID_FIELD),
        ({"amount": [1]}, ErrorCode.INVALID_FIELD),
        ({"merchant": {"name": "m"}}, ErrorCode.INVALID_FIELD),
        ({"channel": ["c"]}, ErrorCode.INVALID_FIELD),
    ],
)
def test_maps_that_are_no_event(changes: dict[str, Any], code: ErrorCode) -> None:
    result = judge_map(**changes)
    assert isinstance(result, Rejection), result
    assert result.code is code
    result.detail.encode("ascii")
    assert len(result.detail) < 300


@pytest.mark.parametrize(
    ("ts", "expected"),
    [
        (NOW + 600_000, NOW + 600_000),
        (NOW - 90 * DAY_MS, NOW - 90 * DAY_MS),
        (NOW + 0.75, NOW),
        ("2025-10-09T08:53:20Z", NOW),
        ("2025-10-09t10:53:20.1239+02:00", NOW + 123),
        ("2025-10-09 08:53:20.123456789z", NOW + 123),
    ],
)
def test_times(ts: Any, expected: int) -> None:
    event = judge_map(ts=ts)
    assert isinstance(event, Event), event
    assert event.ts == expected


@given(st.text(max_size=130) | st.sampled_from([".", "..", "a", "u1\n", "\x7f", "\u2028", "e\u0301"]))
def test_user_ids_are_what_the_service_takes_for_one(user: str) -> None:
    """C10: an id with a line break was accepted and could not be asked for."""
    assert isinstance(judge_map(user_id=user), Event) == (user_id_fault(user) == "")


def test_shared_topic_needs_a_modality() -> None:
    missing = judge_map("shared")
    assert isinstance(missing, Rejection)
    assert missing.code is ErrorCode.MISSING_MODALITY
    event = judge_map("shared", modality="b", y="why")
    assert isinstance(event, Event)
    assert (event.modality, event.text) == ("b", "why")


def test_text_rules() -> None:
    def text(topic: str, **changes: Any) -> str:
        event = judge_map(topic, **changes)
        assert isinstance(event, Event), event
        return event.text

    assert text("bill", merchant=None, channel=...) == "by"
    assert text("bill", merchant=True, channel=2.5) == "true by 2.5"
    assert text("bill", merchant="  a \n\t b ", channel=10**400) == f"a b by {10**400}"
    assert len(text("bill", merchant="x y" * 2000)) == 2000
    # no template: every scalar but the numbers and the reserved, sorted; nested ones are not named, so ignored
    assert text("free", n=1, z=False, nested={"a": 1}, none=None) == "amount: 3, channel: c, merchant: m, z: false"


def test_event_id_is_derived_from_the_source() -> None:
    event = judge_map(event_id=...)
    assert isinstance(event, Event)
    assert event.event_id == "bill/2/7"


def test_missing_number_is_none() -> None:
    for changes in ({"amount": None}, {"amount": ...}):
        event = judge_map(**changes)
        assert isinstance(event, Event)
        assert event.numbers == (None,)


def test_tabular_fields() -> None:
    event = judge_map("profile", age=41, vip=True, city=" New  York ", gone=None, nested=[1], modality="profile")
    assert isinstance(event, Event), event
    expected = {"age": 41.0, "amount": 3.0, "channel": "c", "city": "New York", "gone": None, "merchant": "m"}
    assert event.fields == expected | {"vip": "true"}
    assert (event.text, event.numbers) == ("", ())
    for bad in ({"": 1}, {"f" * 129: 1}, {"big": 1e39}):
        refused = judge(as_json(GOOD | bad), "profile")
        assert isinstance(refused, Rejection)
        assert refused.code is ErrorCode.INVALID_FIELD


def test_what_the_memory_takes_is_not_too_old() -> None:
    """Older than the window it brings no text, but it counts."""
    for ts, expected in ((NOW - 365 * DAY_MS, "accepted"), (NOW - 365 * DAY_MS - 1, "before the memory of free")):
        result = judge(as_json(GOOD | {"ts": ts}), "free")
        assert expected in (result.detail if isinstance(result, Rejection) else "accepted")


def test_stream_clock_judges_a_source_by_its_own_newest_event() -> None:
    settings = IngestSettings(clock=Clock.STREAM)
    clock = EventClock.of(settings, MODALITIES)
    rules = Validator(MODALITIES, settings, clock)
    old = NOW - 2000 * DAY_MS
    for source in (("bill", 0), ("bill", 1), ("free", 0)):
        clock.restore(source, ClockState(old))

    def at(ts: int, topic: str = "bill", partition: int = 0) -> str:
        result = rules.validate(as_json(GOOD | {"ts": ts}), topic, partition, 0, NOW, NOW)
        return result.code if isinstance(result, Rejection) else "accepted"

    for days in (29, 58, 87, 100):
        assert at(old + days * DAY_MS) == "accepted"
    assert at(old + 131 * DAY_MS) == "ts_ahead_of_stream"
    assert at(old) == "ts_too_old"
    assert at(old + 10 * DAY_MS) == "accepted"
    assert at(old, partition=1) == "accepted", "another partition has its own clock"
    assert at(old, topic="free") == "accepted"
    assert at(NOW + 600_001) == "ts_in_future", "the future is always judged by the wall"
    assert at(5, partition=2) == "ts_too_old", "older than max_age_days whatever the stream says"


def test_refused_events_do_not_move_the_clock() -> None:
    clock = EventClock.of(IngestSettings(), MODALITIES)
    rules = Validator(MODALITIES, IngestSettings(), clock)
    rules.validate(as_json(GOOD | {"amount": "x"}), "bill", 0, 0, NOW, NOW)
    assert clock.get(("bill", 0)) is None


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20)
trees = st.recursive(scalars, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=5), t, max_size=3))
names = st.sampled_from([*GOOD, "modality", "x", "y", "n", "other"])
odd_maps = st.dictionaries(names, trees, max_size=8)
topics = st.sampled_from(["bill", "free", "profile", "shared", "unheard of"])
good_maps = st.fixed_dictionaries(
    {
        "user_id": st.text(min_size=1, max_size=128).filter(lambda user: not user_id_fault(user)),
        "ts": st.integers(NOW - 90 * DAY_MS, NOW + 600_000),
    },
    optional={
        "event_id": st.none() | st.text(min_size=1, max_size=128),
        "amount": st.none() | st.integers(-(2**53), 2**53) | st.floats(width=32, allow_nan=False, allow_infinity=False),
        "n": st.none() | st.integers(-(2**53), 2**53),
        "merchant": st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
        "channel": st.text(),
    },
)


def check(result: Event | Rejection | Skipped) -> None:
    if isinstance(result, Rejection):
        assert isinstance(result.code, ErrorCode)
        result.detail.encode("ascii")
        return
    assert unpack(pack(NOW, [result])).events == [result], "it can travel"
    assert 0 <= result.ts < 2**63
    assert all(n is None or math.isfinite(n) for n in result.numbers)
    assert len(result.text) <= 2000


@given(st.binary(max_size=200), topics)
def test_no_bytes_raise(value: bytes, topic: str) -> None:
    check(judge(value, topic))


@given(
    st.binary(max_size=60).map(lambda b: b + b"}") | st.binary(max_size=60),
    st.sampled_from([b'{"user_id":"u","ts":', b'{"', b"[", b"\x83\xa7user_id\xa1u\xa2ts"]),
)
def test_no_bytes_after_a_likely_start_raise(value: bytes, start: bytes) -> None:
    check(judge(start + value))


@given(odd_maps, topics)
def test_no_map_raises(event: dict[str, Any], topic: str) -> None:
    check(judge(json.dumps(event).encode(), topic))
    check(judge(msgpack.packb(event, unicode_errors="surrogatepass"), topic))


@given(good_maps, st.sampled_from(["bill", "free", "profile"]))
def test_every_good_event_is_accepted_and_json_equals_msgpack(event: dict[str, Any], topic: str) -> None:
    # but for its content: what is required of that is a test of its own
    event = {"merchant": "m", **event} if topic == "bill" else {"seen": True, **event}
    from_json, from_msgpack = judge(as_json(event), topic), judge(msgpack.packb(event), topic)
    assert isinstance(from_json, Event), from_json
    assert from_json == from_msgpack
    assert from_json == judge(json.dumps(event).encode(), topic), "escapes change nothing"
    check(from_json)
