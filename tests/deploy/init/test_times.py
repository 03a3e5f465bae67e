"""Which field is a time, and how it is written: units by magnitude and patterns by trial hold for every time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.init.columns import Column, Table
from deploy.init.times import PATTERNS, guess_times, read, unit_of
from stream.settings import MappingSettings, TimeUnit

WALL = 2_300_000_000_000
PER_SECOND = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}
seconds = st.integers(978_307_200, 2_208_988_799)
"""2001 to the end of 2039."""
moments = st.lists(
    st.datetimes(datetime(2001, 1, 1), datetime(2030, 12, 31), timezones=st.just(UTC)), min_size=1, max_size=30
)


@given(st.lists(seconds, min_size=1, max_size=20), st.sampled_from(TimeUnit), st.integers(0, 999_999_999))
def test_a_unit_is_never_wrong_from_2001_to_2040(times: list[int], unit: TimeUnit, nanos: int) -> None:
    per = PER_SECOND[unit]
    assert unit_of([at * per + nanos * per // 10**9 for at in times]) is unit


@given(st.lists(seconds, min_size=1, max_size=20), st.sampled_from(TimeUnit), st.booleans())
def test_numbers_are_read_as_the_moments_they_are(times: list[int], unit: TimeUnit, text: bool) -> None:
    values = [at * PER_SECOND[unit] for at in times]
    (guess,) = guess_times(Table({"ts": str(value) if text else value} for value in values), WALL)
    assert guess.times == tuple(at * 1000 for at in times)
    MappingSettings(ts=guess.column, **guess.reading.settings)


@given(moments, st.sampled_from(PATTERNS))
def test_a_pattern_that_is_found_reads_every_text_it_was_found_by(times: list[datetime], pattern: str) -> None:
    """Day and month may be taken for each other where no text tells, and that is said; never anything else."""
    texts = [moment.strftime(pattern) for moment in times]
    (guess,) = guess_times(Table({"at": text} for text in texts), WALL)
    MappingSettings(ts=guess.column, **guess.reading.settings)
    offset = "%z" in pattern
    true = [datetime.strptime(text, pattern) for text in texts]
    wanted = [(moment if offset else moment.replace(tzinfo=UTC)).timestamp() * 1000 for moment in true]
    if list(guess.times) != [int(at) for at in wanted]:
        assert any("would fit too" in text for text in guess.reading.unsure), (guess.reading, texts)
    assert offset or pattern.endswith(("GMT", "UTC")) or any("no offset" in text for text in guess.reading.unsure)


@pytest.mark.parametrize("pattern", ["%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"])
def test_day_or_month_first_is_told_by_a_day_beyond_the_twelfth(pattern: str) -> None:
    start = datetime(2011, 1, 1, 8, tzinfo=UTC)
    (guess,) = guess_times(Table({"at": (start + timedelta(days=n)).strftime(pattern)} for n in range(40)), WALL)
    assert guess.reading.settings["ts_pattern"] == pattern
    assert not any("would fit too" in text for text in guess.reading.unsure)


@pytest.mark.parametrize("pattern", ["%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"])
def test_day_or_month_first_is_told_by_the_order_of_the_rows_else(pattern: str) -> None:
    """And said."""
    days = [datetime(2011, month, day, 8, tzinfo=UTC) for month in (1, 2, 3, 4) for day in range(1, 13)]
    (guess,) = guess_times(Table({"at": day.strftime(pattern)} for day in days), WALL)
    assert guess.reading.settings["ts_pattern"] == pattern
    assert any("would fit too" in text and "in order" in text for text in guess.reading.unsure)


def test_the_event_s_own_time_comes_first() -> None:
    rows = [
        {
            "received_at": 1_700_000_001 + n,
            "timestamp": f"2023-11-14T22:{n % 60:02}:20Z",
            "expires": 1_900_000_000,
            "order_no": 1_500_000_000 + n,
        }
        for n in range(50)
    ]
    found = guess_times(Table(rows), 1_800_000_000_000)
    assert found[0].column == "timestamp"
    assert "order_no" not in {guess.column for guess in found}, "ten digits of an id are no time"


def test_telephone_numbers_and_codes_are_no_times() -> None:
    rows = [{"phone": f"555{n:07}", "sku": f"{20_000_000 + 7919 * n}", "zip": f"{n:05}"} for n in range(200)]
    assert guess_times(Table(rows), WALL) == []


def test_a_few_broken_times_do_not_hide_the_others() -> None:
    column = Column("ts", ["n/a", *("2023-11-14T22:13:20Z" for _ in range(40))])
    (guess,) = guess_times(Table({"ts": value} for value in column.values), WALL)
    assert guess.times[0] is None
    assert guess.readable == 40 / 41
    assert read(column, guess.reading) == guess.times
