"""AUC and KS, and how sure they are: a bootstrap over users, paired between methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


class Interval(NamedTuple):
    """Of 95 %."""

    low: float
    high: float


class Asked(NamedTuple):
    """What the scores of a task's rows are compared with. users: int64 (n,). y: bool (n,), both kinds among them."""

    users: NDArray[np.int64]
    y: NDArray[np.bool_]


def auc(scores: Doubles, y: NDArray[np.bool_], weights: Doubles | None = None) -> float:
    """Area under the ROC curve; equal scores count half.

    weights: of rows; NaN where one kind has none.
    """
    positive, negative = _at_each_score(scores, y, weights)
    below = np.cumsum(negative) - negative
    with np.errstate(invalid="ignore"):
        return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


def ks(scores: Doubles, y: NDArray[np.bool_]) -> float:
    """Kolmogorov and Smirnov's distance: the largest difference of the two kinds' cumulative shares."""
    positive, negative = _at_each_score(scores, y, None)
    shares = np.cumsum(positive) / positive.sum() - np.cumsum(negative) / negative.sum()
    return float(np.abs(shares).max())


def difference_of_means(
    tasks: Mapping[str, Asked],
    one: Mapping[str, Doubles],
    other: Mapping[str, Doubles],
    *,
    users: int,
    rounds: int = 200,
    seed: int = 0,
) -> dict[str, Interval]:
    """Interval of AUC(one) - AUC(other) per task, and of its mean over the tasks as `mean`.

    Users are drawn with replacement, the same for every task and both methods, with all rows of theirs. A draw without
    both kinds in some task says nothing of it.
    """
    rng = np.random.default_rng(seed)
    drawn = np.full((rounds, len(tasks)), np.nan)
    for row in drawn:
        times = np.bincount(rng.integers(0, users, users), minlength=users).astype(np.float64)
        for i, (name, asked) in enumerate(tasks.items()):
            weights = times[asked.users]
            row[i] = auc(one[name], asked.y, weights) - auc(other[name], asked.y, weights)
    columns = {**dict(zip(tasks, drawn.T, strict=True)), "mean": drawn.mean(axis=1)}
    return {name: Interval(*map(float, np.nanpercentile(column, (2.5, 97.5)))) for name, column in columns.items()}


def _at_each_score(scores: Doubles, y: NDArray[np.bool_], weights: Doubles | None) -> tuple[Doubles, Doubles]:
    """(weight of the positive rows, of the negative ones) at each distinct score, ascending."""
    _, place = np.unique(scores, return_inverse=True)
    own = np.ones(len(scores)) if weights is None else weights
    positive, negative = (np.bincount(place, np.where(kind, own, 0.0)).astype(np.float64) for kind in (y, ~y))
    return positive, negative
