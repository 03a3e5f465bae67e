"""The rows of an index: a place per user, what stands there, and which places are free. No locks: the index has one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sortedcontainers import SortedList

from store.index.matrix import Matrix
from store.index.row_meta import RowMeta, unpack_meta
from store.records.embedding import EmbeddingRecord


class StoredRecord(NamedTuple):
    """A user's record as it is served. partition, offset: where it was read. applied_at: ms."""

    record: EmbeddingRecord
    partition: int
    offset: int
    applied_at: int


class RowChunk(NamedTuple):
    """Live rows copied as of one moment. vectors: float32 (n, dim)."""

    users: list[str]
    partitions: NDArray[np.int32]
    offsets: NDArray[np.int64]
    metas: list[bytes]
    vectors: NDArray[np.float32]


class _Columns(NamedTuple):
    """One value per place; all arrays are `capacity` long."""

    matrix: Matrix
    live: NDArray[np.bool_]
    partitions: NDArray[np.int32]
    offsets: NDArray[np.int64]
    models: NDArray[np.int32]
    written: NDArray[np.int64]

    @classmethod
    def empty(cls, capacity: int, dim: int) -> _Columns:
        return cls(
            Matrix(capacity, dim),
            np.zeros(capacity, bool),
            np.full(capacity, -1, np.int32),
            np.full(capacity, -1, np.int64),
            np.full(capacity, -1, np.int32),
            np.zeros(capacity, np.int64),
        )

    def arrays(self) -> list[NDArray[Any]]:
        """All columns but the matrix."""
        return [self.live, self.partitions, self.offsets, self.models, self.written]


