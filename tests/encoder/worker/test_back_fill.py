"""The back-fill of a partition: whatever crashes, moves and changes on the way, everybody ends with every target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.worker.back_fill import BackFillBatch, PartitionBackFill, TargetProgress
from encoder.worker.targets import COMPLETE, Target, unpack
from store.buffer.token_buffer import TokenBuffer
from tests.models.events import Log, event, open_buffer, resources

SHARED = resources()
NOBODY: dict[bytes, int] = {}
CHURN, COUPON = Target("churn", 0, "m1"), Target("coupon", 5, "m1")
TAILS = {"churn": 10, "coupon": 10, "churn@next": 10}


class Partition:
    """A partition with its log and its primary; owners come and go, each with a disk of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._primary = open_buffer(folder / "primary", SHARED)
        self._log = Log()
        self.users: set[str] = set()
        self.dirty: set[str] = set()
        self.committed: str | None = None
        self.published: dict[tuple[str, str], Target] = {}
        self.targets: Sequence[Target] = ()
        self._disk = "a"
        self.buffer: TokenBuffer
        self.back_fill: PartitionBackFill

    def own(self, disk: str, targets: Sequence[Target]) -> None:
        """Some worker takes the partition: what counts is its disk and what was committed."""
        self._disk, self.targets = disk, targets
        self.buffer = open_buffer(self._folder / disk, SHARED, replica=True)
        new = self.committed is None and self.buffer.log_offset == 0
        if new:
            self.dirty |= self.users  # the whole log is read, and marks them
        self.back_fill = PartitionBackFill(
            self.buffer, unpack(self.committed), targets, new=new, window_of=self.buffer.window
        )
        self._log.replay(self.buffer)
        self.back_fill.begin()

    def leave(self) -> str:
        self.buffer.close()
        return self._disk

    def crash(self) -> None:
        self.own(self.leave(), self.targets)

    def event(self, user: str) -> None:
        self.users.add(user)
        self._log.write(self._primary, [event(user, "b", 1000, f"{user}{len(self._log)}")], len(self._log))
        self._log.replay(self.buffer)
        self.dirty.add(user)

    def announce(self) -> None:
        """B1, B5."""
        self.committed = self.back_fill.metadata

    def live(self) -> None:
        self.announce()
        self.published |= {(user, target.scenario): target for user in self.dirty for target in self.targets}
        self.dirty.clear()

    def step(self, tokens: int, crash: str = "") -> BackFillBatch | None:
        """One batch; crash: the step before which it happens."""
        self.announce()
        batch = self.back_fill.take(tokens, TAILS)
        if batch is None:
            return None
        if crash == "B3":
            self.crash()
            return batch
        done = {(window.user_id, target.scenario): target for window in batch.windows for target in batch.targets}
        self.published |= done
        if crash == "B4":
            self.crash()
            return batch
        self.back_fill.advance(batch)
        return batch

    def drain(self, tokens: int = 40) -> int:
        """Until nothing is left; returns how many users were computed, each target for itself."""
        computed = 0
        while (batch := self.step(tokens)) is not None:
            computed += len(batch.windows) * len(batch.targets)
        self.announce()
        return computed

    def check(self) -> None:
        """What is committed as complete is, for everyone who is not dirty."""
        for digest, attempt in unpack(self.committed).items():
            target = next((t for t in ANY if t.digest == digest), None)
            if attempt == COMPLETE and target is not None:
                for user in self.users - self.dirty:
                    assert self.published.get((user, target.scenario)) == target, user

    def close(self) -> None:
        self.buffer.close()
        self._primary.close()


ANY = [Target(s, r, m) for s in ("churn", "coupon") for r in (0, 5) for m in ("m1", "m2")]
CHOICES = [
    (CHURN,),
    (CHURN, COUPON),
    (COUPON,),
    (Target("churn", 0, "m2"), COUPON),
    (CHURN, Target("coupon", 5, "m2")),
    (CHURN, Target("coupon", 0, "m1")),
]
OPERATIONS = st.one_of(
    st.tuples(st.just("event"), st.integers(0, 11)),
    st.tuples(st.just("fill"), st.sampled_from(["", "", "", "B3", "B4"])),
    st.tuples(st.just("live"), st.none()),
    st.tuples(st.just("commit"), st.none()),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("move"), st.sampled_from("abc")),
    st.tuples(st.just("retarget"), st.sampled_from(CHOICES)),
    st.tuples(st.just("move of others"), st.sampled_from(CHOICES)),
)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 8), st.sampled_from(CHOICES), st.lists(OPERATIONS, max_size=25), st.integers(1, 60))
def test_whatever_happens_everybody_gets_every_target(
    tmp_path_factory: pytest.TempPathFactory,
    at_first: int,
    targets: Sequence[Target],
    operations: list[tuple[str, object]],
    tokens: int,
) -> None:
    p = Partition(tmp_path_factory.mktemp("p"))
    p.own("a", CHOICES[0])
    for i in range(at_first):
        p.event(f"u{i:02}")
    p.live()
    p.targets = targets
    p.back_fill.retarget(targets)
    for what, how in operations:
        if what == "event":
            p.event(f"u{how:02}")
        elif what == "fill":
            p.step(tokens, str(how))
        elif what == "live":
            p.live()
        elif what == "commit":
            p.announce()
        elif what == "crash":
            p.crash()
        elif what == "move":
            p.leave()
            p.own(str(how), p.targets)
        elif what == "retarget":
            p.targets = how  # type: ignore[assignment]
            p.back_fill.retarget(p.targets)
        else:  # a worker that has not heard yet, or runs another model
            p.leave()
            p.own("b", how)  # type: ignore[arg-type]
        p.check()
    p.live()
    p.drain(tokens)
    p.check()
    for user in p.users:
        for target in p.targets:
            assert p.published[user, target.scenario] == target
    p.leave()
    p.own("a new disk", p.targets)
    assert not p.back_fill.waiting, "complete is complete for everyone"
    p.close()


