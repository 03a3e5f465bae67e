"""When which users are refreshed. Pure: the clock is passed in, nothing is computed or waited for here.

Rules:
  1. A user is pending once, however many of its events arrive: marks are coalesced.
  2. A user is eligible `min_interval_ms` after its last refresh began, at once if there was none.
  3. Live users are served first come, first served, by the time they became eligible. So a user with a thousand times
     the events takes one place per interval, and waits behind everyone who became eligible before.
  4. A batch takes users until `batch_tokens` are spent, at least one.
  5. Low-priority work (window sweeps and rule 8's users; back-fills; silent users; in turns, where several wait) is
     served when no live user is eligible, partition by partition in turn, in batches of a quarter of the budget,
     because a batch cannot be interrupted.
  6. Where live users leave no idle time, low-priority work gets one batch all the same once it has waited
     LOW_WAIT_MS and nine times as long as its last batch took: about a tenth of the time, so that it ends some day.
  7. Input should pause while live work is expected to take longer than `max_staleness_ms`, or someone has waited
     that long beyond eligibility; and go on when both are below half of it.
  8. Users who were marked while their partition could not be refreshed come all at once, as a backlog: live if that
     keeps the work within rule 7's bound (within one batch, before a rate is known), else with low priority. So nobody
     waits behind them, and no input pauses.
  9. Users of a partition whose input is behind are held until it is not (`held_users.py`), each once; then rule 8. So
     a backlog is read to its end before its users are computed, wherever on the way it waits.

A user's wait from mark to start is then at most `min_interval_ms`, plus two batches (one running, one of rule 6), plus
the work of those eligible before it, which rule 7 keeps near `max_staleness_ms`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from encoder.model.settings import ModelSettings
from encoder.worker.held_users import BEHIND_SECONDS, HeldUsers
from encoder.worker.turns import Turns

LOW_PRIORITY_SHARE = 4
LOW_WAIT_MS = 500
LOW_TIME_SHARE = 10
"""Under full live load, low-priority work gets one part in this many of the time."""
RATE_MEMORY = 0.2
"""Weight of the newest batch in the estimate of tokens per second."""


class RefreshBatch(NamedTuple):
    """Users to refresh together, in all scenarios. tokens: expected work. live: by events, else by sweeps."""

    users: tuple[str, ...]
    tokens: int
    live: bool


class BackFillTurn(NamedTuple):
    """The caller's back-fill may compute about so many tokens now, at least one user."""

    tokens: int


class TickTurn(NamedTuple):
    """Silent users may be computed at about so many tokens now, at least one user."""

    tokens: int


class Pending(NamedTuple):
    """Work waiting; what is held counts as low. seconds: at the measured rate, 0 until there is one."""

    live_users: int
    low_users: int
    live_tokens: int
    low_tokens: int
    seconds: float


@dataclass(slots=True)
class _Entry:
    eligible_ms: int = 0
    new_tokens: int = 0


