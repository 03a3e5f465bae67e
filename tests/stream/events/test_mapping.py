"""Events of another shape are the same events: renamed, moved inside others, in other units, joined ids, skipped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from store.base.settings import ERASURE, ModalitySettings
from stream.clock import EventClock
from stream.events.event import Event
from stream.events.event_id import derived_id, with_event_id
from stream.events.mapping import EMPTY, GIVEN_ID, HASHED, MAX_ID_CHARS, NUMBER, TopicMapping, TopicMappings, joined
from stream.events.validate import Validator
from stream.rejection import ErrorCode, Rejection, Skipped, SkipReason
from stream.settings import IngestSettings, MappingSettings
from tests.stream.events.test_validate import GOOD, MODALITIES, NOW, as_json, check, good_maps, names, odd_maps

Verdict = Event | Rejection | Skipped
MARK = {
    "user_id": "context.user.id",
    "ts": "meta.sent at",
    "event_id": "meta.id.own",
    "modality": "kind",
}
"""Where the fields stand in events of another shape."""


def mapped(**settings: Any) -> MappingSettings:
    return MappingSettings.model_validate(settings)


def judge(
    value: bytes | None,
    mapping: MappingSettings | None = None,
    topic: str = "bill",
    modalities: Mapping[str, ModalitySettings] = MODALITIES,
) -> Verdict:
    settings = IngestSettings()
    own = None if mapping is None else {topic: mapping}
    rules = Validator(modalities, settings, EventClock.of(settings, modalities), mapping=own)
    return rules.validate(value, topic, 2, 7, NOW - 5, NOW)


def moved(event: Mapping[str, Any], places: Mapping[str, str] = MARK) -> dict[str, Any]:
    """The event with fields at these paths."""
    out: dict[str, Any] = {}
    for name, value in event.items():
        *outer, last = places.get(name, name).split(".")
        fields = out
        for part in outer:
            fields = fields.setdefault(part, {})
        fields[last] = value
    return out


def code(verdict: Verdict) -> object:
    return verdict.code if isinstance(verdict, Rejection) else verdict


# What is renamed is the same


@given(odd_maps, st.sampled_from(["bill", "free", "profile", "shared"]))
def test_default_settings_change_nothing(event: dict[str, Any], topic: str) -> None:
    value = json.dumps(event).encode()
    assert judge(value, mapped(), topic) == judge(value, None, topic)


@given(odd_maps | good_maps, st.sampled_from(["bill", "shared"]))
def test_an_event_that_is_moved_about_is_judged_the_same(event: dict[str, Any], topic: str) -> None:
    there = mapped(**MARK)
    assert code(judge(json.dumps(moved(event)).encode(), there, topic)) == code(
        judge(json.dumps(event).encode(), None, topic)
    )
    value = msgpack.packb(moved(event), unicode_errors="surrogatepass")
    assert code(judge(value, there, topic)) == code(
        judge(msgpack.packb(event, unicode_errors="surrogatepass"), None, topic)
    )


@given(
    good_maps.map(lambda event: {"merchant": "m", **event}),
    st.text(min_size=1, max_size=8).filter(lambda k: "." not in k),
)
def test_a_key_that_is_the_whole_path_comes_first(event: dict[str, Any], inside: str) -> None:
    flat = {MARK.get(name, name): value for name, value in event.items()}
    decoy = {**flat, "context": {"user": {"id": inside}}}
    assert judge(as_json(decoy), mapped(**MARK)) == judge(as_json(event))


def test_what_a_mapping_names_is_no_content_where_content_is_not_named() -> None:
    event = {"who": "u1", "at": NOW, "id": "e", "kind": "free", "seen": "x", "n": 1}
    found = judge(as_json(event), mapped(user_id="who", ts="at", event_id="id", modality="kind"), "free")
    assert isinstance(found, Event)
    assert (found.text, found.numbers) == ("seen: x", (1.0,))
    found = judge(as_json({**event, "modality": None}), mapped(user_id="who", ts="at", event_id=["id", "n"]), "profile")
    assert isinstance(found, Event)
    assert found.fields == {"id": "e", "kind": "free", "n": 1.0, "seen": "x"}, "parts of an id may be content"
    assert found.event_id == "e|1"


# Users


@given(st.integers(-(2**63), 2**64 - 1))
def test_integers_as_ids_are_exact(number: int) -> None:
    event = moved({**GOOD, "user_id": number})
    for value in (as_json(event), msgpack.packb(event)):
        found = judge(value, mapped(**MARK, user_id_integers=True))
        assert isinstance(found, Event)
        assert found.user_id == str(number)
    refused = judge(as_json(event), mapped(**MARK))
    assert isinstance(refused, Rejection)
    assert refused.detail.endswith("user_id_integers = true takes integers")


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_a_table_with_gaps_writes_integers_with_a_fraction(number: int) -> None:
    found = judge(as_json({**GOOD, "user_id": float(number)}), mapped(user_id_integers=True))
    assert isinstance(found, Event)
    assert found.user_id == str(number)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("17850.0", "17850"),
        ("-3.00", "-3"),
        ("123456789012345678901234567890.0", "123456789012345678901234567890"),
        *((text, text) for text in ("17850", "007", "007.0", "1.50", "1e3", ".0")),
    ],
)
def test_a_text_of_an_integer_with_a_fraction_of_zero(text: str, expected: str) -> None:
    both = mapped(user_id_integers=True, numbers_from_text=True, event_id=["user_id"])
    found = judge(as_json({**GOOD, "user_id": text}), both)
    assert isinstance(found, Event)
    assert (found.user_id, found.event_id) == (expected, expected)
    for settings in (mapped(user_id_integers=True), mapped(numbers_from_text=True), mapped()):
        found = judge(as_json({**GOOD, "user_id": text}), settings)
        assert isinstance(found, Event)
        assert found.user_id == text


# Times


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@given(seconds=st.integers(NOW // 1000 - 10_000, NOW // 1000))
def test_units_of_numbers_and_of_numbers_that_are_texts(unit: str, per_second: int, seconds: int) -> None:
    rules = TopicMapping("t", ["m"], mapped(ts_unit=unit, numbers_from_text=True))
    for ts in (seconds * per_second, str(seconds * per_second), f" {seconds * per_second}.0 "):
        assert rules.ts({"ts": ts}) == seconds * 1000
    assert rules.ts({"ts": f"{seconds * 1000 + 7}"}) == (
        seconds * 1000 + 7 if unit == "ms" else rules.ts({"ts": seconds * 1000 + 7})
    )


@given(st.integers(0, 10**13))
def test_seconds_with_a_fraction_that_are_text_are_exact(ms: int) -> None:
    rules = TopicMapping("t", ["m"], mapped(ts_unit="s", numbers_from_text=True))
    assert rules.ts({"ts": f"{ms // 1000}.{ms % 1000:03}"}) == ms


def test_a_text_of_seconds_that_are_taken_for_milliseconds_is_told_so() -> None:
    refused = judge(as_json({**GOOD, "ts": str(NOW // 1000)}), mapped(numbers_from_text=True))
    assert isinstance(refused, Rejection)
    assert refused.code is ErrorCode.TS_TOO_OLD
    assert "looks like seconds" in refused.detail


PATTERNS = ["%d/%m/%Y %H:%M:%S", "%m-%d-%y %I.%M.%S %p", "%Y%j%H%M%S", "%a, %d %b %Y %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f"]


@given(st.datetimes(datetime(1971, 1, 2), datetime(2068, 1, 1)), st.sampled_from(PATTERNS))
def test_what_a_pattern_writes_it_reads(moment: datetime, pattern: str) -> None:
    moment = moment.replace(microsecond=0)
    rules = TopicMapping("t", ["m"], mapped(ts_pattern=pattern, ts_zone="Europe/London"))
    expected = int(moment.replace(tzinfo=ZoneInfo("Europe/London")).timestamp()) * 1000
    assert rules.ts({"ts": moment.strftime(pattern)}) == expected
    assert (
        rules.ts({"ts": moment.replace(tzinfo=UTC).isoformat()}) == int(moment.replace(tzinfo=UTC).timestamp()) * 1000
    )


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("30/10/2022 00:59", "2022-10-29T23:59Z"),
        ("30/10/2022 01:00", "2022-10-30T00:00Z"),
        ("30/10/2022 01:59", "2022-10-30T00:59Z"),
        ("30/10/2022 02:00", "2022-10-30T02:00Z"),
        ("27/03/2022 00:59", "2022-03-27T00:59Z"),
        ("27/03/2022 01:30", "2022-03-27T01:30Z"),
        ("27/03/2022 02:00", "2022-03-27T01:00Z"),
    ],
)
def test_the_hours_of_a_clock_change(text: str, utc: str) -> None:
    """What occurs twice is the first; what is skipped is read with the offset before."""
    rules = TopicMapping("t", ["m"], mapped(ts_pattern="%d/%m/%Y %H:%M", ts_zone="Europe/London"))
    assert rules.ts({"ts": text}) == TopicMapping("t", ["m"]).ts({"ts": utc})


@given(st.datetimes(datetime(1971, 1, 2), datetime(2037, 1, 1)))
def test_every_moment_but_the_second_of_two_survives_local_time(moment: datetime) -> None:
    moment = moment.replace(second=0, microsecond=0, tzinfo=UTC)
    local = moment.astimezone(ZoneInfo("Europe/London"))
    rules = TopicMapping("t", ["m"], mapped(ts_pattern="%d/%m/%Y %H:%M", ts_zone="Europe/London"))
    found = rules.ts({"ts": local.strftime("%d/%m/%Y %H:%M")})
    assert found == int((moment - timedelta(hours=local.fold)).timestamp()) * 1000


@given(st.datetimes(datetime(1971, 1, 2), datetime(2099, 1, 1)), st.sampled_from(["s", "ms", "us"]))
def test_numbers_of_local_time_mean_what_the_texts_mean(moment: datetime, unit: str) -> None:
    moment = moment.replace(microsecond=0)
    rules = TopicMapping(
        "t", ["m"], mapped(ts_unit=unit, ts_local=True, ts_zone="Europe/London", numbers_from_text=True)
    )
    number = (moment - datetime(1970, 1, 1)) // timedelta(seconds=1) * {"s": 1, "ms": 10**3, "us": 10**6}[unit]
    expected = rules.ts({"ts": moment.isoformat(sep=" ")})
    assert rules.ts({"ts": number}) == rules.ts({"ts": str(number)}) == expected


@pytest.mark.parametrize("text", ["12/25/2023 10:00", "2023-12-25 10:00", "20231225T1000", "1700000000000", "soon", ""])
def test_beside_a_pattern_only_rfc_3339_is_read(text: str) -> None:
    """A month that is a day would otherwise be read where it can be, by another form."""
    refused = judge(as_json({**GOOD, "ts": text}), mapped(ts_pattern="%d/%m/%Y %H:%M", ts_zone="UTC"))
    assert isinstance(refused, Rejection)
    assert refused.code is ErrorCode.INVALID_TS
    assert "not of ts_pattern %d/%m/%Y %H:%M" in refused.detail


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"ts_pattern": "%d/%m/%Y %H:%M"}, "set `ts_zone`"),
        ({"ts_pattern": "%H:%M", "ts_zone": "UTC"}, "year, month and day"),
        ({"ts_pattern": "%d/%m/%Y %I:%M", "ts_zone": "UTC"}, "with %I also %p"),
        ({"ts_pattern": "%d/%m/%Y %H:%M %Z", "ts_zone": "UTC"}, "use %z"),
        ({"ts_pattern": "%s", "ts_zone": "UTC"}, "no pattern of strptime"),
        ({"ts_pattern": "%d/%d/%Y", "ts_zone": "UTC"}, "no pattern of strptime"),
        ({"ts_local": True}, "`ts_local` is a time of `ts_zone`"),
        ({"ts_zone": "Europe/Atlantis"}, "not a time zone"),
        ({"ts_unit": "h"}, "'s', 'ms', 'us' or 'ns'"),
        ({"user_id": ""}, "at least 1 character"),
        ({"event_id": []}, "at least 1 item"),
        ({"where": [{"field": "a"}]}, "either `equals` or `present`"),
        ({"where": [{"field": "a", "equals": 1, "present": True}]}, "either `equals` or `present`"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        mapped(**settings)


def test_a_pattern_with_an_offset_needs_no_zone() -> None:
    rules = TopicMapping("t", ["m"], mapped(ts_pattern="%d/%b/%Y:%H:%M:%S %z"))
    assert rules.ts({"ts": "21/Nov/2025:11:00:00 +0100"}) == 1_763_719_200_000


# Event ids

parts = st.lists(
    st.text(st.sampled_from("a|\\b") | st.characters(exclude_categories=["Cs"]), max_size=80), min_size=1, max_size=4
)


@given(parts, parts)
def test_joined_ids_are_as_different_as_their_parts(one: list[str], other: list[str]) -> None:
    assert (joined(one) == joined(other)) is (one == other)
    assert 0 < len(joined(one)) <= MAX_ID_CHARS


@given(
    parts.filter(lambda found: len(found) > 1), st.from_regex(r"[a-zA-Z0-9._-]{1,100}", fullmatch=True), st.integers(0)
)
def test_a_joined_id_is_never_that_of_a_place(found: list[str], topic: str, offset: int) -> None:
    assert joined(found) != derived_id(topic, 0, offset)


@pytest.mark.parametrize(
    ("parts_", "expected"),
    [
        (["o1", 2], "o1|2"),
        (["o1", 2.0], "o1|2"),
        (["o1", "2"], "o1|2"),
        (["o1", 2.5], "o1|2.5"),
        (["o1", True], "o1|true"),
        (["", "x"], "|x"),
        (["o1", None], None),
        ([None, None], None),
    ],
)
def test_parts_of_an_id(parts_: list[Any], expected: str | None) -> None:
    rules = TopicMapping("t", ["m"], mapped(event_id=["order.id", "line"]))
    assert rules.event_id({"order": {"id": parts_[0]}, "line": parts_[1]}) == expected


@pytest.mark.parametrize(
    "value", [{"order": {"id": [1]}, "line": 1}, {"order": {"id": {}}, "line": 1}, {"order": {"id": ""}, "line": ""}]
)
def test_parts_that_are_none(value: dict[str, Any]) -> None:
    refused = judge(as_json({**GOOD, **value}), mapped(event_id=["order.id", "line"]))
    assert isinstance(refused, Rejection)
    assert refused.code is ErrorCode.INVALID_EVENT_ID


def test_one_path_in_a_list_takes_a_number_and_a_long_text() -> None:
    rules = TopicMapping("t", ["m"], mapped(event_id=["id"]))
    assert rules.event_id({"id": 17}) == "17"
    long = rules.event_id({"id": "x" * 5000})
    assert long is not None
    assert long.startswith(HASHED)
    assert long == rules.event_id({"id": "x" * 5000}) != rules.event_id({"id": "x" * 5001})
    assert rules.event_id({"id": HASHED}) != HASHED


@pytest.mark.parametrize("event_id", ["event_id", "order.id", ["order.id", "line"], ["line"]])
@pytest.mark.parametrize("pack", [as_json, msgpack.packb], ids=["json", "msgpack"])
@pytest.mark.parametrize("rest", [{}, {"order": {"id": None}}, {"order": {"id": ""}}, {"event_id": None}])
def test_a_replayed_letter_keeps_the_id_of_its_place(event_id: Any, pack: Any, rest: dict[str, Any]) -> None:
    """Whatever field the topic's ids are in."""
    settings = mapped(event_id=event_id, empty_is_absent=True)
    event = {k: v for k, v in GOOD.items() if k != "event_id"} | rest
    own = TopicMapping("bill", ["bill"], settings)
    filled = with_event_id(pack(event), "bill/2/7", own)
    found = judge(filled, settings)
    assert isinstance(found, Event)
    assert found.event_id == "bill/2/7"
    assert found == judge(pack(event), settings), "and nothing else"
    assert with_event_id(filled, "bill/2/8", own) == filled


