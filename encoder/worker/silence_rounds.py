"""Silence in one partition: how far time has passed for its users, and whose turn it is to be embedded again.

A vector stands at the last tick time (store/window/silence.py) up to the partition's *horizon*, whole hours of its
stream time, whatever it is computed for: an event, a sweep, a back-fill, an ad-hoc query, a tick. The horizon moves on
only when everybody stands where it says, and the input is not behind; so what was stopped, or replays history, ticks
each user once, at the last of the times it missed.

Protocol (the same letters in encoder/worker/worker.py and docs/commit-protocol.md):
  T1. The horizon has moved: a *round*. In the order of their tick times, the users are looked up that are due.
  T2. Their embeddings are computed from the replica.
  T3. They are published in one transaction with the horizon, and with the time that the round has reached.
  T4. It is written to the replica when they are next due.
A crash before T3's commit leaves nothing; before T4: whose tick time the round has reached is not due any more.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from store.buffer.tick_index import TickEntry
from store.buffer.token_buffer import TokenBuffer
from store.window.silence import SilenceTicks, floor_hour
from store.window.user_window import UserWindow
from stream.commit_metadata import Horizon

LOOK = 512
"""Entries of the index, or users, looked at in one turn."""


class TickBatch(NamedTuple):
    """Users to embed at the time their windows say; may be none, where entries were only set right.

    upto: with them everybody's ticks up to this time are published.
    """

    windows: list[UserWindow]
    upto: int
    met: list[TickEntry]


class SilenceRounds:
    """Of one partition. For the worker's thread. Nothing is computed here."""

    def __init__(self, buffer: TokenBuffer, ticks: SilenceTicks, found: Horizon | None) -> None:
        """Take a partition on; the replica may be behind, and nothing may have been applied to it since it was opened.

        found: as committed; of other days of silence everybody is due again.
        """
        self._buffer = buffer
        self._ticks = ticks
        self._days = f"{zlib.crc32(repr(ticks.days).encode()):08x}"
        self.horizon = floor_hour(buffer.stream_time) if found is None else found.at
        self._reached = found.reached if found is not None and found.days == self._days else 0
        self._from = b""  # no entry is before
        self._walked = ""
        buffer.ticks.keep(ticks, empty=buffer.log_offset == 0)

    @property
    def position(self) -> Horizon | None:
        """To be committed; None: nothing has to be known."""
        return Horizon(self.horizon, self._reached, self._days) if self._ticks else None

    @property
    def waiting(self) -> bool:
        """Whether somebody may be due."""
        return bool(self._ticks) and self._reached < self.horizon

    @property
    def behind_ms(self) -> int:
        """Stream time that has passed beyond what everybody stands at, whole hours."""
        return max(0, floor_hour(self._buffer.stream_time) - self._reached) if self._ticks else 0

    def move(self) -> None:
        """T1. The input is not behind: time passes, if the last round is over."""
        if self._ticks and not self.waiting:
            self.horizon = max(self.horizon, floor_hour(self._buffer.stream_time))

    def window(self, user_id: str) -> UserWindow:
        """A user's window, at the time where whatever is computed of it stands."""
        window = self._buffer.window(user_id)
        return window.at(self._stands(user_id, window.newest_event)) if self._ticks else window

    def next_due(self, windows: Sequence[UserWindow], gone: Sequence[str]) -> Mapping[str, int | None]:
        """For the index, of users who have been embedded at the horizon, and of those of whom nothing is left."""
        dues: dict[str, int | None] = dict.fromkeys(gone)
        return dues | {window.user_id: self._next(window.user_id, window.newest_event) for window in windows}

    def take(self, tokens: int, tail_tokens: int) -> TickBatch | None:
        """T1. The next users whose windows and tails come to about so many tokens, at least one; None: the round ends.

        Args:
            tail_tokens: what a user costs beside the events.
        """
        if not self.waiting:
            return None
        batch = TickBatch([], self._reached, [])
        if not self._buffer.ticks.whole:
            self._walk()
            return batch
        looked, left = 0, tokens
        due: dict[str, int | None] = {}
        done: list[TickEntry] = []
        bound = self.horizon  # nobody who was put back comes before
        ended = False
        for entry in self._entries(done):
            enough = left <= 0 or looked >= LOOK
            if entry.due > bound or (enough and not (batch.met and entry.due == batch.upto)):
                ended = True
                break
            looked += 1
            user = entry.user_id
            if user in self._buffer.dirty:
                done.append(entry)  # W4 says when it is next due
                continue
            newest = self._buffer.newest_event(user) or 0
            stands = self._stands(user, newest)
            if stands == entry.due and stands > self._reached:
                window = self._buffer.window(user).at(stands)
                batch.windows.append(window)
                batch.met.append(entry)
                batch = batch._replace(upto=stands)
                left -= tail_tokens + sum(window.events.values())
                continue
            done.append(entry)
            if stands > max(entry.due, self._reached):  # it has missed some
                due[user] = stands
                bound = min(bound, stands - 1)
            else:
                due[user] = self._next(user, newest)
        self._buffer.ticks.move(done, due)
        if not batch.windows and not ended and bound == self.horizon:
            self._reached = self.horizon  # the round is over
            return None
        return batch

    def reach(self, batch: TickBatch) -> None:
        """T3. From here on the position is that after the batch: to be committed with it."""
        self._reached = max(self._reached, batch.upto)

    def done(self, batch: TickBatch) -> None:
        """T4. Everything of this batch was acknowledged."""
        self._buffer.ticks.move(batch.met, self.next_due(batch.windows, ()))
        if batch.met:
            self._from = batch.met[-1].key

    def _entries(self, dropped: list[TickEntry]) -> Iterator[TickEntry]:
        """Entries up to the horizon in their order, read page by page; those that count no more end in `dropped`."""
        start = self._from
        while True:
            entries, no_more = self._buffer.ticks.due(start, self.horizon, LOOK)
            if not entries and not no_more:
                return
            dropped += no_more
            yield from entries
            start = max((*entries, *no_more), key=lambda entry: entry.key).key + b"\x00"

    def _stands(self, user: str, newest: int) -> int:
        return self._ticks.stands_at(user, newest, self.horizon) if newest else 0

    def _next(self, user: str, newest: int) -> int | None:
        return self._ticks.next_after(user, newest, self.horizon) if newest else None

    def _walk(self) -> None:
        """A part of the users is added to an index that is not whole."""
        page = list(islice(self._buffer.users(after=self._walked), LOOK))
        self._buffer.ticks.add(page)
        self._from = b""
        if len(page) == LOOK:
            self._walked = page[-1]
        else:
            self._walked = ""
            self._buffer.ticks.complete()
