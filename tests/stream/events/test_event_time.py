"""Event times: what is unambiguous is taken, the rest refused with why; units and zones as configured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stream.events.event_time import EventTime
from stream.events.refused import Refused
from stream.rejection import ErrorCode
from stream.settings import MappingSettings

TEN = 1_763_719_200_000
"""2025-11-21T10:00Z."""


def reader(**settings: Any) -> EventTime:
    return EventTime(MappingSettings(**settings))


def why(value: Any, **settings: Any) -> str:
    with pytest.raises(Refused) as caught:
        reader(**settings).of(value)
    assert caught.value.rejection.code is ErrorCode.INVALID_TS
    return caught.value.rejection.detail.partition(": ")[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-11-21T10:00Z", TEN),
        ("2025-11-21T10:00:00+0000", TEN),
        ("2025-11-21T10:00:00,123Z", TEN + 123),
        ("2025-11-21 10:00:00 UTC", TEN),
        ("2025-11-21 10:00:00 GMT", TEN),
        ("2025-11-21 10:00:00.5 +0000", TEN + 500),
        ("2025-11-21T11:00+01", TEN),
        ("2025-11-21T11:00+01:00[Europe/Paris]", TEN),
        ("2025-11-21T10:00Z[UTC]", TEN),
        ("20251121T100000Z", TEN),
        (" 2025-11-21T10:00:00Z\n", TEN),
        ("2025-11-21T10:00:00.123456789Z", TEN + 123),
        ("2025-11-21T10:00:00-00:00", TEN),
    ],
)
def test_what_is_unambiguous_is_taken(text: str, expected: int) -> None:
    """B2: Java leaves seconds of 0 out, so one event in sixty was lost."""
    assert reader().of(text) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("2025-11-21T10:00:00", "no offset from UTC: send one, or set ts_zone"),
        ("2025-11-21 10:00", "no offset from UTC: send one, or set ts_zone"),
        ("2025-11-21T10:00:00[Europe/Paris]", "no offset from UTC: send one, or set ts_zone"),
        ("2025-11-21", "a date without a time"),
        ("2025-11-21T10Z", "no minutes"),
        ("1763719200000", "a number sent as text: send it as a number"),
        ("21/11/2025 10:00", "day and month stand in an unclear order: send year, month, day"),
        ("2025-02-30T10:00Z", "no such time: day is out of range for month"),
        ("2025-11-21T10:60:00Z", "no such time: minute must be in 0..59"),
        ("", "empty"),
        ("soon", "not in a known form"),
        ([1], "neither a number nor text"),
        (True, "neither a number nor text"),
        (-5, "before 1970"),
        ("1969-12-31T23:59Z", "before 1970"),
    ],
)
def test_the_rest_is_refused_with_why(value: Any, reason: str) -> None:
    assert why(value) == reason


moments = st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1))
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(moments, offsets, st.sampled_from(["T", "t", " "]), st.booleans(), st.booleans())
def test_iso_in_all_its_dresses(moment: datetime, zone: timezone, sep: str, basic: bool, comma: bool) -> None:
    moment = moment.replace(tzinfo=zone)
    text = moment.isoformat(sep=sep)
    text = text.replace(".", ",") if comma else text
    text = text[:-3] + text[-2:] if basic else text
    assert reader().of(text) == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@given(moments)
def test_local_times_in_a_zone(moment: datetime) -> None:
    zone = ZoneInfo("Europe/Paris")
    expected = moment.replace(tzinfo=zone, microsecond=0)
    found = reader(ts_zone="Europe/Paris").of(moment.isoformat(timespec="seconds"))
    assert found == int(expected.timestamp()) * 1000


def test_a_change_of_the_clock() -> None:
    """What occurs twice is the first; what is skipped is read with the offset before."""
    paris = reader(ts_zone="Europe/Paris")
    assert paris.of("2025-10-26T02:30:00") == reader().of("2025-10-26T00:30:00Z")
    assert paris.of("2025-03-30T02:30:00") == reader().of("2025-03-30T01:30:00Z")
    assert paris.of("2025-10-26T02:30:00+01:00") == reader().of("2025-10-26T01:30:00Z"), "an offset is believed"
    with pytest.raises(ValidationError, match="not a time zone"):
        reader(ts_zone="Europe/Atlantis")


@pytest.mark.parametrize(("unit", "value"), [("s", TEN // 1000), ("ms", TEN), ("us", TEN * 1000), ("ns", TEN * 10**6)])
def test_units(unit: str, value: int) -> None:
    assert reader(ts_unit=unit).of(value) == TEN
    assert reader(ts_unit=unit).of("2025-11-21T10:00Z") == TEN, "texts are what they say"


@given(st.floats(0, 4e9))
def test_seconds_with_a_fraction(seconds: float) -> None:
    assert reader(ts_unit="s").of(seconds) == int(seconds * 1000)


def test_too_large_says_in_which_unit_it_would_do() -> None:
    assert why(TEN * 10**6, ts_unit="s") == "too large; looks like nanoseconds: send seconds, or set ts_unit"
    assert why(2**63) == "too large"
    assert why(2**80, ts_unit="s") == "too large"
