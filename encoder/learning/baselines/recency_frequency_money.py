"""Recency, frequency and money of Online Retail's customers: 43 features that a learned vector has to reach there."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoder.learning.baselines.pairs import of_pairs
from encoder.learning.tasks.online_retail import Invoices

WIDTHS: Final = (7, 14, 28, 56, 90, 400)
COUNT: Final = 6 * len(WIDTHS) + 7

_DAY_MS = 86_400_000

Doubles = NDArray[np.float64]


class RecencyFrequencyMoney:
    """Features of all customers at any time; NaN = there is nothing to say."""

    def __init__(self, invoices: Invoices) -> None:
        self._all = invoices

    def at(self, shop_ms: int) -> Doubles:
        """float64 (customers, COUNT), from the invoices before a naive shop time, ms."""
        past = self._all.ts < shop_ms
        found = [self._counts(past & (self._all.ts >= shop_ms - width * _DAY_MS)) for width in WIDTHS]
        spent_28, spent_56 = (found[WIDTHS.index(width)][:, 1] for width in (28, 56))
        trend = spent_28 / (spent_56 - spent_28 + 1)
        return np.concatenate([*found, self._of_orders(past, shop_ms), trend[:, None]], axis=1)

    def of(self, customers: NDArray[np.int64], shop_times: NDArray[np.int64]) -> Doubles:
        """float64 (n, COUNT): of pairs of a customer's place and a shop time."""
        return of_pairs(self.at, customers, shop_times, COUNT)

    def _counts(self, within: NDArray[np.bool_]) -> Doubles:
        """Orders: how many, value, lines, articles; cancellations: how many, value."""
        made = self._all
        orders, cancels = within & ~made.cancels, within & made.cancels
        columns = [
            self._sum(orders, None), self._sum(orders, made.value), self._sum(orders, made.lines),
            self._sum(orders, made.kinds), self._sum(cancels, None), self._sum(cancels, made.value),
        ]  # fmt: skip
        return np.stack(columns, axis=1)

    def _of_orders(self, past: NDArray[np.bool_], shop_ms: int) -> Doubles:
        """Of all orders: days since newest and oldest, value's mean and deviation, mean gap, recency in gaps."""
        made, count = self._all, len(self._all.customers)
        orders = past & ~made.cancels
        newest, oldest = np.full(count, -np.inf), np.full(count, np.inf)
        np.maximum.at(newest, made.who[orders], made.ts[orders].astype(np.float64))
        np.minimum.at(oldest, made.who[orders], made.ts[orders].astype(np.float64))
        n, total = self._sum(orders, None), self._sum(orders, made.value)
        gaps = np.where(n > 1, n - 1, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / n
            apart = np.where(orders, made.value - mean[made.who], 0.0)
            deviation = np.sqrt(self._sum(orders, apart**2) / gaps)
            recency, age = (shop_ms - newest) / _DAY_MS, (shop_ms - oldest) / _DAY_MS
            gap = (age - recency) / gaps
            found = np.stack([recency, age, mean, deviation, gap, recency / gap], axis=1)
        return np.where(np.isfinite(found), found, np.nan)

    def _sum(self, rows: NDArray[np.bool_], amounts: NDArray[np.float64] | NDArray[np.int64] | None) -> Doubles:
        own = None if amounts is None else amounts[rows]
        return np.bincount(self._all.who[rows], own, len(self._all.customers)).astype(np.float64)
