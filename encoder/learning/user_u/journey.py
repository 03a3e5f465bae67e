"""What a grocer asks of a household, in a grocer's words: aspects of the Complete Journey panel as the demo maps it."""

from __future__ import annotations

import numpy as np

from encoder.learning.user_u.aspects import Aspect, Kind, yes_or_no
from encoder.learning.user_u.counts import DAY_MS, Counts, Flags, Ints
from encoder.learning.user_u.wordings import TIMES_SAID, TREND_SAID

SPEND_BOUNDS = (1e-9, 25.0, 75.0, 200.0, 500.0)
_SPEND_SAID = (
    "nothing", "under 25 dollars", "25 to 75 dollars", "75 to 200 dollars", "200 to 500 dollars", "over 500 dollars",
)  # fmt: skip
_AMOUNT, _COUPON_SAVED = 0, 3
"""Places of `payment`'s numbers."""
_DAYS = 0
"""Place of `campaign`'s number: how long it runs."""


def holds_live_campaign(counts: Counts, users: Ints, moments: Ints) -> Flags:
    """Who has received a campaign that still runs."""
    own = counts.history.modalities["campaign"]
    ends = own.ts + (own.numbers[:, _DAYS].astype(np.float64) * DAY_MS).astype(np.int64)
    live = np.zeros(len(users), bool)
    for i, (user, moment) in enumerate(zip(users.tolist(), moments.tolist(), strict=True)):
        rows = slice(int(own.starts[user]), int(own.starts[user + 1]))
        live[i] = bool(((own.ts[rows] < moment) & (ends[rows] >= moment)).any())
    return live


def aspects() -> list[Aspect]:
    """Of households, rarest last; weights as measured (docs/log.md): rare answers are seen too often otherwise."""
    return [
        Aspect(
            "any_coupon", Kind.ANY_NUMBER, "payment",
            (
                "Will this household use any coupon at the checkout within {horizon}?",
                "Will this household use a coupon in {horizon}?",
                "Does the customer pay with a coupon in {horizon}?",
            ),
            yes_or_no(("the household uses a coupon",), ("the household uses no coupon",)), number=_COUPON_SAVED,
        ),
        Aspect(
            "churn", Kind.NONE, "payment",
            (
                "Will this household stop visiting the store for {horizon}?",
                "Will this household stop shopping here in {horizon}?",
                "Does the customer stay away during {horizon}?",
            ),
            yes_or_no(("the household stays away and makes no visit",), ("the household comes back and shops",)),
        ),
        Aspect(
            "spend_drop", Kind.DROP, "payment",
            (
                "Will the spending of this household fall below half of its usual level in {horizon}?",
                "Will this household spend less than half as much in {horizon}?",
                "Does the customer spend much less than usual in {horizon}?",
            ),
            yes_or_no(("spending falls below half of the usual",), ("spending stays near the usual level",)),
            number=_AMOUNT, weight=1.5,
        ),
        Aspect(
            "visits", Kind.TIMES, "payment",
            ("How often will this household visit the store within {horizon}?", "How many visits in {horizon}?"),
            tuple((f"{said} visits", f"the household makes {said} visits to the store") for said in TIMES_SAID),
        ),
        Aspect(
            "spend", Kind.TOTAL, "payment",
            ("How much will this household spend within {horizon}?", "Spending level in {horizon}?"),
            tuple((f"spends {said}", f"the household spends {said}") for said in _SPEND_SAID),
            number=_AMOUNT, bounds=SPEND_BOUNDS,
        ),
        Aspect(
            "spend_trend", Kind.TREND, "payment",
            ("How will spending compare with the usual level in {horizon}?", "Spending trend in {horizon}?"),
            tuple((f"spends {said}", f"the household spends {said}") for said in TREND_SAID), number=_AMOUNT,
        ),
        Aspect(
            "redeem", Kind.ANY, "redemption",
            (
                "Will this household redeem a campaign coupon within {horizon}?",
                "Does the customer hand in a coupon from a mailed campaign in {horizon}?",
            ),
            yes_or_no(("the household redeems a campaign coupon",), ("the household redeems no campaign coupon",)),
            weight=0.4,
        ),
        Aspect(
            "redeem_live", Kind.ANY, "redemption",
            (
                "A coupon campaign is running for this household. Will it redeem one of its coupons within {horizon}?",
                "Will the customer respond to the running coupon campaign in {horizon}?",
            ),
            yes_or_no(
                ("the household responds to the running campaign",), ("the household ignores the running campaign",)
            ),
            weight=0.3, applies=holds_live_campaign,
        ),
    ]  # fmt: skip
