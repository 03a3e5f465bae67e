"""Numbers the adapters see besides text vectors: pure functions of a user's rows, relative to `as_of`."""

from __future__ import annotations

from collections.abc import Sequence
from math import log1p, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store.base.settings import ModalityKind, ModalitySettings
from store.window.user_window import ModalityWindow

VERSION = 1
"""Part of the model id: other features are another model."""

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
EPOCH_MS = 1_577_836_800_000
"""2020-01-01 UTC, the origin of rotary positions. Attention only sees differences; a near origin keeps them exact."""

RECENT_DAYS = (1, 7, 28)
_RECENT_MS = np.array(RECENT_DAYS, np.int64) * DAY_MS
STATS = 6 + len(RECENT_DAYS)
"""Statistics of a set of rows: any, log count, log recency, log span, log rate, norm of the mean, recent counts."""
STATS_PER_NUMBER = 3
"""Of each configured number: mean of signed logs, signed log of the total, share of rows that carry it."""

Floats = NDArray[np.float32]


class Numbers(NamedTuple):
    """values: signed logs, 0 where missing; present: 1 or 0. Both float32 (n, k)."""

    values: Floats
    present: Floats


class SummaryFeatures(NamedTuple):
    """Input of one summary token. mean: float32 (dim,). stats: float32 (STATS + STATS_PER_NUMBER * k,)."""

    mean: Floats
    stats: Floats


def number_count(settings: ModalitySettings) -> int:
    """How many numbers a row of the modality carries: those configured; one for a tabular field, its numeric value."""
    return 1 if settings.kind is ModalityKind.TABULAR else len(settings.numbers)


def hours(ts: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """Rotary position of an event time: hours since `EPOCH_MS`."""
    return (np.asarray(ts, np.int64) - EPOCH_MS) / HOUR_MS


def signed_log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(x) * log(1 + |x|): magnitudes on one scale, signs kept."""
    return np.sign(x) * np.log1p(np.abs(x))


def numbers(raw: Floats, k: int) -> Numbers:
    """Raw numbers (n, any) → (n, k): missing, infinite and absent columns count as missing."""
    n, have = raw.shape
    values = np.full((n, k), np.nan)
    values[:, : min(have, k)] = raw[:, :k]
    present = np.isfinite(values)
    return Numbers(
        signed_log(np.where(present, values, 0.0)).astype(np.float32),
        present.astype(np.float32),
    )


def modality_summary(window: ModalityWindow | None, as_of: int, dim: int, k: int) -> SummaryFeatures:
    """Features of one modality's summary token; zeros when the user has no rows of it."""
    stats = np.zeros(STATS + STATS_PER_NUMBER * k, np.float32)
    if window is None or not len(window.ts):
        return SummaryFeatures(np.zeros(dim, np.float32), stats)
    mean = (window.summary.vector_sum / np.float32(len(window.ts))).astype(np.float32)
    stats[:STATS] = _time_stats([window.ts], as_of, mean)
    if k:
        raw = np.full((len(window.ts), k), np.nan)
        raw[:, : min(window.numbers.shape[1], k)] = window.numbers[:, :k]
        present = np.isfinite(raw)
        raw[~present] = 0.0
        counts = present.sum(0)
        per_number = np.stack(
            [
                signed_log(raw).sum(0) / np.maximum(counts, 1),
                signed_log(raw.sum(0)) / 2,
                counts / len(raw),
            ]
        )
        stats[STATS:] = per_number.T.reshape(-1)
    return SummaryFeatures(mean, stats)


def user_summary(
    times: Sequence[NDArray[np.int64]], as_of: int, summaries: Sequence[SummaryFeatures]
) -> SummaryFeatures:
    """Features of the user token: plain mean of the modality means (missing ones are zeros and count), total activity.

    Args:
        times: event times per modality that has rows, ascending. summaries: of every modality.
    """
    mean = np.stack([s.mean for s in summaries]).astype(np.float64).mean(axis=0).astype(np.float32)
    stats = _time_stats(times, as_of, mean) if times else np.zeros(STATS, np.float32)
    return SummaryFeatures(mean, stats)


def _time_stats(times: Sequence[NDArray[np.int64]], as_of: int, mean: Floats) -> Floats:
    n = sum(map(len, times))
    age = as_of - max(int(ts[-1]) for ts in times)
    span = as_of - min(int(ts[0]) for ts in times)
    since = as_of - _RECENT_MS
    recent = n - sum(np.searchsorted(ts, since, side="right") for ts in times)
    return np.array(
        [
            1.0,
            log1p(n) / 3,
            log1p(age / HOUR_MS) / 4,
            log1p(span / HOUR_MS) / 4,
            log1p(n / max(span / DAY_MS, 1.0)),
            sqrt(mean @ mean),
            *(np.log1p(recent) / 3),
        ],
        np.float32,
    )
