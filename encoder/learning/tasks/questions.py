"""What tasks ask, in words: the query that conditions a vector, and what an answer to it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.learning.tasks.rows import TaskRows

GENERAL = "What is this user like, and what will the user do in the next four weeks?"
"""Asked for every task alike: a vector that does not know what it is for."""


@dataclass(frozen=True, slots=True)
class Question:
    """queries: wordings of it, the first of which is asked. yes, no: wordings of its answers."""

    queries: tuple[str, ...]
    yes: tuple[str, ...]
    no: tuple[str, ...]

    @property
    def query(self) -> str:
        """As it is asked."""
        return self.queries[0]


def asked_pairs(tasks: Sequence[TaskRows], place: Sequence[NDArray[np.intp]]) -> NDArray[np.int64]:
    """Distinct (moment, question), int64 (pairs, 2), in order.

    Args:
        place: per task where its rows are in the moments.
    """
    pairs = [np.stack([own.astype(np.int64), task.asks], axis=1) for task, own in zip(tasks, place, strict=True)]
    return np.unique(np.concatenate(pairs), axis=0)


def _yes_no(queries: tuple[str, ...], yes: str, no: str) -> Question:
    return Question(queries, (f"yes, {yes}", f"yes {yes}", yes), (f"no, {no}", f"no {no}", no))


REDEEM = _yes_no(
    (
        "Will this household redeem a coupon of a campaign in the next four weeks?",
        "Does the customer hand in a coupon from a mailed campaign within 28 days?",
        "Coupon redemption in the coming month?",
    ),
    "the household redeems a campaign coupon",
    "the household redeems no campaign coupon",
)
REDEEM_LIVE = _yes_no(
    (
        "A coupon campaign is running for this household. Will it redeem a coupon in the next four weeks?",
        "Will the customer respond to the running coupon campaign within 28 days?",
        "Response to the live campaign in the coming month?",
    ),
    "the household responds to the running campaign",
    "the household ignores the running campaign",
)
ANY_COUPON = _yes_no(
    (
        "Will this household use a coupon in the next four weeks?",
        "Does the customer pay with any coupon within 28 days?",
        "Any coupon used in the coming month?",
    ),
    "the household uses a coupon",
    "the household uses no coupon",
)
CHURN = _yes_no(
    (
        "Will this household stop shopping here in the next four weeks?",
        "Does the customer stay away for 28 days?",
        "No visit in the coming month?",
    ),
    "the household stays away and makes no visit",
    "the household comes back and shops",
)
SPEND_DROP = _yes_no(
    (
        "Will this household spend less than half as much in the next four weeks?",
        "Does the customer's spending fall below half of the usual within 28 days?",
        "Spending drop in the coming month?",
    ),
    "spending falls below half of the usual",
    "spending stays near the usual level",
)


def campaign(kind: str, categories: str, days: int) -> Question:
    """Of one campaign as it is received: its type, what its coupons are for, and how long it runs."""
    what = f"{kind} campaign with coupons for {categories.lower()}"
    return _yes_no(
        (
            f"This household has just received a {what}, valid for {days} days. Will it redeem one of its coupons?",
            f"A {what} was sent to the customer and runs {days} days. Does the customer respond to it?",
            f"Response to a {what} of {days} days?",
        ),
        "the household responds to this campaign",
        "the household ignores this campaign",
    )


BUYS = _yes_no(
    (
        "Will this customer buy again in the next four weeks?",
        "Does the customer order anything within 28 days?",
        "A purchase in the coming month?",
    ),
    "the customer comes back and buys",
    "the customer stays away and buys nothing",
)
CANCELS = _yes_no(
    (
        "Will this customer cancel or return something in the next four weeks?",
        "Does the customer send something back within 28 days?",
        "A cancellation in the coming month?",
    ),
    "the customer cancels an order",
    "the customer cancels nothing",
)
SPENDS_LESS = _yes_no(
    (
        "Will this customer spend less than half as much in the next four weeks?",
        "Does the customer's spending fall below half of the usual within 28 days?",
        "Spending drop in the coming month?",
    ),
    "spending falls below half of the usual",
    "spending stays near the usual level",
)
