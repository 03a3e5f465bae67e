"""Tick times: a function of user and newest event, which no arrival makes go back (docs/adr/0014)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.window.silence import DAY_MS, HOUR_MS, SilenceTicks, floor_hour

DEFAULT = (1, 2, 4, 8, 16, 32, 64)
BEGIN = 1_700_000_000_000


@st.composite
def _days(draw: st.DrawFn) -> tuple[int, ...]:
    days = [draw(st.integers(1, 3))]
    for factor in draw(st.lists(st.integers(2, 7), max_size=4)):
        days.append(days[-1] * factor)
    return tuple(days)


TICKS = st.one_of(st.just(DEFAULT), _days()).map(SilenceTicks)
TIMES = st.integers(0, 200 * DAY_MS).map(lambda ms: BEGIN + ms)
USERS = st.text(min_size=1, max_size=8)


def _all(ticks: SilenceTicks, user: str, newest: int, upto: int) -> list[int]:
    """Tick times one after the other."""
    out, at = [], newest - 5 * DAY_MS
    while (tick := ticks.next_after(user, newest, at)) is not None and tick <= upto:
        out.append(at := tick)
    return out


@given(TICKS, USERS, TIMES, TIMES)
def test_a_vector_stands_at_its_last_tick(ticks: SilenceTicks, user: str, newest: int, horizon: int) -> None:
    times = _all(ticks, user, newest, horizon)
    assert ticks.stands_at(user, newest, horizon) == (times[-1] if times else newest)
    assert all(time > newest for time in times)


@given(TICKS, USERS, TIMES, TIMES, TIMES, TIMES)
def test_it_never_goes_back(ticks: SilenceTicks, user: str, a: int, b: int, c: int, d: int) -> None:
    """Neither by a later horizon nor by a newer event, however late that comes."""
    (older, newer), (earlier, later) = sorted((a, b)), sorted((c, d))
    assert ticks.stands_at(user, older, earlier) <= ticks.stands_at(user, newer, later)


@given(TICKS, USERS, TIMES)
def test_ticks_are_those_of_the_definition(ticks: SilenceTicks, user: str, newest: int) -> None:
    """Slot by slot, as the module's docstring has it."""
    days = ticks.days
    unit, longest = days[0] * DAY_MS, days[-1]
    first = ticks.next_after(user, newest, newest)
    assert first is not None
    assert first - newest <= 2 * days[0] * DAY_MS
    phase = next(tick for tick in _all(ticks, user, newest, newest + 999 * DAY_MS * longest)[-1:])  # on every grid
    expected, slot = [], (newest - phase) // unit
    for later in range(slot + 1, slot + 2 * longest // days[0]):
        age = (later - slot) * days[0]
        grid = max(day for day in days if day <= age)
        if later * days[0] % grid == 0:
            expected.append(phase + later * unit)
    assert _all(ticks, user, newest, newest + 999 * DAY_MS * longest) == expected


@given(USERS, TIMES)
def test_by_default_a_silence_costs_seven_ticks_ever_further_apart(user: str, newest: int) -> None:
    times = _all(SilenceTicks(DEFAULT), user, newest, newest + 999 * DAY_MS)
    assert len(times) == len(DEFAULT)
    for days, time in zip(DEFAULT, times, strict=True):
        assert (days - 1) * DAY_MS < time - newest < 2 * days * DAY_MS


def test_users_are_spread_over_the_day() -> None:
    ticks = SilenceTicks(DEFAULT)
    hours = [0] * 24
    for user in range(24_000):
        tick = ticks.next_after(f"user-{user}", BEGIN, BEGIN)
        assert tick is not None
        assert BEGIN < tick <= BEGIN + DAY_MS
        hours[(tick - BEGIN - 1) // HOUR_MS] += 1
    assert min(hours) > 850
    assert max(hours) < 1150


def test_phases_are_what_they_have_always_been() -> None:
    """Else a new version would publish at other times than the old one, and some vectors would go back."""
    ticks = SilenceTicks(DEFAULT)
    assert [ticks.next_after(user, BEGIN, BEGIN) for user in ("anna", "bert", "ünal")] == PHASES


PHASES = [1700053988324, 1700009708059, 1700041085665]


def test_without_days_a_vector_stands_at_its_newest_event() -> None:
    ticks = SilenceTicks(())
    assert not ticks
    assert ticks.stands_at("anna", BEGIN, BEGIN + 99 * DAY_MS) == BEGIN
    assert ticks.next_after("anna", BEGIN, BEGIN) is None


@pytest.mark.parametrize("days", [(1, 2, 4, 7), (2, 2), (4, 1), (2, 3)])
def test_days_must_divide_each_other(days: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiple of the one before"):
        SilenceTicks(days)


def test_hours() -> None:
    assert floor_hour(BEGIN) == 1_699_999_200_000
