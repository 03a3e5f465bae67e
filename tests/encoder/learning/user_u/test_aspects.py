"""Classes of aspects: what comes true in the horizon, for those who are asked."""

from __future__ import annotations

import numpy as np
import pytest

from encoder.learning.user_u.aspects import HORIZONS, Aspect, Kind, Labels, quantile_bounds, yes_or_no
from encoder.learning.user_u.counts import Counts
from encoder.learning.user_u.wordings import of_configuration
from tests.support.small_data_set import DAY, MODALITIES, START, history

PAST = history(20)
COUNTS = Counts(PAST)
USERS = np.repeat(np.arange(20), 3)
MOMENTS = np.tile(START + np.array([30, 40, 55]) * DAY, 20)
YES_NO = yes_or_no(("it comes",), ("it does not",))


def classes(kind: Kind, days: int = 7, until: int = COUNTS.end, **changes: object) -> np.ndarray:
    aspect = Aspect("x", kind, "bill", ("{horizon}?",), YES_NO, number=0, **changes)  # type: ignore[arg-type]
    return Labels(COUNTS, until, {"bill": np.zeros(len(PAST.vectors), np.int64)}).of(aspect, USERS, MOMENTS, days)


def in_horizon(user: int, moment: int, days: int) -> np.ndarray:
    own = PAST.modalities["bill"]
    rows = slice(int(own.starts[user]), int(own.starts[user + 1]))
    return own.numbers[rows, 0][(own.ts[rows] >= moment) & (own.ts[rows] < moment + days * DAY)]


def test_each_kind_by_hand() -> None:
    found = [in_horizon(u, m, 4) for u, m in zip(USERS.tolist(), MOMENTS.tolist(), strict=True)]
    some = np.array([len(rows) > 0 for rows in found])
    assert 0 < some.sum() < len(some)
    assert (classes(Kind.ANY, 4) == some).all()
    assert (classes(Kind.NONE, 4) == ~some).all()
    assert (classes(Kind.ANY_NUMBER, 4) == some).all()
    assert (classes(Kind.TOPIC, 4, topic=0) == some).all()
    assert not classes(Kind.TOPIC, 4, topic=1).any()
    times = np.array([len(rows) for rows in found])
    assert (classes(Kind.TIMES, 4) == np.digitize(times, (1, 2, 4, 8))).all()
    total = np.array([rows.sum() for rows in found])
    assert (classes(Kind.TOTAL, 4, bounds=(1e-9, 30.0)) == np.digitize(total, (1e-9, 30.0))).all()
    trend, drop = classes(Kind.TREND, 4), classes(Kind.DROP, 4)
    assert {-1} != set(trend.tolist()) <= {-1, 0, 1, 2, 3}
    assert ((drop == 1) == (trend == 0)).all(), "below half of the usual is the lowest trend"
    assert ((drop == -1) == (trend == -1)).all()


@pytest.mark.parametrize("days", HORIZONS)
def test_nobody_is_asked_what_is_not_known_yet(days: int) -> None:
    until = START + 50 * DAY
    found = classes(Kind.ANY, days, until)
    assert ((found == -1) == (MOMENTS + days * DAY > until)).all()


def test_who_is_asked_may_be_told() -> None:
    found = classes(Kind.ANY, applies=lambda _counts, users, _moments: users % 2 == 0)
    assert ((found == -1) == (USERS % 2 == 1) | (COUNTS.end < MOMENTS + 7 * DAY)).all()


def test_bounds_are_what_people_say() -> None:
    assert quantile_bounds(np.zeros(5), 5) == ()
    bounds = quantile_bounds(np.linspace(1, 1000, 500), 5)
    assert bounds[1:] == (200.0, 400.0, 600.0, 800.0)
    assert bounds[0] > 0
    assert len(quantile_bounds(np.full(9, 7.0), 5)) == 2, "equal bounds are one"


def test_any_configuration_has_aspects() -> None:
    found = of_configuration(MODALITIES, COUNTS, USERS, MOMENTS)
    assert len({aspect.name for aspect in found}) == len(found)
    labels = Labels(COUNTS, COUNTS.end)
    for aspect in found:
        assert all("{horizon}" in question for question in aspect.questions)
        got = labels.of(aspect, USERS, MOMENTS, 7)
        assert got.max() < len(aspect.answers), aspect.name
    assert {aspect.kind for aspect in found} >= {Kind.ANY, Kind.NONE, Kind.TIMES, Kind.TOTAL, Kind.TREND, Kind.DROP}
