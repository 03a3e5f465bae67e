"""Any interleaving of upserts, erasures, restores, new registrations and searches equals a dict and brute force."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from store.index import index as index_module
from store.index import search
from store.index.door import Entry
from store.index.index import ScenarioIndex
from store.index.selection import Filters
from store.index.snapshot import SnapshotStore, Wanted
from tests.support.index_twin import DIM, Twin, entry, partition_of

USERS = [f"u{i}" for i in range(24)]
users = st.sampled_from(USERS)
# few distinct directions, so that ties are the rule; and some that are all but equal
directions = st.integers(0, 5).map(lambda i: np.random.default_rng(i).standard_normal(DIM).astype(np.float32))
near = st.tuples(directions, st.sampled_from([0.0, 0.0, 1e-3])).map(lambda pair: pair[0] + np.float32(pair[1]))
bad = st.sampled_from([np.zeros(DIM), np.full(DIM, np.nan), np.full(DIM, np.inf), np.ones(DIM + 1)])
vectors = st.one_of(near, near, near, st.none(), bad.map(lambda v: v.astype(np.float32)))


@pytest.fixture
def narrow_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """With so few users a search would otherwise fetch all of them, in one block and one hold of the lock."""
    monkeypatch.setattr(search, "OVERFETCH", 1)
    monkeypatch.setattr(search, "BLOCK_ROWS", 5)
    monkeypatch.setattr(search, "TIED_ROWS", 2)
    monkeypatch.setattr(index_module, "SCAN_PRODUCTS", 7)
    monkeypatch.setattr(index_module, "BLAS_PRODUCTS", 50)
    monkeypatch.setattr(index_module, "SETTLED", 3)


class IndexMachine(RuleBasedStateMachine):
    """`offset` is the newest offset used; entries come at it, above it and below it."""

    @initialize()
    def start(self) -> None:
        self.twin = Twin()
        self.index = ScenarioIndex("s", dim=DIM, capacity=2)
        self.registration = 0
        self.offset = 10
        self.folder = tempfile.TemporaryDirectory()
        self.snapshots = SnapshotStore(Path(self.folder.name), identity="kafka:test")
        self.saved: tuple[int, list[Entry]] | None = None
        self.log: list[Entry] = []

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(
        items=st.lists(
            st.tuples(
                users,
                vectors,
                st.integers(-6, 3),
                st.integers(0, 4),
                st.sampled_from(["m1", "m1", "m2"]),
                st.sampled_from([0, 0, 0, -1]),
            ),
            min_size=1,
            max_size=8,
        )
    )
    def apply(self, items: list[tuple[str, np.ndarray | None, int, int, str, int]]) -> None:
        batch = []
        for user, vector, step, covered, model, life in items:
            self.offset = max(self.offset, self.offset + step)
            at = max(0, self.offset + min(step, 0))
            registration = self.registration + life
            batch.append(entry(user, at, vector, covers={"t:0": covered}, model=model, registration=registration))
        for item in batch:
            self.twin.apply(item)
        self.index.apply(batch, now_ms=1)
        self.log += batch

    @rule(seed=st.integers(0, 2**16), every=st.sampled_from([1, 1, 2, 5]))
    def apply_to_many(self, seed: int, every: int) -> None:
        rng = np.random.default_rng(seed)
        batch = []
        for user in USERS[::every]:
            self.offset += 1
            direction = np.random.default_rng(rng.integers(6)).standard_normal(DIM).astype(np.float32)
            covers = {"t:0": self.offset}
            batch.append(entry(user, self.offset, direction, covers=covers, registration=self.registration))
        for item in batch:
            self.twin.apply(item)
        self.index.apply(batch, now_ms=1)
        self.log += batch

    @rule()
    def snapshot(self) -> None:
        self.snapshots.write({"s": self.index}, topic_ids={}, now_ms=self.offset)
        self.saved = (len(self.log), [])

    @rule()
    def register_anew(self) -> None:
        """Retired and registered again: the topic is read from its beginning, with all of the earlier life."""
        self.registration += 1
        self.twin = Twin(registration=self.registration)
        self.index = ScenarioIndex("s", dim=DIM, capacity=2, registration=self.registration)
        for item in self.log:
            self.twin.apply(item)
        self.index.apply(self.log, now_ms=1)
        self.saved = None

    @rule()
    def restore(self) -> None:
        """What a restart does: the snapshot, then everything since it once more, and some of before as well."""
        wanted = Wanted(DIM, self.registration)
        loaded = self.snapshots.load({"s": wanted}, now_ms=self.offset, accept=lambda _: "")
        assert bool(loaded) == (self.saved is not None)
        since = max(0, self.saved[0] - 5) if self.saved is not None else 0
        if not loaded:
            return
        self.index = loaded["s"]
        self.index.apply(self.log[self.saved[0] if self.saved else 0 :], now_ms=2)
        self.index.apply([item for item in self.log[since:] if item.value is not None], now_ms=2)

    @rule(
        user=users,
        k=st.integers(1, 30),
        allow=st.none() | st.sets(users | st.just("nobody")),
        deny=st.sets(users),
        min_score=st.none() | st.floats(-1, 1),
        exclude_self=st.booleans(),
    )
    def neighbors(
        self, user: str, k: int, allow: set[str] | None, deny: set[str], min_score: float | None, exclude_self: bool
    ) -> None:
        filters = Filters(allow, deny, min_score)
        found = self.index.search_users([user], k=k, exclude_self=exclude_self, filters=filters)
        if user not in self.twin.rows:
            assert found.missing == [user]
            assert not found.answers
            return
        model = self.twin.rows[user][1].model
        hidden = deny | {user} if exclude_self else deny
        expected = self.twin.neighbors(self.twin.vector(user), k, model, allow, hidden, min_score)
        (answer,) = found.answers
        assert answer.user_id == user
        assert [tuple(pair) for pair in answer.neighbors] == expected

    @rule(k=st.integers(1, 30), direction=directions, model=st.sampled_from(["m1", "m2", "other"]))
    def by_vector(self, k: int, direction: np.ndarray, model: str) -> None:
        (answer,) = self.index.search(direction, k=k, model=model).answers
        unit = (direction / np.linalg.norm(direction.astype(np.float64))).astype(np.float32).astype(np.float64)
        assert [tuple(pair) for pair in answer.neighbors] == self.twin.neighbors(unit, k, model, None, set(), None)

    @rule(
        asked=st.lists(users, min_size=1, max_size=12),
        k=st.integers(1, 30),
        allow=st.none() | st.sets(users, min_size=12),
        deny=st.sets(users, max_size=3),
        by_vector=st.booleans(),
        written=st.lists(st.tuples(users, near | st.none(), st.sampled_from(["m1", "m1", "m2"])), max_size=12),
    )
    def written_between_the_holds(
        self,
        asked: list[str],
        k: int,
        allow: set[str] | None,
        deny: set[str],
        by_vector: bool,
        written: list[tuple[str, np.ndarray | None, str]],
    ) -> None:
        """C8: a search that is interrupted by writes answers as of some moment between its begin and its end."""
        filters, left = Filters(allow, deny), list(written)
        moments = [Twin(dict(self.twin.rows))]

        def write() -> bool:
            if left:
                user, vector, model = left.pop()
                self.offset += 1
                item = entry(
                    user, self.offset, vector, covers={"t:0": self.offset}, model=model, registration=self.registration
                )
                self.twin.apply(item)
                self.index.apply([item], now_ms=1)
                self.log.append(item)
                moments.append(Twin(dict(self.twin.rows)))
            return False

        if by_vector:
            queries = [
                np.random.default_rng(int(user[1:]) % 6).standard_normal(DIM).astype(np.float32) for user in asked
            ]
            found = self.index.search(np.stack(queries), k=k, filters=filters, model="m1", stop=write)
            for query, answer in zip(queries, found.answers, strict=True):
                unit = (query / np.linalg.norm(query.astype(np.float64))).astype(np.float32).astype(np.float64)
                possible = [twin.neighbors(unit, k, "m1", allow, deny, None) for twin in moments]
                assert [tuple(pair) for pair in answer.neighbors] in possible
            return
        found = self.index.search_users(asked, k=k, filters=filters, stop=write)
        assert sorted([answer.user_id for answer in found.answers] + found.missing) == sorted(asked)
        for user in found.missing:
            assert any(user not in twin.rows for twin in moments)
        for answer in found.answers:
            assert answer.user_id is not None
            there = [twin for twin in moments if answer.user_id in twin.rows]
            possible = [
                twin.neighbors(twin.vector(answer.user_id), k, answer.model, allow, deny | {answer.user_id}, None)
                for twin in there
                if twin.rows[answer.user_id][1].model == answer.model
            ]
            assert [tuple(pair) for pair in answer.neighbors] in possible

    @invariant()
    def same_rows(self) -> None:
        if not hasattr(self, "twin"):
            return
        listed = {stored.record.user_id: stored for stored in self.index.page("", 1000)}
        assert list(listed) == sorted(self.twin.rows)
        assert len(self.index) == len(listed)
        assert self.index.tombstones == len(self.twin.tombstones)
        for user, (offset, record) in self.twin.rows.items():
            stored = listed[user]
            assert (stored.partition, stored.offset) == (partition_of(user), offset)
            assert stored.record.covers == record.covers
            assert stored.record.model == record.model
            np.testing.assert_array_equal(stored.record.vector.astype(np.float64), self.twin.vector(user))
        counts = {m: sum(r.model == m for _, r in self.twin.rows.values()) for m in ("m1", "m2")}
        assert self.index.models() == {m: n for m, n in counts.items() if n}


IndexMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestIndex = pytest.mark.usefixtures("narrow_fetch")(IndexMachine.TestCase)
