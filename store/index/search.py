"""Nearest users among the rows of a table: exact, filtered, stable. The caller holds the index's lock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store.index import ranking
from store.index.ranking import Neighbor
from store.index.row_table import RowTable

OVERFETCH = 16
"""Candidates beyond k: enough that the k-th score is almost always clear of the first one not fetched."""


class SearchStopped(Exception):
    """Nobody waits for the answer any more."""


def go_on(stop: Callable[[], bool]) -> None:
    """Raises SearchStopped if `stop` says so."""
    if stop():
        raise SearchStopped


@dataclass(frozen=True, slots=True)
class Filters:
    """allow: only these users; None = all. deny: never these. min_score: nothing below. Unknown ids are ignored."""

    allow: Collection[str] | None = None
    deny: Collection[str] = ()
    min_score: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Neighbours of one query. user_id: the user asked for, None for a vector. model: whose rows were searched.

    eligible: users that took part, after all filters but `min_score`.
    """

    user_id: str | None
    neighbors: list[Neighbor]
    model: str | None
    eligible: int


def nearest(
    table: RowTable,
    queries: NDArray[np.float32],
    *,
    excluded: Sequence[str | None],
    model_code: int,
    k: int,
    filters: Filters,
) -> list[tuple[list[Neighbor], int]]:
    """(neighbours, eligible users) per query.

    Args:
        queries: float32 (q, dim), unit length, C-contiguous.
        excluded: per query a live user who must not be in its answer, or None.
    """
    selected, count = _eligible(table, model_code, filters)
    if not count:
        return [([], 0) for _ in excluded]
    fetch = min(count, k + OVERFETCH)
    scores, rows = table.matrix.top(queries, fetch, used=table.used, selected=selected)
    out = []
    for query, found, found_scores, user in zip(queries, rows, scores, excluded, strict=True):
        own = -1 if user is None else table.rows[user]
        candidates = found[(found >= 0) & (found != own)]
        last = None if fetch == count else float(found_scores[-1])
        best, exact = _settle(table, query, k, candidates, last, selected, own)
        neighbors = ranking.rank(exact, [table.user(row) for row in best.tolist()], k, filters.min_score)
        out.append((neighbors, count - _contains(selected, own)))
    return out


def _eligible(table: RowTable, model_code: int, filters: Filters) -> tuple[NDArray[np.int64] | None, int]:
    """(rows, how many); rows is None when it is the whole used prefix."""
    mask = table.live_mask(model_code)
    if filters.allow is not None:
        chosen = np.zeros(len(mask), bool)
        chosen[table.places(filters.allow)] = True
        mask &= chosen
    if filters.deny:
        mask[table.places(filters.deny)] = False
    count = int(np.count_nonzero(mask))
    return (None if count == len(mask) else np.flatnonzero(mask)), count


def _settle(
    table: RowTable,
    query: NDArray[np.float32],
    k: int,
    found: NDArray[np.int64],
    last_found: float | None,
    selected: NDArray[np.int64] | None,
    own: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Every row that can be among the k best under any order of ties, with exact scores.

    last_found: the kernel's score of the worst row it returned; None = it returned every eligible row.
    """
    vectors = table.matrix.rows
    scores = ranking.exact_scores(vectors[found], query)
    if last_found is None:
        return found, scores
    kth = float(np.partition(scores, len(scores) - k)[len(scores) - k])
    if kth > last_found + ranking.KERNEL_ERROR:
        return found, scores
    # ties, or what may be ties, reach past what was fetched
    near = vectors[: table.used] @ query >= kth - ranking.KERNEL_ERROR
    rows = np.flatnonzero(near) if selected is None else selected[near[selected]]
    rows = rows[rows != own]
    return rows, ranking.exact_scores(vectors[rows], query)


def _contains(selected: NDArray[np.int64] | None, row: int) -> int:
    if row < 0:
        return 0
    if selected is None:
        return 1
    at = int(np.searchsorted(selected, row))
    return int(at < len(selected) and selected[at] == row)