def test_a_replayed_event_with_an_id_is_not_touched() -> None:
    own = TopicMapping("bill", ["bill"], mapped(event_id=["order.id", "line"]))
    value = as_json({**GOOD, "order": {"id": "o"}, "line": 3})
    assert with_event_id(value, "bill/2/7", own) == value
    assert GIVEN_ID.encode() not in value


# Modalities

TABLE = {"Order Completed": "a", "Page Viewed": "b", "7": "b", "true": "a"}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "Order Completed"}, "a"),
        ({"event": "Page Viewed"}, "b"),
        ({"event": 7}, "b"),
        ({"event": 7.0}, "b"),
        ({"event": True}, "a"),
        ({"event": "a"}, ErrorCode.UNKNOWN_MODALITY),
        ({"event": "order completed"}, ErrorCode.UNKNOWN_MODALITY),
        ({"event": ["Page Viewed"]}, ErrorCode.UNKNOWN_MODALITY),
        ({"event": ""}, ErrorCode.UNKNOWN_MODALITY),
        ({"event": None}, ErrorCode.MISSING_MODALITY),
        ({"modality": "a"}, ErrorCode.MISSING_MODALITY),
    ],
)
def test_a_table_of_modalities(event: dict[str, Any], expected: object) -> None:
    value = as_json({**GOOD, "x": "x", "y": "y", **event})
    settings = {"modality": "event", "modalities": TABLE}
    found = judge(value, mapped(**settings), "shared")
    assert (found.modality if isinstance(found, Event) else code(found)) == expected
    if isinstance(found, Rejection):
        found.detail.encode("ascii")
        assert judge(value, mapped(**settings, skip_other_modalities=True), "shared") == Skipped(
            SkipReason.OTHER_MODALITY
        )