def prepared(folder: Path, users: int) -> Partition:
    p = Partition(folder)
    p.own("a", ())
    for i in range(users):
        p.event(f"u{i:02}")
    p.live()
    return p


def test_a_scenario_that_comes_goes_to_everyone_once_and_resumes_behind_the_cursor(tmp_path: Path) -> None:
    p = prepared(tmp_path, 20)
    p.targets = (CHURN,)
    p.back_fill.retarget(p.targets)
    done = 0
    for _ in range(3):
        batch = p.step(33)  # a user has one row: 11 tokens
        assert batch is not None
        assert [window.user_id for window in batch.windows] == [f"u{i:02}" for i in range(done, done + 3)]
        done += 3
        assert p.back_fill.progress() == {CHURN: TargetProgress(done, 20, complete=False)}
    p.step(33, crash="B4")  # published, not noted: once more
    assert p.back_fill.progress() == {CHURN: TargetProgress(done, 20, complete=False)}
    assert p.drain() == 20 - done
    assert p.back_fill.progress() == {CHURN: TargetProgress(20, 20, complete=True)}
    p.crash()
    assert not p.back_fill.waiting
    assert p.buffer.back_fills() == {}
    p.close()


def test_a_crash_before_completion_is_committed_repeats_nothing(tmp_path: Path) -> None:
    p = prepared(tmp_path, 8)
    p.targets = (CHURN,)
    p.back_fill.retarget(p.targets)
    p.announce()
    while (batch := p.back_fill.take(1000, TAILS)) is not None:
        p.back_fill.advance(batch)
    p.crash()
    assert p.back_fill.waiting, "nobody was told"
    assert p.drain() == 0
    p.close()


def test_targets_that_meet_go_on_together(tmp_path: Path) -> None:
    """A user's history is the dear part: it is encoded once for all scenarios that wait for it."""
    p = prepared(tmp_path, 12)
    p.targets = (CHURN,)
    p.back_fill.retarget(p.targets)
    for _ in range(2):
        p.step(33)
    p.targets = (CHURN, COUPON)
    p.back_fill.retarget(p.targets)
    batches = []
    while (batch := p.step(45)) is not None:
        batches.append(([window.user_id for window in batch.windows], [target.scenario for target in batch.targets]))
    assert batches == [
        (["u00", "u01", "u02", "u03"], ["coupon"]),
        (["u04", "u05"], ["coupon"]),
        (["u06", "u07"], ["churn", "coupon"]),
        (["u08", "u09"], ["churn", "coupon"]),
        (["u10", "u11"], ["churn", "coupon"]),
    ]
    p.close()


def test_another_disk_begins_anew_and_the_first_one_resumes(tmp_path: Path) -> None:
    p = prepared(tmp_path, 10)
    p.targets = (CHURN,)
    p.back_fill.retarget(p.targets)
    p.step(33)
    p.leave()
    p.own("b", (CHURN,))
    assert p.back_fill.progress() == {CHURN: TargetProgress(0, 10, complete=False)}
    p.step(11)
    p.leave()
    p.own("a", (CHURN,))
    assert p.back_fill.progress() == {CHURN: TargetProgress(3, 10, complete=False)}
    p.close()


def test_a_cursor_is_void_once_somebody_else_published_other_models(tmp_path: Path) -> None:
    p = prepared(tmp_path, 10)
    p.targets = (CHURN,)
    p.back_fill.retarget(p.targets)
    p.step(33)
    p.leave()
    p.own("b", (Target("churn", 0, "m2"),))
    p.step(11)
    p.leave()
    p.own("a", (CHURN,))
    assert p.back_fill.progress() == {CHURN: TargetProgress(0, 10, complete=False)}
    p.close()


def test_a_long_history_is_a_batch_of_its_own(tmp_path: Path) -> None:
    p = Partition(tmp_path)
    p.own("a", ())
    for user, events in (("u0", 1), ("u1", 5), ("u2", 1)):
        for _ in range(events):
            p.event(user)
    p.live()
    p.back_fill.retarget((CHURN,))
    p.targets = (CHURN,)
    sizes = []
    while (batch := p.step(14)) is not None:
        sizes.append([window.user_id for window in batch.windows])
    assert sizes == [["u0"], ["u1"], ["u2"]]
    p.close()


def test_nobody_there_is_complete_at_once(tmp_path: Path) -> None:
    p = Partition(tmp_path)
    p.own("a", (CHURN,))
    assert not p.back_fill.waiting, "a new partition's users are all live"
    p.back_fill.retarget((CHURN, COUPON))
    assert p.back_fill.waiting
    assert p.drain() == 0
    assert set(unpack(p.committed).values()) == {COMPLETE}
    p.close()
