"""Statistics of moments: each as it is computed alone, standing where it should; every one belongs to a group."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from deploy.settings.config import load
from encoder.learning.evaluation.statistic_groups import GROUPS, groups
from encoder.learning.history import History, collect
from encoder.learning.moments import Moments, Stand, moments, statistics_at
from encoder.learning.tasks.rows import TaskRows
from encoder.learning.windows import Windows
from encoder.statistics import statistics
from store.window.silence import SilenceTicks
from tests.models import events as small

DAY = 86_400_000
NOW = 400 * DAY


def task(name: str, users: list[int], now: list[int], *, includes_now: bool = False) -> TaskRows:
    n = len(users)
    return TaskRows(
        name, np.array(users), np.array(now), np.zeros(n, bool), np.zeros(n, np.int8), np.zeros((n, 0), np.float32),
        includes_now=includes_now,
    )  # fmt: skip


@pytest.fixture
def history() -> History:
    made = [
        small.event("u", "a", NOW - 40 * DAY, "e1"),
        small.event("u", "b", NOW - 9 * DAY, "e2"),
        small.event("u", "a", NOW, "e3"),
        small.event("v", "b", NOW - 3 * DAY, "e4"),
    ]
    days = {"window_days": 30, "max_events": 5}
    return collect([made], small.modalities(**days), small.DIM)


def test_equal_moments_are_asked_once() -> None:
    asked = moments(
        [task("x", [0, 1, 0], [5, 5, 6]), task("y", [1, 0], [5, 5]), task("z", [0], [5], includes_now=True)]
    )
    assert len(asked.users) == 4
    for name, pairs in {"x": [(0, 5), (1, 5), (0, 6)], "y": [(1, 5), (0, 5)], "z": [(0, 5)]}.items():
        place = asked.place[name]
        assert list(zip(asked.users[place].tolist(), asked.now[place].tolist(), strict=True)) == pairs
        assert asked.includes_now[place].tolist() == [name == "z"] * len(pairs)


def test_each_stand_is_a_window_computed_alone(history: History) -> None:
    windows, ticks = Windows(history, small.GRANULARITY_MS), SilenceTicks((1, 2, 4))
    asked = Moments(np.array([0, 1, 0]), np.array([NOW, NOW, NOW]), np.array([False, False, True]), {})
    found = statistics_at(windows, asked, list(Stand), ticks=ticks)

    def alone(user: int, moment: int, stands_at: int, *, includes_now: bool = False) -> np.ndarray:
        window = windows.at(user, moment, includes_now=includes_now).at(stands_at)
        return statistics.compute([window], history.settings)[0]

    assert np.array_equal(found[Stand.NOW][0], alone(0, NOW, NOW))
    assert np.array_equal(found[Stand.NEWEST][0], alone(0, NOW, 0))
    newest = NOW - 9 * DAY
    assert np.array_equal(found[Stand.THEN][0], alone(0, newest, newest, includes_now=True))
    tick = ticks.stands_at("u", newest, NOW)
    assert newest < tick < NOW
    assert np.array_equal(found[Stand.TICKS][0], alone(0, NOW, tick))
    # what happens at the moment is known only where it is asked for, and then every stand is the moment
    assert not np.array_equal(found[Stand.NOW][0], found[Stand.NOW][2])
    for stand in Stand:
        assert np.array_equal(found[stand][2], alone(0, NOW, NOW, includes_now=True))


def test_every_statistic_of_the_journey_has_a_group() -> None:
    settings = load(Path(str(files("deploy") / "examples" / "journey.toml")))
    names = statistics.names(settings.modalities)
    found = groups(names)
    assert set(found) == set(GROUPS)
    by_name = dict(zip(names, found.tolist(), strict=True))
    assert by_name["payment.amount.total_28d"] == "numbers"
    assert by_name["payment.amount.total_life"] == "long_memory"
    assert by_name["user.gap_max"] == "gaps"
    assert by_name["campaign.match.purchase"] == "match"
