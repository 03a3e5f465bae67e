"""What is counted of a user besides texts: one table of named statistics, computed for many users at once.

Every statistic is a function of a window's rows, of what memory holds before them, and of the time it stands at
(`as_of`), whatever the order of arrival and whoever is computed beside. Values are finite and within `BOUND`: counts,
times and amounts enter as logarithms. Of a span that reaches beyond the window, memory's rows count by the share of
their block that lies in it. Days and hours are those of a time zone; blocks of 28 days are counted from 1970, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from encoder.statistics import counting
from encoder.statistics.table import ACTIVITY, NUMBER, TEXTS
from encoder.statistics.window_arrays import Floats, Ints, gather
from store.base.settings import ModalityKind, ModalitySettings
from store.window.user_window import UserWindow


class Statistics(NamedTuple):
    """Of each user and modality, in the modalities' order, and of the user as a whole.

    as_of: int64 (users,), ms. means: float32 (users, modalities + 1, dim), the last the user's: mean of the
    modalities', those without rows zeros. stats: float32 (users, statistics of the modalities, then the user's).
    match: float32 (users, modalities + 1, modalities), cosine of the first's newest rows and the second's mean; 0 of a
    modality with itself, where either has no rows, and in the last, the user's.
    """

    as_of: Ints
    means: Floats
    stats: Floats
    match: Floats


def modality_names(settings: ModalitySettings) -> list[str]:
    """Names of the statistics of one modality."""
    numbers = ("value",) if settings.kind is ModalityKind.TABULAR else settings.numbers
    return [*ACTIVITY, *TEXTS, *(f"{number}.{name}" for number in numbers for name in NUMBER)]


def names(modalities: Mapping[str, ModalitySettings]) -> list[str]:
    """Names of the columns of `compute`: `bill.recency`, `bill.amount.total_28d`, `user.count`, `bill.match.search`."""
    return [
        *(f"{name}.{each}" for name, settings in modalities.items() for each in modality_names(settings)),
        *(f"user.{name}" for name in ACTIVITY),
        *(f"{one}.match.{other}" for one in modalities for other in modalities if one != other),
    ]


def compute(windows: Sequence[UserWindow], modalities: Mapping[str, ModalitySettings], zone: str = "UTC") -> Floats:
    """All statistics of users as flat vectors, float32 (users, len(names(modalities))); pure.

    Args:
        zone: IANA name of the time zone of hours and days.
    """
    dims = [m.vectors.shape[1] for window in windows for m in window.modalities.values()]
    got = describe(windows, modalities, max(dims, default=1), zone)
    count = len(modalities)
    pairs = ~np.eye(count + 1, count, dtype=bool)
    pairs[count] = False
    return np.concatenate([got.stats, got.match[:, pairs]], 1)


def describe(
    windows: Sequence[UserWindow], modalities: Mapping[str, ModalitySettings], dim: int, zone: str = "UTC"
) -> Statistics:
    """Statistics of users, as the model takes them. Modalities that are not named are left out; pure.

    Args:
        dim: of event vectors. zone: see `compute`.
    """
    rows = gather(windows, modalities, dim)
    users, count = rows.users, rows.modalities
    spans = counting.Spans.of(rows)
    user_mean = rows.means.mean(0, dtype=np.float64, keepdims=True)
    means = np.concatenate([rows.means, user_mean.astype(np.float32)])
    activity = counting.activity(rows, spans, means, zone).reshape(count + 1, users, len(ACTIVITY))
    texts = counting.texts(rows).reshape(count, users, len(TEXTS))
    numbers = counting.numbers(rows, spans).reshape(rows.columns, users, len(NUMBER))
    parts, column = [], 0
    for i, settings in enumerate(modalities.values()):
        width = settings.number_width
        parts += [activity[i], texts[i], *numbers[column : column + width]]
        column += width
    stats = np.concatenate([*parts, activity[count]], 1)
    return Statistics(rows.as_of, means.swapaxes(0, 1), stats, np.moveaxis(counting.match(rows), -1, 0))