class RefreshScheduler:
    """Pending users of one worker. Single-threaded; `now_ms` never goes back.

    tail_tokens: what a refresh computes beside new events; changes with the scenarios.
    """

    def __init__(
        self,
        *,
        tail_tokens: int,
        batch_tokens: int,
        min_interval_ms: int,
        max_staleness_ms: int,
        max_user_tokens: int = 1000,
    ) -> None:
        """max_user_tokens: event tokens of a full window."""
        self.tail_tokens = tail_tokens
        self._batch_tokens = batch_tokens
        self._min_interval_ms = min_interval_ms
        self._max_staleness_ms = max_staleness_ms
        self._max_user_tokens = max_user_tokens
        self._eligible: OrderedDict[str, _Entry] = OrderedDict()
        self._delayed: dict[str, _Entry] = {}
        self._delayed_order: list[tuple[int, int, str]] = []  # heap of (eligible_ms, arrival, user)
        self._low = Turns()
        self._held = HeldUsers(max_user_tokens)
        self._heard_of: set[int] = set()
        self._begun_ms: dict[str, int] = {}
        self._begun_order: deque[tuple[int, str]] = deque()
        self._arrivals = 0
        self._live_new = 0
        self._low_since_ms: int | None = None
        self._low_took_ms = 0.0
        self._turns = deque(("low", "back_fill", "ticks"))  # of low-priority work: the first has its turn
        self._rate = 0.0
        self._paused = False

    @classmethod
    def of(cls, settings: ModelSettings, max_user_tokens: int) -> Self:
        """As configured; `tail_tokens` is yet to be set."""
        return cls(
            tail_tokens=0,
            batch_tokens=settings.batch_tokens,
            min_interval_ms=settings.min_interval_ms,
            max_staleness_ms=settings.max_staleness_ms,
            max_user_tokens=max_user_tokens,
        )

    def __len__(self) -> int:
        """Users pending: live, low and held."""
        return len(self._eligible) + len(self._delayed) + len(self._low) + len(self._held)

    def arrived(self, partition: int, behind_seconds: float, now_ms: int) -> None:
        """Rows of a partition have come that were so old: those that are marked next, or nobody's."""
        if behind_seconds < BEHIND_SECONDS:
            if self._held.settled(partition, behind_seconds, now_ms):
                self._let_go(self._held.end(partition), partition, now_ms)
        else:
            self._held.begin(partition, now_ms)
            if partition not in self._heard_of:  # whoever came as a backlog is part of this one
                for user, tokens in self._low.pop_partition(partition).items():
                    self._held.hold(user, tokens, partition, now_ms)
        self._heard_of.add(partition)

    def mark(self, user: str, now_ms: int, *, new_tokens: int = 1, partition: int = 0) -> None:
        """Events of a user arrived."""
        self._advance(now_ms)
        entry = self._eligible.get(user) or self._delayed.get(user)
        if self._held.behind(partition) and entry is None:
            if user in self._low:
                self._low.add(user, new_tokens, partition, most=self._max_user_tokens)
            else:
                self._held.hold(user, new_tokens, partition, now_ms)
            return
        if entry is None:
            new_tokens += self._low.pop(user) or self._held.pop(user) or 0
            self._insert(user, _Entry(), now_ms)
            entry = self._eligible.get(user) or self._delayed[user]
        self._grow(entry, new_tokens)

    def mark_low(self, user: str, now_ms: int, *, new_tokens: int = 0, partition: int = 0) -> None:
        """A user needs a refresh that can wait: its window was swept."""
        self._advance(now_ms)
        if (live := self._eligible.get(user) or self._delayed.get(user)) is not None:
            self._grow(live, new_tokens)
        elif user in self._held or (self._held.behind(partition) and user not in self._low):
            self._held.hold(user, new_tokens, partition, now_ms)
        else:
            self._low.add(user, new_tokens, partition, most=self._max_user_tokens)

    def mark_backlog(self, users: Collection[str], now_ms: int, *, partition: int = 0) -> None:
        """Users of one partition wait that could not be refreshed before (rule 8)."""
        self._backlog(dict.fromkeys(users, 1), partition, now_ms)

    def remove(self, user: str) -> None:
        """Forget a user (erased, or its partition was revoked); no effect when it is not pending."""
        entry = self._eligible.pop(user, None) or self._delayed.pop(user, None)
        if entry is not None:
            self._live_new -= entry.new_tokens
        self._low.pop(user)
        self._held.pop(user)

    def forget(self, partition: int) -> None:
        """Its input is not ours to follow any more; its users have been removed."""
        self._held.end(partition)
        self._heard_of.discard(partition)

    def behind(self, partition: int, now_ms: int) -> bool:
        """Whether a partition's input is, and its users are held (rule 9)."""
        self._advance(now_ms)
        self._release(now_ms)
        return self._held.behind(partition)

    def next_batch(
        self, now_ms: int, *, back_fill: bool = False, ticks: bool = False
    ) -> RefreshBatch | BackFillTurn | TickTurn | None:
        """Take the next users to refresh; None when nobody is eligible. Their refresh begins now.

        Args:
            back_fill: the caller has users to back-fill. Only then a BackFillTurn is returned.
            ticks: it has silent users that are due. Only then a TickTurn is returned.
        """
        self._advance(now_ms)
        self._release(now_ms)
        if not self._low and not back_fill and not ticks:
            self._low_since_ms = None
            return self._live_batch(now_ms)
        if self._low_since_ms is None:
            self._low_since_ms = now_ms
        waited = now_ms - self._low_since_ms
        if waited < max(LOW_WAIT_MS, (LOW_TIME_SHARE - 1) * self._low_took_ms):
            live = self._live_batch(now_ms)
            if live is not None:
                return live
        waits = {"low": bool(self._low), "back_fill": back_fill, "ticks": ticks}
        while not waits[turn := self._turns[0]]:
            self._turns.rotate(-1)
        self._turns.rotate(-1)
        if turn == "low":
            return self._low_batch(now_ms)
        tokens = self._batch_tokens // LOW_PRIORITY_SHARE
        return BackFillTurn(tokens) if turn == "back_fill" else TickTurn(tokens)

    def done(self, batch: RefreshBatch | BackFillTurn | TickTurn, seconds: float, now_ms: int) -> None:
        """A batch took so long; it ended now. Teaches the rate, and rule 6 what low-priority work costs."""
        if not isinstance(batch, RefreshBatch) or not batch.live:
            self._low_since_ms, self._low_took_ms = now_ms, 1000 * seconds
        if isinstance(batch, RefreshBatch) and seconds > 0:  # a back-fill computes windows that nobody has seen lately
            measured = batch.tokens / seconds
            self._rate = measured if not self._rate else self._rate + RATE_MEMORY * (measured - self._rate)

    def should_pause(self, now_ms: int) -> bool:
        """Whether input should wait (rule 7). Keeps its last answer between the two bounds."""
        self._advance(now_ms)
        oldest = next(iter(self._eligible.values()), None)
        overdue = 0 if oldest is None else now_ms - oldest.eligible_ms
        load_ms = max(overdue, 1000 * self._seconds(len(self._eligible) * self.tail_tokens + self._live_new))
        bound = self._max_staleness_ms if not self._paused else self._max_staleness_ms / 2
        self._paused = load_ms > bound
        if self._paused:
            self._held.wait(now_ms)
        return self._paused

    def pending(self) -> Pending:
        """Work waiting."""
        live = len(self._eligible) + len(self._delayed)
        live_tokens = live * self.tail_tokens + self._live_new
        low = len(self._low) + len(self._held)
        low_tokens = low * self.tail_tokens + self._low.tokens + self._held.tokens
        return Pending(live, low, live_tokens, low_tokens, self._seconds(live_tokens + low_tokens))

    def _release(self, now_ms: int) -> None:
        """Rule 9: whom the input that has come, or has not, does not let go."""
        for partition, users in self._held.quiet(now_ms).items():
            self._let_go(users, partition, now_ms)
        for partition, users in self._held.overdue(
            now_ms, lambda count, tokens: self._seconds(count * self.tail_tokens + tokens)
        ).items():
            for user, tokens in users.items():
                self._low.add(user, tokens, partition, most=self._max_user_tokens)

    def _let_go(self, users: Mapping[str, int], partition: int, now_ms: int) -> None:
        if users:
            self._backlog(users, partition, now_ms)

    def _backlog(self, users: Mapping[str, int], partition: int, now_ms: int) -> None:
        """users: and their new tokens."""
        waiting = self.pending()
        tokens = waiting.live_tokens + len(users) * self.tail_tokens + sum(users.values())
        # before anything was measured, one batch is sure to be little
        bound = self._rate * self._max_staleness_ms / 1000 if self._rate else self._batch_tokens
        mark = self.mark if tokens <= bound and not self._held.behind(partition) else self.mark_low
        for user, new_tokens in users.items():
            mark(user, now_ms, new_tokens=new_tokens, partition=partition)

    def _seconds(self, tokens: int) -> float:
        return tokens / self._rate if self._rate else 0.0

    def _grow(self, entry: _Entry, new_tokens: int) -> None:
        more = min(new_tokens, self._max_user_tokens - entry.new_tokens)
        entry.new_tokens += more
        self._live_new += more

    def _insert(self, user: str, entry: _Entry, now_ms: int) -> None:
        begun = self._begun_ms.get(user)
        entry.eligible_ms = now_ms if begun is None else max(now_ms, begun + self._min_interval_ms)
        if entry.eligible_ms <= now_ms:
            self._eligible[user] = entry
        else:
            self._delayed[user] = entry
            self._arrivals += 1
            heapq.heappush(self._delayed_order, (entry.eligible_ms, self._arrivals, user))

    def _advance(self, now_ms: int) -> None:
        """Move users whose interval is over, and forget refreshes whose interval is."""
        while self._delayed_order and self._delayed_order[0][0] <= now_ms:
            eligible_ms, _, user = heapq.heappop(self._delayed_order)
            entry = self._delayed.get(user)
            if entry is not None and entry.eligible_ms == eligible_ms:  # else removed since, perhaps marked again
                self._eligible[user] = self._delayed.pop(user)
        while self._begun_order and self._begun_order[0][0] + self._min_interval_ms <= now_ms:
            begun, user = self._begun_order.popleft()
            if self._begun_ms.get(user) == begun:
                del self._begun_ms[user]

    def _begin(self, user: str, now_ms: int) -> None:
        self._begun_ms[user] = now_ms
        self._begun_order.append((now_ms, user))

    def _live_batch(self, now_ms: int) -> RefreshBatch | None:
        users: list[str] = []
        tokens = 0
        while self._eligible:
            user, entry = next(iter(self._eligible.items()))
            cost = self.tail_tokens + entry.new_tokens
            if users and tokens + cost > self._batch_tokens:
                break
            del self._eligible[user]
            self._live_new -= entry.new_tokens
            self._begin(user, now_ms)
            users.append(user)
            tokens += cost
        return RefreshBatch(tuple(users), tokens, live=True) if users else None

    def _low_batch(self, now_ms: int) -> RefreshBatch:
        users: list[str] = []
        tokens = 0
        while (first := self._low.first()) is not None:
            user, new_tokens = first
            cost = self.tail_tokens + new_tokens
            if users and tokens + cost > self._batch_tokens // LOW_PRIORITY_SHARE:
                break
            self._low.take()
            self._begin(user, now_ms)
            users.append(user)
            tokens += cost
        return RefreshBatch(tuple(users), tokens, live=False)
