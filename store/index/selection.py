"""Which rows take part in a search: those of one model, within its filters; brought up to date between two looks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store.index.row_table import RowTable


@dataclass(frozen=True, slots=True)
class Filters:
    """allow: only these users; None = all. deny: never these. min_score: nothing below. Unknown ids are ignored."""

    allow: Collection[str] | None = None
    deny: Collection[str] = ()
    min_score: float | None = None


class Selection:
    """Made once for all queries of a request. The caller holds the index's lock for every call.

    mask: bool (places,), whether the row takes part. count: how many do.
    """

    def __init__(self, table: RowTable, model_code: int, filters: Filters) -> None:
        self._model = model_code
        self._filters = filters
        self._seen = table.writes
        self.mask: NDArray[np.bool_] = table.live_mask(model_code)
        if filters.allow is not None:
            allowed = np.zeros(len(self.mask), bool)
            allowed[table.places(filters.allow)] = True
            self.mask &= allowed
        if filters.deny:
            self.mask[table.places(filters.deny)] = False
        self.count = int(np.count_nonzero(self.mask))

    def refresh(self, table: RowTable) -> NDArray[np.int64]:
        """Take in what was written since the last look; returns the places that were."""
        if table.writes == self._seen:
            return np.zeros(0, np.int64)
        changed = table.written_after(self._seen)
        self._seen = table.writes
        if table.used > len(self.mask):
            self.mask = np.concatenate([self.mask, np.zeros(table.used - len(self.mask), bool)])
        self.mask[changed] = [self._takes_part(table, row) for row in changed.tolist()]
        self.count = int(np.count_nonzero(self.mask))
        return changed

    def _takes_part(self, table: RowTable, row: int) -> bool:
        # -1 where nobody is, and as the code of a model that nobody has
        if (model := table.model_at(row)) < 0 or model != self._model:
            return False
        user, allow = table.user(row), self._filters.allow
        return (allow is None or user in allow) and user not in self._filters.deny
