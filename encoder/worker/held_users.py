"""Users of partitions whose input is behind: what is read now is old, and more of it is to come. Pure.

To compute them while a backlog arrives is to compute most of them again. So they are held, each once, until the backlog
of their partition has been read:

  H1. A partition is behind while its newest rows are BEHIND_SECONDS old when they come, wherever on the way they have
      waited: the processor writes when their events came in (`stream/processor/arrivals.py`).
  H2. Its users are let go as soon as newer rows come, or none have for QUIET_MS: whoever fell behind may have died.
      After a backlog of LONG_MS these rows must be CAUGHT_UP_SECONDS old, for SETTLE_MS at most: a replay's last
      seconds are days of its events' time, and who was silent then would be embedded again.
  H3. All are let go at any rate once they have been held HOLD_SHARE times as long as computing them would take: about a
      tenth of the time goes into what will be computed again, and a backlog that never ends starves nobody.
  H4. Before it is known how long that is, one user is let go after LEARN_MS, now and then, to find out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

BEHIND_SECONDS = 3.0
"""A live update takes a tenth of a second to here."""
LONG_MS, SETTLE_MS = 30_000, 5_000
CAUGHT_UP_SECONDS = 0.5
QUIET_MS = 15_000
"""A processor that takes texts it has never seen may be silent for seconds."""
HOLD_SHARE = 9
LEARN_MS = 2_000


@dataclass(slots=True)
class _Input:
    """Of one partition.

    since_ms: when it fell behind. heard_ms: when rows last came. near_ms: since when these are less than BEHIND_SECONDS
    old.
    """

    since_ms: int
    heard_ms: int
    near_ms: int | None = None
    users: dict[str, int] = field(default_factory=dict)


class HeldUsers:
    """Each user once. For the scheduler, whose clock is passed in. tokens: new ones, of all together.

    max_user_tokens: of one user.
    """

    def __init__(self, max_user_tokens: int) -> None:
        self.tokens = 0
        self._max = max_user_tokens
        self._behind: dict[int, _Input] = {}
        self._partition: dict[str, int] = {}
        self._since_ms: int | None = None

    def __len__(self) -> int:
        return len(self._partition)

    def __contains__(self, user: object) -> bool:
        return user in self._partition

    def behind(self, partition: int) -> bool:
        """Whether this partition's input is (H1)."""
        return partition in self._behind

    def begin(self, partition: int, now_ms: int) -> None:
        """Rows came and are old."""
        found = self._behind.setdefault(partition, _Input(now_ms, now_ms))
        found.heard_ms, found.near_ms = now_ms, None

    def settled(self, partition: int, behind_seconds: float, now_ms: int) -> bool:
        """H2, of rows that came and are less than BEHIND_SECONDS old: whether its users may go."""
        found = self._behind.get(partition)
        if found is None or now_ms - found.since_ms < LONG_MS or behind_seconds < CAUGHT_UP_SECONDS:
            return True
        found.heard_ms = now_ms
        if found.near_ms is None:
            found.near_ms = now_ms
        return now_ms - found.near_ms >= SETTLE_MS

    def hold(self, user: str, tokens: int, partition: int, now_ms: int) -> None:
        """Of a partition that is behind, or one that is held already: then its partition does not matter."""
        users = self._behind[self._partition.setdefault(user, partition)].users
        known = users.get(user, 0)
        users[user] = min(known + tokens, self._max)
        self.tokens += users[user] - known
        if self._since_ms is None:
            self._since_ms = now_ms

    def pop(self, user: str) -> int | None:
        """Let one user go: its tokens; None where it is not held."""
        if (partition := self._partition.pop(user, None)) is None:
            return None
        tokens = self._behind[partition].users.pop(user)
        self.tokens -= tokens
        self._rest()
        return tokens

    def end(self, partition: int) -> dict[str, int]:
        """The partition is not behind: its users, and their tokens, are let go."""
        found = self._behind.pop(partition, None)
        return {} if found is None else self._let_go(found, len(found.users))

    def quiet(self, now_ms: int) -> dict[int, dict[str, int]]:
        """H2: partitions of which nothing has come for long, and their users."""
        ended = [
            p
            for p, found in self._behind.items()
            if now_ms - found.heard_ms >= QUIET_MS
            or (found.near_ms is not None and now_ms - found.near_ms >= SETTLE_MS)
        ]
        return {partition: self.end(partition) for partition in ended}

    def overdue(self, now_ms: int, seconds_of: Callable[[int, int], float]) -> dict[int, dict[str, int]]:
        """H3 and H4: by partition, who is let go though his partition stays behind.

        Args:
            seconds_of: how long so many users with so many new tokens take; 0 = not known yet.
        """
        if self._since_ms is None:
            return {}
        waited = now_ms - self._since_ms
        if waited < LEARN_MS:
            return {}
        seconds = seconds_of(len(self), self.tokens)
        if not seconds:
            partition, first = next((p, found) for p, found in self._behind.items() if found.users)
            self._since_ms = now_ms
            return {partition: self._let_go(first, 1)}
        if waited < 1000 * HOLD_SHARE * seconds:
            return {}
        return {p: self._let_go(found, len(found.users)) for p, found in self._behind.items() if found.users}

    def wait(self, now_ms: int) -> None:
        """Nothing can come: reading is paused."""
        for found in self._behind.values():
            found.heard_ms = now_ms

    def _let_go(self, found: _Input, most: int) -> dict[str, int]:
        gone = dict(islice(found.users.items(), most))
        for user, tokens in gone.items():
            del found.users[user], self._partition[user]
            self.tokens -= tokens
        self._rest()
        return gone

    def _rest(self) -> None:
        if not self._partition:
            self._since_ms = None
