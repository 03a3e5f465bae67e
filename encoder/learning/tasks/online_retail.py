"""Three tasks on UCI Online Retail (Chen 2015, doi 10.24432/C5BW33): invoice lines, and nothing else known of anybody.

A snapshot D sees the invoices before D; its answer lies in the 28 days from D. Asked of customers who bought within 90
days before. An invoice of a cancellation begins with C. Times are naive shop times.

    buys         an invoice that is no cancellation
    cancels      an invoice that is one
    spend_drop   spends less than half of what the 90 days before would have brought
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoder.learning.tasks import questions as asking
from encoder.learning.tasks.questions import Question
from encoder.learning.tasks.rows import Split, TaskRows

ZONE: Final = "Europe/London"
HORIZON_DAYS: Final = 28
LOOK_BACK_DAYS: Final = 90
SNAPSHOTS: Final[Mapping[Split, tuple[str, ...]]] = {
    Split.TRAIN: (
        "2011-03-01", "2011-03-15", "2011-03-29", "2011-04-12", "2011-04-26", "2011-05-10", "2011-05-24", "2011-06-07",
        "2011-06-21", "2011-07-05", "2011-07-19",
    ),
    Split.VALIDATION: ("2011-08-23",),
    Split.TEST: ("2011-09-20", "2011-10-18"),
}  # fmt: skip
QUESTIONS: Final[Mapping[str, Question]] = {
    "buys": asking.BUYS,
    "cancels": asking.CANCELS,
    "spend_drop": asking.SPENDS_LESS,
}
TASKS: Final = tuple(QUESTIONS)

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Invoices:
    """One entry per (customer, invoice number). who: int64, places in `customers`. ts: int64, ms of naive shop time, of
    the first line. cancels: bool. value: float64. lines, kinds: int64, of which different articles."""

    customers: list[int]
    who: NDArray[np.int64]
    ts: NDArray[np.int64]
    cancels: NDArray[np.bool_]
    value: NDArray[np.float64]
    lines: NDArray[np.int64]
    kinds: NDArray[np.int64]


def invoices(lines: Any) -> Invoices:
    """Of a DataFrame with the columns of the data set; lines without a customer do not count."""
    lines = lines.dropna(subset=["CustomerID"])
    customers = lines.CustomerID.astype(np.int64)
    lines = lines.assign(customer=customers, value=lines.Quantity * lines.UnitPrice)
    found = lines.groupby(["customer", "InvoiceNo"], sort=True).agg(
        ts=("InvoiceDate", "first"), value=("value", "sum"), lines=("value", "size"), kinds=("StockCode", "nunique")
    )
    found = found.reset_index()
    known = sorted(found.customer.unique().tolist())
    place = {customer: i for i, customer in enumerate(known)}
    return Invoices(
        known,
        found.customer.map(place).to_numpy(np.int64),
        found.ts.to_numpy(np.int64) * 1000,
        found.InvoiceNo.str.startswith("C").to_numpy(bool),
        found.value.to_numpy(np.float64),
        found.lines.to_numpy(np.int64),
        found.kinds.to_numpy(np.int64),
    )


def shop_time(day: str) -> int:
    """Beginning of a day in naive shop time, ms."""
    return int(np.datetime64(day, "ms").astype(np.int64))


def moment_of(shop_ms: int) -> int:
    """The moment at which the shop's clock shows that time, ms."""
    import pandas as pd

    return int(pd.Timestamp(shop_ms, unit="ms").tz_localize(ZONE).timestamp() * 1000)


def shop_time_of(moment: int) -> int:
    """Inverse of `moment_of`."""
    import pandas as pd

    shown = pd.Timestamp(moment, unit="ms", tz="UTC").tz_convert(ZONE).tz_localize(None)
    return int(shown.timestamp() * 1000)


def tasks(made: Invoices) -> list[TaskRows]:
    """The tasks in the order of `TASKS`; users are places in `made.customers`."""
    users, now, split = [], [], []
    answers: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in TASKS}
    for part, days in SNAPSHOTS.items():
        for day in days:
            at = shop_time(day)
            before = _sums(made, at - LOOK_BACK_DAYS * _DAY_MS, at)
            who = np.flatnonzero(before.bought)
            after = _sums(made, at, at + HORIZON_DAYS * _DAY_MS)
            users.append(who)
            now.append(np.full(len(who), moment_of(at), np.int64))
            split.append(np.full(len(who), part, np.int8))
            usual = before.spent * HORIZON_DAYS / LOOK_BACK_DAYS
            for name, answer in zip(TASKS, (after.bought, after.cancelled, after.spent < 0.5 * usual), strict=True):
                answers[name].append(answer[who])
    rows = sum(map(len, users))
    return [
        TaskRows(
            name,
            np.concatenate(users),
            np.concatenate(now),
            np.concatenate(answers[name]),
            np.concatenate(split),
            np.zeros((rows, 0), np.float32),
            asks=np.full(rows, i, np.int64),
        )
        for i, name in enumerate(TASKS)
    ]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Per customer, within a span: bought, cancelled (bool), spent (float64, cancellations not taken off)."""

    bought: NDArray[np.bool_]
    cancelled: NDArray[np.bool_]
    spent: NDArray[np.float64]


def _sums(made: Invoices, start: int, end: int) -> _Sums:
    inside = (made.ts >= start) & (made.ts < end)
    bought, cancelled = inside & ~made.cancels, inside & made.cancels
    count = len(made.customers)
    return _Sums(
        np.bincount(made.who[bought], minlength=count) > 0,
        np.bincount(made.who[cancelled], minlength=count) > 0,
        np.bincount(made.who[bought], made.value[bought], minlength=count).astype(np.float64),
    )
