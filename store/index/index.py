"""One exact index per scenario: who looks like whom, now.

One thread writes (the tail), many read. A write becomes visible as a whole batch together with the offsets it reaches;
no reader ever sees half a row, a user twice, or an erased user (`ReadWriteLock`). Rows keep their place while a user
lives, so that a coarser structure can be laid over them.

The last write wins by the offset of the record in its partition. An erased user leaves a tombstone: the offset, and
what the erased row covered, because an embedding computed before the erasure can still arrive after it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store.index import ranking
from store.index.door import Checked, Entry, Refusal, Refused, check
from store.index.matrix import BLAS_QUERIES
from store.index.ranking import Neighbor
from store.index.read_write_lock import ReadWriteLock
from store.index.row_meta import Coverage, pack_meta
from store.index.row_table import RowChunk, RowTable, StoredRecord
from store.index.search import Answer, ModelSearch, go_on
from store.index.selection import Filters, Selection
from store.index.watchers import Watchers
from store.records.embedding import DIM, EmbeddingRecord
from store.records.scenario import CONFIGURED

SCAN_PRODUCTS = 1_000_000
"""Of a row and a query, under one hold of the lock: about 30 ms, the longest the writer waits for a reader."""
BLAS_PRODUCTS = 6_000_000
"""The same where there are queries enough for BLAS."""
SETTLED = 32
"""Queries whose candidates are ranked under one hold."""
_ALL = Filters()


class Tombstone(NamedTuple):
    """An erased user.

    covers: what the erased row covered, {} if none was known. erased_at: timestamp of the erasure, ms.
    """

    partition: int
    offset: int
    covers: dict[str, int]
    erased_at: int


@dataclass(slots=True)
class Applied:
    """What a batch did. superseded: entries that were older than what is known, or computed before an erasure."""

    upserted: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    superseded: int = 0
    refused: list[Refused] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """missing: users asked for that have no row.

    applied: next offset per partition; every record below it had been seen. generation: grows with every batch.
    """

    answers: list[Answer]
    missing: list[str]
    generation: int
    applied: dict[int, int]


class ScenarioIndex:
    """Embeddings of one scenario. `apply`, `mark_applied`, `restore_*`, `prune_tombstones`: the writer thread only.

    registration: of the scenario; records of another life of its name are refused.
    """

    def __init__(self, scenario: str, *, dim: int = DIM, capacity: int = 1024, registration: int = CONFIGURED) -> None:
        self.scenario = scenario
        self.dim = dim
        self.registration = registration
        self._lock = ReadWriteLock()
        self._table = RowTable(dim, capacity)
        self._tombstones: dict[str, Tombstone] = {}
        self._applied: dict[int, int] = {}
        self._generation = 0
        self.watchers = Watchers()
        """Told of the users of every batch, once it is visible."""

    # reading: any thread

    def __len__(self) -> int:
        return len(self._table.rows)

    @property
    def generation(self) -> int:
        """Batches applied so far; within one process equal generations have equal contents."""
        return self._generation

    @property
    def tombstones(self) -> int:
        """Erased users remembered."""
        return len(self._tombstones)

    def applied(self) -> dict[int, int]:
        """Next offset to read per partition."""
        with self._lock.read():
            return dict(self._applied)

    def models(self) -> dict[str, int]:
        """Live users per model id, the model of most users first."""
        with self._lock.read():
            pairs = zip(self._table.model_users, self._table.models, strict=True)
            return {model: users for users, model in sorted(pairs, reverse=True) if users}

    def get(self, user_id: str) -> StoredRecord | None:
        """A user's record, None if there is none."""
        with self._lock.read():
            return self._table.stored(user_id, self.scenario) if user_id in self._table.rows else None

    def coverage(self, user_id: str) -> Coverage | None:
        """What this user's row covers, or their erased row covered; None for a user never seen."""
        with self._lock.read():
            if (row := self._table.rows.get(user_id)) is not None:
                meta = self._table.meta(row)
                return Coverage(meta.covers, meta.applied_at)
            tombstone = self._tombstones.get(user_id)
            if tombstone is None:
                return None
            return Coverage(tombstone.covers, tombstone.erased_at, tombstone.erased_at)

    def page(self, after: str, limit: int) -> list[StoredRecord]:
        """Up to `limit` records in order of user id, those above `after`; each as it is now."""
        with self._lock.read():
            users = self._table.after(after, limit)
            return [self._table.stored(user, self.scenario) for user in users]

    def search(
        self,
        vectors: NDArray[np.float32],
        *,
        k: int,
        filters: Filters = _ALL,
        model: str | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> SearchResult:
        """Nearest users of each vector: exact, filled up to k from those eligible.

        Args:
            vectors: float32 (q, dim), of any length but zero.
            model: search the rows of this model; None = the one that most users have. Models are never mixed.
            stop: asked between two holds of the lock; the search ends when it says so.

        Raises:
            ValueError: wrong shape, a value not finite, or a zero vector. SearchStopped.
        """
        queries = ranking.unit(vectors, self.dim)
        with self._lock.read():
            generation, applied = self._generation, dict(self._applied)
            code = self._table.main_model() if model is None else self._table.model_code(model)
            owns = [-1] * len(queries)
            search = ModelSearch(self._table, queries, owns=owns, model_code=code, k=k, filters=filters)
            scanned = search.scan(self._table, _products(len(queries)))
        self._finish(search, scanned, len(queries), stop)
        found: list[tuple[list[Neighbor], int] | None] = []
        for at in range(0, len(queries), SETTLED):
            go_on(stop)
            with self._lock.read():
                search.catch_up(self._table)
                found += [search.settle(self._table, i) for i in range(at, min(at + SETTLED, len(queries)))]
        answers: list[Answer] = []
        for i, settled in enumerate(found):
            if settled is None:
                go_on(stop)
                with self._lock.read():
                    settled = self._alone(queries[i], -1, code, k, filters, search.selection)
            answers.append(Answer(None, settled[0], search.model, settled[1]))
        return SearchResult(answers, [], generation, applied)

    def search_users(
        self,
        user_ids: Sequence[str],
        *,
        k: int,
        exclude_self: bool = True,
        filters: Filters = _ALL,
        stop: Callable[[], bool] = lambda: False,
    ) -> SearchResult:
        """Nearest users of each known user, among the rows of that user's model.

        A user's vector and their neighbours are of the same moment. Raises SearchStopped.
        """
        answers: dict[int, Answer] = {}
        searches: list[tuple[list[int], ModelSearch, bool]] = []
        with self._lock.read():
            generation, applied = self._generation, dict(self._applied)
            known = [i for i, user in enumerate(user_ids) if user in self._table.rows]
            rows = self._table.places(user_ids[i] for i in known)
            codes = self._table.model_codes(rows)
            budget = _products(len(known))
            for code in np.unique(codes).tolist():
                mine = np.flatnonzero(codes == code)
                queries = np.ascontiguousarray(self._table.matrix.rows[rows[mine]])
                owns = rows[mine].tolist() if exclude_self else [-1] * len(mine)
                search = ModelSearch(self._table, queries, owns=owns, model_code=code, k=k, filters=filters)
                searches.append(([known[i] for i in mine.tolist()], search, search.scan(self._table, budget)))
        places = dict(zip(known, rows.tolist(), strict=True))
        for asked, search, scanned in searches:
            self._finish(search, scanned, len(asked), stop)
            for at in range(0, len(asked), SETTLED):
                go_on(stop)
                with self._lock.read():
                    search.catch_up(self._table)
                    for n, i in enumerate(asked[at : at + SETTLED], at):
                        settled = None if search.was_written(places[i]) else search.settle(self._table, n)
                        if settled is not None:
                            answers[i] = Answer(user_ids[i], settled[0], search.model, settled[1])
            for i in asked:
                if i not in answers:
                    go_on(stop)
                    with self._lock.read():
                        if (answer := self._user_alone(user_ids[i], exclude_self, k, filters, search)) is not None:
                            answers[i] = answer
        missing = [user for i, user in enumerate(user_ids) if i not in answers]
        return SearchResult([answers[i] for i in sorted(answers)], missing, generation, applied)

    # writing: one thread

    def apply(self, batch: Sequence[Entry], *, now_ms: int) -> Applied:
        """Upsert and erase, in the order given; all of it is visible when this returns.

        An entry is ignored (superseded) if its offset is not above the user's, or if the user was erased and it covers
        nothing newer than the erased row did: it was computed before the erasure.
        """
        out = Applied()
        for part in _parts(batch, self._tombstones):
            self._apply(part, now_ms, out)
        self.watchers.tell(out.upserted | out.erased)
        return out

    def mark_applied(self, positions: Mapping[int, int]) -> None:
        """The tail has seen everything below these offsets (gaps of compaction have no record to say so)."""
        with self._lock.write():
            for partition, offset in positions.items():
                self._advance(partition, offset)

    def prune_tombstones(self, *, before_ms: int) -> int:
        """Forget users erased before this time, when no record older than their erasure can arrive any more."""
        old = [user for user, tombstone in self._tombstones.items() if tombstone.erased_at < before_ms]
        with self._lock.write():
            for user in old:
                del self._tombstones[user]
        return len(old)

    # snapshots

    def copy_rows(self, start: int, stop: int) -> RowChunk | None:
        """Live rows among places [start, stop), as of one moment; None past the last. Any thread."""
        with self._lock.read():
            return self._table.copy(start, stop)

    def copy_tombstones(self) -> dict[str, Tombstone]:
        """All tombstones, as of one moment. Any thread."""
        with self._lock.read():
            return dict(self._tombstones)

    def restore_rows(self, chunk: RowChunk) -> None:
        """Rows of a snapshot; a user in two chunks keeps the newer row."""
        self._make_room(len(chunk.users))
        with self._lock.write():
            for i, user in enumerate(chunk.users):
                version = int(chunk.partitions[i]), int(chunk.offsets[i])
                row = self._table.rows.get(user)
                if row is None or self._table.version(row)[1] < version[1]:
                    self._table.put(user, version, chunk.vectors[i], chunk.metas[i])
            self._generation += 1

    def restore_tombstones(self, tombstones: Mapping[str, Tombstone], applied: Mapping[int, int]) -> None:
        """The end of a restore: tombstones win over older rows; reading goes on at `applied`."""
        with self._lock.write():
            for user, tombstone in tombstones.items():
                row = self._table.rows.get(user)
                if row is not None and self._table.version(row)[1] > tombstone.offset:
                    continue
                if row is not None:
                    self._table.clear(user)
                self._tombstones[user] = tombstone
            self._applied = dict(applied)
            self._generation += 1

    # inside the lock, or on the writer thread (the only one that changes what it reads)

    def _finish(self, search: ModelSearch, scanned: bool, queries: int, stop: Callable[[], bool]) -> None:
        """Scan to the end, hold by hold. Not inside the lock."""
        while not scanned:
            go_on(stop)
            with self._lock.read():
                scanned = search.scan(self._table, _products(queries))

    def _alone(
        self, query: NDArray[np.float32], own: int, code: int, k: int, filters: Filters, selection: Selection | None
    ) -> tuple[list[Neighbor], int]:
        """One query in one hold: where rows were written under a search, or ties reach past its candidates."""
        queries = np.ascontiguousarray(query[None])
        search = ModelSearch(
            self._table, queries, owns=[own], model_code=code, k=k, filters=filters, selection=selection
        )
        search.scan(self._table, self._table.used)
        settled = search.settle(self._table, 0)
        return settled if settled is not None else search.resolve(self._table, 0)

    def _user_alone(
        self, user: str, exclude_self: bool, k: int, filters: Filters, search: ModelSearch
    ) -> Answer | None:
        row = self._table.rows.get(user)
        if row is None:
            return None
        code = self._table.model_at(row)
        model = self._table.models[code]
        same = search.selection if model == search.model else None
        query = self._table.matrix.rows[row]
        neighbors, eligible = self._alone(query, row if exclude_self else -1, code, k, filters, same)
        return Answer(user, neighbors, model, eligible)

    def _apply(self, batch: Sequence[Entry], now_ms: int, out: Applied) -> None:
        checked = check(batch, scenario=self.scenario, dim=self.dim, registration=self.registration)
        out.superseded += checked.superseded
        out.refused += checked.refused
        chosen = [i for i, entry in enumerate(checked.entries) if self._admit(entry, checked.records[i], out)]
        metas = [pack_meta(record, now_ms) if (record := checked.records[i]) is not None else b"" for i in chosen]
        self._make_room(sum(checked.records[i] is not None for i in chosen))
        with self._lock.write():
            for i, meta in zip(chosen, metas, strict=True):
                self._put(checked, i, meta, out)
            for entry in batch:
                self._advance(entry.partition, entry.offset + 1)
            self._generation += 1

    def _admit(self, entry: Entry, record: EmbeddingRecord | None, out: Applied) -> bool:
        row = self._table.rows.get(entry.user_id)
        tombstone = self._tombstones.get(entry.user_id)
        if row is not None:
            partition, offset = self._table.version(row)
        elif tombstone is not None:
            partition, offset = tombstone.partition, tombstone.offset
        else:
            return True
        if partition != entry.partition:
            detail = f"this user's records come from partition {partition}, not {entry.partition}"
            out.refused.append(Refused(entry, Refusal.PARTITION, detail))
            return False
        if entry.offset <= offset or (record is not None and tombstone is not None and _covered(record, tombstone)):
            out.superseded += 1
            return False
        return True

    def _make_room(self, new_users: int) -> None:
        # the copy happens before the lock: only this thread writes
        if (columns := self._table.grown(new_users)) is not None:
            with self._lock.write():
                self._table.swap(columns)

    def _put(self, checked: Checked, i: int, meta: bytes, out: Applied) -> None:
        entry, record = checked.entries[i], checked.records[i]
        version = entry.partition, entry.offset
        if record is not None:
            self._table.put(entry.user_id, version, checked.vectors[i], meta, record.model)
            self._tombstones.pop(entry.user_id, None)
            out.upserted.add(entry.user_id)
            return
        covers: dict[str, int] = {}
        if (row := self._table.rows.get(entry.user_id)) is not None:
            covers = self._table.meta(row).covers
            self._table.clear(entry.user_id)
        elif (known := self._tombstones.get(entry.user_id)) is not None:
            covers = known.covers
        self._tombstones[entry.user_id] = Tombstone(*version, covers, entry.timestamp)
        out.erased.add(entry.user_id)

    def _advance(self, partition: int, offset: int) -> None:
        self._applied[partition] = max(offset, self._applied.get(partition, 0))


def _products(queries: int) -> int:
    return SCAN_PRODUCTS if queries < BLAS_QUERIES else BLAS_PRODUCTS


def _covered(record: EmbeddingRecord, tombstone: Tombstone) -> bool:
    """Whether the record covers nothing that the erased row did not."""
    erased = tombstone.covers
    return bool(erased) and all(last <= erased.get(source, -1) for source, last in record.covers.items())


def _parts(batch: Sequence[Entry], erased: Container[str]) -> Iterator[list[Entry]]:
    """Parts in which the newest entry alone tells a user's state, as if they had come one by one.

    It does not where a user is both erased and written, or was erased before: what may follow a tombstone depends on
    each entry.
    """
    part: list[Entry] = []
    erases: dict[str, bool] = {}
    for entry in batch:
        user, is_erasure = entry.user_id, entry.value is None
        if user in erases and (erases[user] != is_erasure or user in erased):
            yield part
            part, erases = [], {}
        erases[user] = is_erasure
        part.append(entry)
    if part:
        yield part
