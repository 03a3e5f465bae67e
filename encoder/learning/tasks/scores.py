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
    return _Ranked.of(scores, y).auc(np.ones(len(y)) if weights is None else weights)


def ks(scores: Doubles, y: NDArray[np.bool_]) -> float:
    """Kolmogorov and Smirnov's distance: the largest difference of the two kinds' cumulative shares."""
    positive, negative = _Ranked.of(scores, y).at_each_score(np.ones(len(y)))
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
    ranked = [[_Ranked.of(scores[name], asked.y) for scores in (one, other)] for name, asked in tasks.items()]
    drawn = np.full((rounds, len(tasks)), np.nan)
    for row in drawn:
        times = np.bincount(rng.integers(0, users, users), minlength=users).astype(np.float64)
        for i, (asked, (first, second)) in enumerate(zip(tasks.values(), ranked, strict=True)):
            weights = times[asked.users]
            row[i] = first.auc(weights) - second.auc(weights)
    columns = {**dict(zip(tasks, drawn.T, strict=True)), "mean": drawn.mean(axis=1)}
    return {name: Interval(*map(float, np.nanpercentile(column, (2.5, 97.5)))) for name, column in columns.items()}


class _Ranked(NamedTuple):
    """Rows by score. place: int64 (n,), of a row's score among the distinct ones, ascending."""

    place: NDArray[np.intp]
    y: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Doubles, y: NDArray[np.bool_]) -> _Ranked:
        return cls(np.unique(scores, return_inverse=True)[1], y)

    def at_each_score(self, weights: Doubles) -> tuple[Doubles, Doubles]:
        """(weight of the positive rows, of the negative ones) at each distinct score."""
        positive, negative = (
            np.bincount(self.place, np.where(kind, weights, 0.0)).astype(np.float64) for kind in (self.y, ~self.y)
        )
        return positive, negative

    def auc(self, weights: Doubles) -> float:
        positive, negative = self.at_each_score(weights)
        below = np.cumsum(negative) - negative
        with np.errstate(invalid="ignore"):
            return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
