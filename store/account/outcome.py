"""What becomes of an event in a token buffer."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """What became of an event."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    CONFLICTING = "conflicting"
    """The window holds another event with this id; the first is kept."""
    EXPIRED = "expired"
    """Older than the window and the memory."""
    EVICTED = "evicted"
    """Older than everything in a full window, and not to be remembered."""
    REMEMBERED = "remembered"
    """Older than the window, or than everything in a full one: it counts in the memory, its text does not."""


OUTCOMES = tuple(Outcome)  # walking an enum is slow


class Outcomes(NamedTuple):
    """How many events of a batch became what, those that are judged again among them."""

    applied: int = 0
    duplicate: int = 0
    conflicting: int = 0
    expired: int = 0
    evicted: int = 0
    remembered: int = 0

    @classmethod
    def of(cls, counts: Mapping[Outcome, int]) -> Outcomes:
        """From counts by outcome."""
        return cls(*[counts.get(outcome, 0) for outcome in OUTCOMES])