def test_beside_a_table_no_event_is_taken_for_the_only_modality() -> None:
    """Of a Segment stream that carries one modality of ours, a page call has no `event`."""
    one = mapped(modality="event", modalities={"Order Completed": "bill"})
    assert code(judge(as_json(GOOD), one)) is ErrorCode.MISSING_MODALITY
    assert isinstance(judge(as_json(GOOD), mapped(modality="event")), Event), "without a table it is"
    assert isinstance(judge(as_json(GOOD), mapped(modality="event", skip_other_modalities=True)), Event)


def test_the_first_values_of_a_long_table_are_named() -> None:
    table = {f"Ereignis {n:02} \u00fc": "bill" for n in range(40)}
    refused = judge(as_json({**GOOD, "event": "x"}), mapped(modality="event", modalities=table))
    assert isinstance(refused, Rejection)
    assert refused.detail.isascii()
    assert "Ereignis 00 \\xfc" in refused.detail
    assert refused.detail.endswith(", and 28 more")


# What is skipped


@pytest.mark.parametrize(
    ("condition", "holds", "fails"),
    [
        ({"equals": "paid"}, ["paid"], ["Paid", "", None, 1, ["paid"], {"a": 1}]),
        ({"equals": 1}, [1, 1.0], ["1", True, 2, None, [1]]),
        ({"equals": 1.5}, [1.5], ["1.5", 1]),
        ({"equals": True}, [True], [1, 1.0, "true", False]),
        ({"equals": False}, [False], [0, None, ""]),
        ({"equals": ["c", "u", 3]}, ["c", "u", 3], ["d", 4, True, None]),
        ({"present": True}, ["", 0, False, [], {}], [None, ...]),
        ({"present": False}, [None, ...], ["", 0, False, [], {}]),
    ],
)
@pytest.mark.parametrize("field", ["status", "order.status"])
def test_conditions(condition: dict[str, Any], holds: list[Any], fails: list[Any], field: str) -> None:
    settings = mapped(where=[{"field": field, **condition}])
    for value in (*holds, *fails):
        event = moved({**GOOD, **({} if value is ... else {"status": value})}, {"status": field})
        skipped = judge(as_json(event), settings) == Skipped(SkipReason.WHERE)
        assert skipped is not any(value is one or (value == one and type(value) is type(one)) for one in holds), value


