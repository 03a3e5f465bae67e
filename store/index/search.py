"""Nearest users among the rows of a table: exact, filtered, stable; over as many holds of the index's lock as it takes.

A search scans blocks of rows for all its queries at once, and several blocks in one hold. Rows that are written between
two holds are noticed, and judged anew by the last one: an answer is what one look at the table would have given then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store.index import ranking
from store.index.ranking import Neighbor
from store.index.row_table import RowTable
from store.index.selection import Filters, Selection

OVERFETCH = 16
"""Candidates beyond k: enough that the k-th score is almost always clear of the first one not fetched."""
BLOCK_ROWS = 32_768
"""Scanned in one call: 16 MiB at most are copied, where few of them take part."""
TIED_ROWS = 1024
"""Scored exactly at once: half a MiB in float32, which stays in the cache."""
_NONE = np.zeros(0, np.int64)


class SearchStopped(Exception):
    """Nobody waits for the answer any more."""


def go_on(stop: Callable[[], bool]) -> None:
    """Raises SearchStopped if `stop` says so."""
    if stop():
        raise SearchStopped


@dataclass(frozen=True, slots=True)
class Answer:
    """Neighbours of one query. user_id: the user asked for, None for a vector. model: whose rows were searched.

    eligible: users that took part, after all filters but `min_score`.
    """

    user_id: str | None
    neighbors: list[Neighbor]
    model: str | None
    eligible: int


class ModelSearch:
    """The queries of one request among the rows of one model. The caller holds the index's lock for every call.

    Args:
        queries: float32 (q, dim), unit length, C-contiguous.
        owns: per query a place that must not be in its answer, or -1.
        selection: an earlier one of the same model and filters, to be brought up to date; None = make it.
    """

    def __init__(
        self,
        table: RowTable,
        queries: NDArray[np.float32],
        *,
        owns: Sequence[int],
        model_code: int,
        k: int,
        filters: Filters,
        selection: Selection | None = None,
    ) -> None:
        if selection is None:
            selection = Selection(table, model_code, filters)
        else:
            selection.refresh(table)
        self.selection = selection
        self.model = table.models[model_code] if model_code >= 0 else None
        self._queries = queries
        self._owns = owns
        self._k = k
        self._min_score = filters.min_score
        self._fetch = min(selection.count, k + OVERFETCH)
        self._is_all = self._fetch == selection.count
        self._stop = table.used if selection.count else 0
        self._at = 0
        self._scores = np.zeros((len(queries), 0), np.float32)
        self._rows = np.zeros((len(queries), 0), np.int64)
        self._changed = _NONE

    def scan(self, table: RowTable, products: int) -> bool:
        """Scan on for about so many products of a row and a query; whether it is over."""
        step = min(BLOCK_ROWS, max(1, products // max(1, len(self._queries))))
        left = products
        while self._at < self._stop and left > 0:
            stop = min(self._stop, self._at + step)
            self._take(table, self._at, stop)
            left -= (stop - self._at) * len(self._queries)
            self._at = stop
        return self._at >= self._stop

    def catch_up(self, table: RowTable) -> None:
        """Take in what was written since."""
        if len(changed := self.selection.refresh(table)):
            self._changed = np.union1d(self._changed, changed)

    def was_written(self, place: int) -> bool:
        """Whether a row was, between the first hold and `catch_up`."""
        at = int(np.searchsorted(self._changed, place))
        return at < len(self._changed) and int(self._changed[at]) == place

    def settle(self, table: RowTable, i: int) -> tuple[list[Neighbor], int] | None:
        """(neighbours, eligible users) of a query after the scan; None if only `resolve` can tell."""
        rows, scores, last = self._candidates(table, i)
        if last is not None and (len(rows) < self._k or _kth(scores, self._k)[0] <= last + ranking.KERNEL_ERROR):
            return None
        return self._answer(table, i, rows, scores)

    def resolve(self, table: RowTable, i: int) -> tuple[list[Neighbor], int]:
        """The same for a query whose ties, or what may be, reach past the candidates. Nothing was written since."""
        rows, scores, _ = self._candidates(table, i)
        kth, at = _kth(scores, self._k)
        rows, scores = self._tied(table, i, kth, table.matrix.rows[rows[at]])
        return self._answer(table, i, rows, scores)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _take(self, table: RowTable, start: int, stop: int) -> None:
        floor = self._scores.min(axis=1) if self._scores.shape[1] == self._fetch else None
        mask = self.selection.mask[start:stop]
        scores, rows = table.matrix.top(self._queries, self._fetch, start=start, stop=stop, mask=mask, floor=floor)
        scores = np.concatenate([self._scores, scores], axis=1)
        rows = np.concatenate([self._rows, rows], axis=1)
        if scores.shape[1] > self._fetch:
            best = np.argpartition(-scores, self._fetch - 1, axis=1)[:, : self._fetch]
            scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        self._scores, self._rows = scores, rows

    def _candidates(self, table: RowTable, i: int) -> tuple[NDArray[np.int64], NDArray[np.float64], float | None]:
        """(rows, their exact scores, the kernel's score of the worst row that the scan kept).

        The last is None if it kept every row that takes part.
        """
        rows = self._rows[i][self._rows[i] >= 0]
        if len(self._changed):
            changed = self._changed[self.selection.mask[self._changed]]
            rows = np.concatenate([np.setdiff1d(rows, self._changed, assume_unique=True), changed])
        rows = rows[rows != self._owns[i]]
        last = None if self._is_all else float(self._scores[i].min())
        return rows, ranking.exact_scores(table.matrix.rows[rows], self._queries[i]), last

    def _tied(
        self, table: RowTable, i: int, kth: float, like: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Of all rows that may score `kth` or more the k best by (score, user id), and perhaps some more.

        like: a row that scores `kth`. Rows equal to it, which are most where there are many, need not be scored.
        """
        query, vectors = self._queries[i], table.matrix.rows
        rows, scores = _NONE, np.zeros(0)
        for start in range(0, table.used, BLOCK_ROWS):
            stop = min(table.used, start + BLOCK_ROWS)
            kernel = table.matrix.products(query, start=start, stop=stop)
            near = start + np.flatnonzero((kernel >= kth - ranking.KERNEL_ERROR) & self.selection.mask[start:stop])
            near = near[near != self._owns[i]]
            for at in range(0, len(near), TIED_ROWS):
                part = near[at : at + TIED_ROWS]
                found = vectors[part]
                exact = np.full(len(part), kth)
                others = np.flatnonzero((found != like).any(axis=1))
                exact[others] = ranking.exact_scores(found[others], query)
                rows, scores = np.concatenate([rows, part]), np.concatenate([scores, exact])
                if len(rows) > 2 * self._k + TIED_ROWS:
                    best = ranking.best(scores, rows, table.user, self._k)
                    rows, scores = rows[best], scores[best]
        return rows, scores

    def _answer(
        self, table: RowTable, i: int, rows: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> tuple[list[Neighbor], int]:
        neighbors = ranking.rank(scores, [table.user(row) for row in rows.tolist()], self._k, self._min_score)
        own = self._owns[i]
        return neighbors, self.selection.count - int(own >= 0 and bool(self.selection.mask[own]))


def _kth(scores: NDArray[np.float64], k: int) -> tuple[float, int]:
    """The k-th best score (or the worst, of fewer), and where it is."""
    at = int(np.argpartition(scores, max(0, len(scores) - k))[max(0, len(scores) - k)])
    return float(scores[at]), at
