"""The back-fill of one partition: brings every user that the replica knows to every target, a few at a time.

Users are walked in key order. Each target has a cursor; those that stand at the same user go on together, so that a
user's history is read and encoded once for all of them, and the hindmost go first until they meet the next. Users that
come behind a cursor meanwhile are refreshed live, in all scenarios.

Protocol (the same numbers in encoder/worker/worker.py and docs/commit-protocol.md):
  B1. The standings are committed with the offset: who does not have these targets knows that others publish now.
  B2. Embeddings of the users next to the cursor are computed from the replica.
  B3. They are produced, and every delivery is awaited.
  B4. The cursor is moved, durably; behind the last user the target is complete.
  B5. The standings are committed anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from msgspec.structs import replace

from encoder.worker.targets import COMPLETE, Target, carried_on, pack
from store.buffer.back_fill_cursor import BackFillCursor, position_of
from store.buffer.token_buffer import TokenBuffer
from store.window.user_window import UserWindow

_PAGE = 500
"""Users looked up at a time."""
MAX_USERS = 512
"""In one batch: their windows lie in memory."""


class BackFillBatch(NamedTuple):
    """Users to compute in these targets. last: the user that the cursor moves to. users: how many it passes."""

    targets: tuple[Target, ...]
    windows: list[UserWindow]
    last: str
    users: int


class TargetProgress(NamedTuple):
    """Of one target, for people."""

    done: int
    total: int
    complete: bool


class PartitionBackFill:
    """For the worker's thread. Nothing is computed here.

    standings, metadata: of the current targets; the metadata is to be committed (B1, B5) when it changes.
    """

    def __init__(
        self,
        buffer: TokenBuffer,
        found: Mapping[bytes, int],
        targets: Sequence[Target],
        *,
        new: bool,
        window_of: Callable[[str], UserWindow],
    ) -> None:
        """Take a partition on; the replica may be behind.

        Args:
            found: standings committed with the offset.
            new: nothing was ever published, and all users will be marked dirty as the log is read: all is complete.
            window_of: a user's window as it is to be computed.
        """
        self._buffer = buffer
        self._window_of = window_of
        self._targets = list(targets)
        self.standings = dict.fromkeys((t.digest for t in targets), COMPLETE) if new else carried_on(found, targets)
        self.metadata = pack(self.standings)
        self._cursors: dict[str, BackFillCursor] = {}
        self._done: dict[str, int] = {}
        self._begun = False
        self._ahead: deque[str] = deque()
        self._ahead_of = ""

    def begin(self) -> None:
        """The replica has caught up: count its users, and find the cursors that are still good."""
        self._begun = True
        stored = self._buffer.back_fills()
        users = self._buffer.count_users()
        waiting: dict[str, BackFillCursor] = {}
        for target in self._targets:
            attempt = self.standings[target.digest]
            if attempt == COMPLETE:
                self._done.setdefault(target.scenario, users)
                continue
            cursor = stored.get(target.scenario)
            if cursor is None or (cursor.target, cursor.attempt) != (target.digest, attempt):
                cursor = BackFillCursor(target.digest, attempt, total=users)
            waiting[target.scenario] = cursor
            self._done.pop(target.scenario, None)
        changes: dict[str, BackFillCursor | None] = dict.fromkeys(stored.keys() - waiting.keys())
        changes |= {name: cursor for name, cursor in waiting.items() if stored.get(name) != cursor}
        if changes:
            self._buffer.save_back_fills(changes)
        self._cursors = waiting
        self._ahead.clear()

    def retarget(self, targets: Sequence[Target]) -> None:
        """Scenarios came or went, or are computed by another model. Cursors of targets that stay are kept."""
        self._targets = list(targets)
        self.standings = carried_on(self.standings, targets)
        self.metadata = pack(self.standings)
        if self._begun:
            self.begin()

    @property
    def waiting(self) -> bool:
        """Whether there may be users to back-fill."""
        return bool(self._cursors)

    @property
    def unfinished(self) -> bool:
        """Whether a target is not complete; before `begin` nothing is waiting yet."""
        return any(attempt != COMPLETE for attempt in self.standings.values())

    def take(self, tokens: int, tail_tokens: Mapping[str, int]) -> BackFillBatch | None:
        """The next users whose windows and tails come to about so many tokens, at least one; None if none is left.

        Args:
            tail_tokens: what a user costs in a scenario beside the events.
        """
        while self._cursors:
            after, targets, bound = self._hindmost()
            tail = sum(tail_tokens[target.scenario] for target in targets)
            windows: list[UserWindow] = []
            last, users, left = after, 0, tokens
            while users < MAX_USERS and (user := self._peek(last)) is not None:
                if bound and position_of(user) > position_of(bound):
                    break
                window = self._window_of(user)
                cost = tail + sum(window.events.values()) if window.is_known else 0
                if windows and cost > left:
                    break
                left -= cost
                last, users = user, users + 1
                self._ahead.popleft()
                self._ahead_of = user
                if window.is_known:  # else erased since it was listed: its mark sees to that
                    windows.append(window)
            if users:
                return BackFillBatch(targets, windows, last, users)
            self._pass(targets, bound)
        return None

    def advance(self, batch: BackFillBatch) -> None:
        """B4: everything of this batch was acknowledged."""
        moved = {
            target.scenario: self._moved(self._cursors[target.scenario], batch.last, batch.users)
            for target in batch.targets
        }
        self._buffer.save_back_fills(moved)
        self._cursors |= moved

    def progress(self) -> dict[Target, TargetProgress]:
        """Of every target, once begun."""
        if not self._begun:
            return {}
        out = {}
        for target in self._targets:
            cursor = self._cursors.get(target.scenario)
            if cursor is None:
                done = self._done.get(target.scenario, 0)
                out[target] = TargetProgress(done, done, complete=True)
            else:
                out[target] = TargetProgress(cursor.done, cursor.total, complete=False)
        return out

    def _hindmost(self) -> tuple[str, tuple[Target, ...], str]:
        """(the lowest cursor, the targets there, the next cursor; "" = none)."""
        after = min((c.after for c in self._cursors.values()), key=position_of)
        further = [c.after for c in self._cursors.values() if c.after != after]
        waiting = (target for target in self._targets if target.scenario in self._cursors)
        targets = tuple(target for target in waiting if self._cursors[target.scenario].after == after)
        return after, targets, min(further, key=position_of, default="")

    def _peek(self, after: str) -> str | None:
        """The first user behind this one."""
        if not self._ahead or self._ahead_of != after:
            self._ahead_of = after
            self._ahead = deque(islice(self._buffer.users(after=after), _PAGE))
        return self._ahead[0] if self._ahead else None

    def _pass(self, targets: Sequence[Target], bound: str) -> None:
        """B4 where nobody is left before the next cursor: go there; behind the last user, be complete."""
        if bound:
            moved = {t.scenario: self._moved(self._cursors[t.scenario], bound, 0) for t in targets}
            self._buffer.save_back_fills(moved)
            self._cursors |= moved
            return
        for target in targets:  # their cursors stay on disk until B5 is known to be done: `begin` drops them
            self._done[target.scenario] = self._cursors.pop(target.scenario).done
            self.standings[target.digest] = COMPLETE
        self.metadata = pack(self.standings)

    @staticmethod
    def _moved(cursor: BackFillCursor, after: str, users: int) -> BackFillCursor:
        done = cursor.done + users
        return replace(cursor, after=after, done=done, total=max(cursor.total, done))