def test_all_conditions_must_hold() -> None:
    settings = mapped(where=[{"field": "status", "equals": "paid"}, {"field": "sku", "present": True}])
    assert isinstance(judge(as_json({**GOOD, "status": "paid", "sku": 1}), settings), Event)
    for event in ({"status": "paid"}, {"sku": 1}, {}):
        assert judge(as_json({**GOOD, **event}), settings) == Skipped(SkipReason.WHERE)


def test_an_event_without_a_user_is_skipped_and_one_with_a_bad_user_is_refused() -> None:
    settings = mapped(user_id="who", skip_without_user=True)
    for event in ({}, {"who": None}):
        assert judge(as_json({**GOOD, **event}), settings) == Skipped(SkipReason.WITHOUT_USER)
    for who in ("", 5, "u\n", ["u"]):
        assert code(judge(as_json({**GOOD, "who": who}), settings)) is ErrorCode.INVALID_USER_ID
    blank = mapped(user_id="who", skip_without_user=True, empty_is_absent=True)
    assert judge(as_json({**GOOD, "who": " "}), blank) == Skipped(SkipReason.WITHOUT_USER)


def test_a_deletion_is_skipped_or_refused_and_bytes_that_are_no_event_are_refused() -> None:
    for value in (None, b""):
        assert judge(value, mapped(skip_without_value=True)) == Skipped(SkipReason.WITHOUT_VALUE)
        assert code(judge(value, mapped(skip_without_user=True))) is ErrorCode.NULL_VALUE
    assert code(judge(b"null", mapped(skip_without_value=True))) is ErrorCode.NOT_AN_OBJECT
    assert code(judge(b"{", mapped(skip_without_value=True))) is ErrorCode.INVALID_JSON