class RowTable:
    """Places [0, used) were ever taken; `rows` maps live users to theirs.

    A place keeps its user until the user goes; then it is zeroed, not live, and the next new user gets it.
    """

    def __init__(self, dim: int, capacity: int) -> None:
        self.dim = dim
        self.used = 0
        self.rows: dict[str, int] = {}
        self.models: list[str] = []
        self.model_users: list[int] = []
        """Live users per model code."""
        self.order: SortedList[str] = SortedList()
        """Live users in order of their ids."""
        self.writes = 0
        """Rows written or cleared so far."""
        self._columns = _Columns.empty(capacity, dim)
        self._users: list[str | None] = []
        self._metas: list[bytes] = []
        self._free: list[int] = []

    @property
    def matrix(self) -> Matrix:
        """Vectors, one row per place; those not live are zero."""
        return self._columns.matrix

    def user(self, row: int) -> str:
        """The user at a live place."""
        user = self._users[row]
        assert user is not None, "a live row has a user"
        return user

    def meta(self, row: int) -> RowMeta:
        """Metadata of a live place."""
        return unpack_meta(self._metas[row])

    def version(self, row: int) -> tuple[int, int]:
        """(partition, offset) of the record at a live place."""
        return int(self._columns.partitions[row]), int(self._columns.offsets[row])

    def model_code(self, model: str) -> int:
        """Code of a model some row had; -1 for any other."""
        return self.models.index(model) if model in self.models else -1

    def main_model(self) -> int:
        """Code of the model that most users have; -1 if there are no rows."""
        return int(np.argmax(self.model_users)) if any(self.model_users) else -1

    def model_codes(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Codes of live places."""
        return self._columns.models[rows]

    def places(self, users: Iterable[str]) -> NDArray[np.int64]:
        """Places of the known ones among `users`, in their order."""
        return np.array([row for user in users if (row := self.rows.get(user)) is not None], np.int64)

    def model_at(self, row: int) -> int:
        """Code of the model at a place, -1 where nobody is."""
        return int(self._columns.models[row])

    def written_after(self, writes: int) -> NDArray[np.int64]:
        """Places written or cleared since `self.writes` was this, ascending."""
        return np.flatnonzero(self._columns.written[: self.used] > writes)

    def live_mask(self, model_code: int) -> NDArray[np.bool_]:
        """(used,): live and of this model. A copy."""
        if model_code >= 0 and self.model_users[model_code] == self.used:
            return np.ones(self.used, bool)
        live: NDArray[np.bool_] = self._columns.live[: self.used] & (self._columns.models[: self.used] == model_code)
        return live

    def stored(self, user_id: str, scenario: str) -> StoredRecord:
        """The record of a live user, its vector copied."""
        row = self.rows[user_id]
        meta = self.meta(row)
        record = EmbeddingRecord(
            user_id=user_id,
            scenario=scenario,
            model=meta.model,
            as_of=meta.as_of,
            ingested_at=meta.ingested_at,
            computed_at=meta.computed_at,
            vector=self.matrix.rows[row].copy(),
            covers=meta.covers,
            events=meta.events,
            newest_event=meta.newest_event,
        )
        return StoredRecord(record, *self.version(row), meta.applied_at)

    def after(self, user_id: str, limit: int) -> list[str]:
        """The first `limit` live users above a user id ("" = from the beginning), in order."""
        following = self.order.irange(user_id or None, None, inclusive=(False, True))
        return list(itertools.islice(following, limit))

    def copy(self, start: int, stop: int) -> RowChunk | None:
        """Live rows among places [start, stop); None past the last place."""
        stop = min(stop, self.used)
        if start >= stop:
            return None
        places = start + np.flatnonzero(self._columns.live[start:stop])
        listed: list[int] = places.tolist()
        return RowChunk(
            [self.user(row) for row in listed],
            self._columns.partitions[places],
            self._columns.offsets[places],
            [self._metas[row] for row in listed],
            self.matrix.rows[places],
        )

    def grown(self, new_users: int) -> _Columns | None:
        """Larger columns if so many new users do not fit, for `swap`. Only reads, so it needs no lock of readers."""
        need = self.used + max(0, new_users - len(self._free))
        if need <= self.matrix.capacity:
            return None
        bigger = _Columns.empty(max(need, 2 * self.matrix.capacity), self.dim)
        bigger.matrix.rows[: self.used] = self.matrix.rows[: self.used]
        for new, old in zip(bigger.arrays(), self._columns.arrays(), strict=True):
            new[: self.used] = old[: self.used]
        return bigger

    def swap(self, columns: _Columns) -> None:
        """Take over what `grown` made; the old memory must not be in use any more."""
        self._columns = columns

    def put(
        self, user: str, version: tuple[int, int], vector: NDArray[np.float32], meta: bytes, model: str | None = None
    ) -> None:
        """Insert or overwrite a user's row; there must be room. `model`: as in `meta`, if the caller knows it."""
        row = self.rows.get(user)
        if row is None:
            row = self._take(user)
        else:
            self.model_users[self._columns.models[row]] -= 1
        code = self._code(unpack_meta(meta).model if model is None else model)
        columns = self._columns
        columns.matrix.rows[row] = vector
        columns.live[row] = True
        columns.partitions[row], columns.offsets[row] = version
        columns.models[row] = code
        self._mark(row)
        self.model_users[code] += 1
        self._metas[row] = meta

    def clear(self, user: str) -> None:
        """Remove a live user: its row zeroed, its place free."""
        row = self.rows.pop(user)
        columns = self._columns
        columns.matrix.rows[row] = 0.0
        columns.live[row] = False
        columns.partitions[row] = columns.offsets[row] = -1
        self.model_users[columns.models[row]] -= 1
        columns.models[row] = -1
        self._users[row] = None
        self._metas[row] = b""
        self._free.append(row)
        self._mark(row)
        self.order.remove(user)

    def _take(self, user: str) -> int:
        if self._free:
            row = self._free.pop()
            self._users[row] = user
        else:
            row = self.used
            self.used += 1
            self._users.append(user)
            self._metas.append(b"")
        self.rows[user] = row
        self.order.add(user)
        return row

    def _mark(self, row: int) -> None:
        self.writes += 1
        self._columns.written[row] = self.writes

    def _code(self, model: str) -> int:
        if model not in self.models:
            self.models.append(model)
            self.model_users.append(0)
        return self.models.index(model)
