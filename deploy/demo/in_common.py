"""What nearest households have in common: figures of behaviour for one, for its nearest, and for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from deploy.demo.journey import RawEvent

DAY_MS = 86_400_000
SPAN_DAYS = 28


@dataclass
class Behaviour:
    """Of one household over the last 28 days before the end; redemptions and campaigns over all that was replayed.

    silent_days: since its last basket, of all the days where there is none.
    """

    visits: int = 0
    spent: float = 0.0
    coupons_used: int = 0
    redemptions: int = 0
    campaigns: int = 0
    silent_days: float = 0.0


FIGURES: Mapping[str, Callable[[Behaviour], float]] = {
    "visits, 28 days": lambda own: own.visits,
    "spent, 28 days": lambda own: own.spent,
    "baskets with a coupon, 28 days": lambda own: own.coupons_used,
    "days since the last basket": lambda own: own.silent_days,
    "coupons of campaigns redeemed": lambda own: own.redemptions,
    "campaigns received": lambda own: own.campaigns,
}


def behaviours(events: Iterable[RawEvent]) -> dict[str, Behaviour]:
    """By user. events: in order of time; the last one is the end."""
    found: dict[str, Behaviour] = {}
    last_basket: dict[str, int] = {}
    baskets = []
    begin = end = 0
    for event in events:
        begin, end = begin or event["ts"], event["ts"]
        own = found.setdefault(event["user_id"], Behaviour())
        if event["modality"] == "payment":
            last_basket[event["user_id"]] = event["ts"]
            baskets.append(event)
        own.redemptions += event["modality"] == "redemption"
        own.campaigns += event["modality"] == "campaign"
    for basket in baskets:
        if basket["ts"] > end - SPAN_DAYS * DAY_MS:
            own = found[basket["user_id"]]
            own.visits += 1
            own.spent += basket["amount"]
            own.coupons_used += bool(basket.get("coupon_saved"))
    for user, own in found.items():
        own.silent_days = (end - last_basket.get(user, begin)) / DAY_MS
    return found


def compare(found: Mapping[str, Behaviour], user: str, nearest: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Rows (figure, the household's, the mean of its nearest, the mean of all)."""
    near = [found[other] for other in nearest if other in found]

    def mean(of: Iterable[Behaviour], figure: Callable[[Behaviour], float]) -> str:
        values = [figure(each) for each in of]
        return f"{sum(values) / len(values):,.1f}" if values else "-"

    return [
        (name, mean([found[user]], figure), mean(near, figure), mean(found.values(), figure))
        for name, figure in FIGURES.items()
    ]