def erasure(key: bytes | None, own: MappingSettings, produced_at: int = NOW - 5) -> Event | Rejection | Skipped:
    settings = IngestSettings()
    rules = Validator(MODALITIES, settings, EventClock.of(settings, MODALITIES), mapping={"bill": own})
    return rules.validate(None, "bill", 2, 7, produced_at, NOW, key)


def test_a_null_value_erases_whom_its_key_names_up_to_its_own_time() -> None:
    own = mapped(null_erases=True)
    found = erasure(b"u\xc3\xbc 1", own)
    assert isinstance(found, Event)
    assert (found.user_id, found.modality, found.ts, found.text, found.fields) == ("uü 1", ERASURE, NOW - 5, "", None)
    assert found.event_id == derived_id("bill", 2, 7)
    assert code(erasure(b"u", mapped(skip_without_user=True))) is ErrorCode.NULL_VALUE
    for key, why in ((None, ErrorCode.MISSING_USER_ID), (b"", ErrorCode.MISSING_USER_ID),
                     (b"\xff", ErrorCode.INVALID_USER_ID), (b"u" * 200, ErrorCode.INVALID_USER_ID)):  # fmt: skip
        assert code(erasure(key, own)) is why
    assert code(erasure(b"u", own, produced_at=NOW + 3_600_000)) is ErrorCode.TS_IN_FUTURE
    with pytest.raises(ValidationError, match="two things of one message"):
        mapped(null_erases=True, skip_without_value=True)


