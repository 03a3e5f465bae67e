"""What the connections of one server share: places, and the bytes of answers that were not taken yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from store.http.auth import OPEN_PATHS
from store.http.body import BODY_SECONDS

KEEP_ALIVE_SECONDS = 15
ACCEPTED_AT_ONCE = 32
"""Connections taken from the listening socket in one turn of the event loop."""
LOBBY_CONNECTIONS = 4 * ACCEPTED_AT_ONCE
"""Beyond the bound: new, so that nobody is judged before the head that came along was read; and asking after health."""
LINGERING_CONNECTIONS = 64
"""Beyond the bound: answered, and to be closed once their clients have stopped sending."""
ALL_ANSWERS_BYTES = 128 << 20
"""Made and not yet taken, of all connections; small answers are made all the same."""
SMALL_ANSWER_BYTES = 64 << 10
PATIENCE_SECONDS = 2.0
"""After which who takes nothing of an answer gives way to other answers."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """connections: at once. head_seconds: from the connection, or the end of the answer before, to a whole head.

    body_seconds: from there to the end of the body, read or not. answer_seconds: for what is left of an answer, beside
    a second per 64 KiB. linger_seconds: how long what is still sent is swallowed after an answer that closes.
    """

    connections: int
    head_seconds: float = KEEP_ALIVE_SECONDS + 5.0
    body_seconds: float = BODY_SECONDS + 5.0
    answer_seconds: float = 20.0
    linger_seconds: float = 2.0


DEFAULT_LIMITS = ConnectionLimits(connections=1024)


class Guest(Protocol):
    """A connection, as seen by the others."""

    @property
    def heard(self) -> bool:
        """What it had sent when it came was read."""
        ...

    @property
    def stuck_seconds(self) -> float:
        """Since when nothing of an answer was taken; 0 = none is kept."""
        ...

    def cut(self, reason: str) -> None:
        """End it at once, and `leave`."""
        ...


class Connections:
    """Who sits where. Of the event loop's thread.

    A connection *waits* while it is its client's turn: to send a head or a body, or to take an answer. At the bound the
    one that has waited longest makes room, so that many who say nothing, or take nothing, keep nobody out. New ones
    come into a lobby; who says what is wanted there gets a seat, or is told that there is none.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._seated: set[Guest] = set()
        self._lobby: set[Guest] = set()
        self._lingering: dict[Guest, None] = {}
        self._waiting: dict[Guest, None] = {}
        self._kept: dict[Guest, int] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self._seated) + len(self._lobby) + len(self._lingering)

    def enter(self, guest: Guest) -> bool:
        """Whether there was room, if only in the lobby."""
        if self._has_seat():
            self._seated.add(guest)
        elif len(self._lobby) < LOBBY_CONNECTIONS or self._cut_first(self._lobby):
            self._lobby.add(guest)
        else:
            return False
        return True

    def settle(self, guest: Guest) -> None:
        """Give it a seat, if it has none and there is one."""
        if guest in self._lobby and self._has_seat():
            self._lobby.discard(guest)
            self._seated.add(guest)

    def may_ask(self, guest: Guest, path: str) -> bool:
        """Whether a request may be answered."""
        self.settle(guest)
        return guest in self._seated or path in OPEN_PATHS

    def linger(self, guest: Guest) -> None:
        """It has its answer, and no place any more."""
        self.leave(guest)
        while len(self._lingering) >= LINGERING_CONNECTIONS:
            next(iter(self._lingering)).cut("linger")
        self._lingering[guest] = None

    def leave(self, guest: Guest) -> None:
        """It has ended."""
        self._seated.discard(guest)
        self._lobby.discard(guest)
        self._lingering.pop(guest, None)
        self._waiting.pop(guest, None)
        self.keep(guest, 0)

    def waits(self, guest: Guest, waits: bool, *, anew: bool) -> None:
        """Whether it is its client's turn. anew: for something else than before."""
        if anew or not waits:
            self._waiting.pop(guest, None)
        if waits and (guest in self._seated or guest in self._lobby):
            self._waiting.setdefault(guest)

    def keep(self, guest: Guest, size: int) -> None:
        """Bytes of answers that its client has not taken."""
        self._kept_bytes += size - self._kept.pop(guest, 0)
        if size:
            self._kept[guest] = size

    def has_room_for(self, size: int) -> bool:
        """Whether another answer of so many bytes may be kept; who takes none gives way."""
        while size > SMALL_ANSWER_BYTES and self._kept_bytes + size > ALL_ANSWERS_BYTES:
            stuck = next((g for g in self._waiting if g in self._kept and g.stuck_seconds > PATIENCE_SECONDS), None)
            if stuck is None:
                return False
            stuck.cut("answer")
        return True

    def _has_seat(self) -> bool:
        return len(self._seated) < self.limits.connections or self._cut_first(self._seated)

    def _cut_first(self, among: set[Guest]) -> bool:
        first = next((guest for guest in self._waiting if guest.heard and guest in among), None)
        if first is not None:
            first.cut("evicted")
        return first is not None