@given(odd_maps)
def test_what_is_skipped_moves_no_clock(event: dict[str, Any]) -> None:
    settings, own = IngestSettings(), mapped(where=[{"field": "never", "equals": "so"}])
    clock = EventClock.of(settings, MODALITIES)
    rules = Validator(MODALITIES, settings, clock, mapping={"bill": own})
    found = rules.validate(json.dumps(event).encode(), "bill", 0, 0, NOW, NOW)
    assert isinstance(found, Skipped | Rejection)
    assert isinstance(found, Skipped) or found.code in (ErrorCode.INVALID_UTF8, ErrorCode.INVALID_JSON)
    assert clock.get(("bill", 0)) is None


fields = st.sampled_from(["user_id", "ts", "event_id", "modality", "merchant", "x", "x.y", "other.user_id", "none"])
any_mapping = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("user_id", "ts", "modality"), fields),
        "event_id": fields | st.lists(fields, min_size=1, max_size=3),
        "ts_unit": st.sampled_from(["s", "ms", "us", "ns"]),
        "ts_pattern": st.none() | st.sampled_from(["%d/%m/%Y", "%Y-%m-%dT%H:%M:%S%z"]),
        "modalities": st.dictionaries(st.text(max_size=3), st.sampled_from(["a", "b"]), max_size=3),
        "where": st.lists(
            st.fixed_dictionaries({"field": fields, "equals": st.text(max_size=2) | st.booleans() | st.integers(0, 2)})
            | st.fixed_dictionaries({"field": fields, "present": st.booleans()}),
            max_size=2,
        ),
        **dict.fromkeys(
            (
                *("user_id_integers", "ts_local", "skip_without_value", "skip_without_user", "skip_other_modalities"),
                *("numbers_from_text", "empty_is_absent"),
            ),
            st.booleans(),
        ),
    },
)
texts = st.sampled_from(
    ["", " ", "12.50", "-0.0", "9" * 40, "1763719200", "0001-01-01T00:00:00", "9999-12-31T23:59:59"]
)
rows = st.dictionaries(
    names, st.none() | st.integers() | st.floats() | texts | st.dictionaries(names, texts, max_size=2)
)


@given(odd_maps | rows, any_mapping, st.sampled_from(["bill", "free", "profile", "shared"]))
def test_no_mapping_makes_an_event_raise(event: dict[str, Any], settings: dict[str, Any], topic: str) -> None:
    """And what it accepts can travel."""
    own = mapped(ts_zone="America/St_Johns", **settings)
    table = {} if topic == "shared" else {"modalities": dict.fromkeys(own.modalities, topic)}
    value = json.dumps(event).encode()
    found = judge(value, own.model_copy(update=table), topic)
    if isinstance(found, Skipped):
        assert isinstance(found.reason, SkipReason)
    else:
        check(found)
    sent = TopicMappings(MODALITIES, {topic: own})
    sent.topic_named(event)
    sent.by_topic[topic].user_text(event)


# Texts of tables

numbers = st.integers(-(10**9), 10**9) | st.floats(-1e30, 1e30, allow_nan=False)


@given(numbers, st.sampled_from(["", " ", "\t"]))
def test_a_number_that_is_text_is_that_number(number: float, space: str) -> None:
    as_text = judge(as_json({**GOOD, "amount": f"{space}{number!r}{space}"}), mapped(numbers_from_text=True))
    assert as_text == judge(as_json({**GOOD, "amount": number}))
    nested = {"text": "{merchant}", "numbers": ("order.total",)}
    modalities = {"bill": ModalitySettings(topic="bill", **nested)}
    inside = {**GOOD, "order": {"total": repr(number)}}
    found = judge(as_json(inside), mapped(numbers_from_text=True), "bill", modalities)
    assert isinstance(found, Event)
    assert found.numbers == (float(number),)


@pytest.mark.parametrize(
    "text", ["", " ", "1,5", "1.234,5", "1 000", "NaN", "inf", "0x10", "1_000", "12 EUR", "\u0661", "1e400", "--1", "."]
)
def test_texts_that_are_no_number(text: str) -> None:
    for settings in (mapped(), mapped(numbers_from_text=True)):
        assert code(judge(as_json({**GOOD, "amount": text}), settings)) is ErrorCode.INVALID_FIELD


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("41", 41.0),
        ("-2.50", -2.5),
        ("0", 0.0),
        ("007", "007"),
        ("1e5", "1e5"),
        ("+1", "+1"),
        ("12345678901234567", "12345678901234567"),
    ],
)
def test_a_code_of_a_table_stays_text(text: str, expected: object) -> None:
    found = judge(as_json({"user_id": "u1", "ts": NOW, "age": text}), mapped(numbers_from_text=True), "profile")
    assert isinstance(found, Event)
    assert found.fields == {"age": expected}


@given(
    good_maps.map(lambda event: {"merchant": "m", **event}),
    st.dictionaries(
        st.sampled_from(["channel", "amount", "event_id", "modality", "other"]), st.sampled_from(["", " ", "\n\t"])
    ),
)
def test_blank_texts_are_as_if_they_were_not_there(event: dict[str, Any], blanks: dict[str, str]) -> None:
    event = {k: v for k, v in event.items() if not isinstance(v, str) or v.strip()}
    without = {k: v for k, v in event.items() if k not in blanks}
    expected = judge(as_json(without))
    assert judge(as_json(event | blanks), mapped(empty_is_absent=True)) == expected
    inside = moved(event | blanks, {name: f"row.{name}" for name in (*GOOD, "modality", "other")})
    modalities = {
        "bill": ModalitySettings(topic="bill", text="{row.merchant} by {row.channel}", numbers=("row.amount",))
    }
    where = {name: f"row.{name}" for name in ("user_id", "ts", "event_id", "modality")}
    assert code(judge(as_json(inside), mapped(empty_is_absent=True, **where), "bill", modalities)) == code(expected)


def test_a_blank_field_of_a_table_forgets_nothing() -> None:
    found = judge(
        as_json({"user_id": "u1", "ts": NOW, "age": 4, "city": "", "gone": None}),
        mapped(empty_is_absent=True),
        "profile",
    )
    assert isinstance(found, Event)
    assert found.fields == {"age": 4.0, "gone": None}


def test_deep_maps_are_taken_apart_without_recursion() -> None:
    event: dict[str, Any] = {"blank": ""}
    for _ in range(500):
        event = {"in": event}
    found = judge(as_json(GOOD | event), mapped(empty_is_absent=True))
    assert isinstance(found, Event)


def test_conversions_are_counted() -> None:
    settings = IngestSettings()
    own = mapped(numbers_from_text=True, empty_is_absent=True)
    rules = Validator(MODALITIES, settings, EventClock.of(settings, MODALITIES), mapping={"bill": own})
    rules.validate(as_json({**GOOD, "amount": "12.50", "channel": "", "x": {"y": ""}}), "bill", 0, 0, NOW, NOW)
    assert rules.mappings()["bill"].converted == {NUMBER: 1, EMPTY: 2}
    assert rules.mappings()["free"].converted == {}


# Which topic an event is for


def test_the_topic_an_event_names() -> None:
    mapping = {"shared": mapped(modality="event", modalities=TABLE)}
    found = TopicMappings(MODALITIES, mapping)
    assert found.topic_named({"modality": "bill"}) == "bill"
    assert found.topic_named({"event": "Page Viewed"}) == "shared"
    assert found.topic_named({"event": "Foo"}) == "shared", "it will be refused or skipped there"
    assert found.topic_named({"event": "Foo", "modality": "profile"}) == "profile"
    assert found.topic_named({"modality": "unheard of"}) == "bill"
    assert found.topic_named({"x": 1}) is None
