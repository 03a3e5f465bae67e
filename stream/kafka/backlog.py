"""How much of what a producer wrote to a partition is still unread: pure bookkeeping, no I/O.

Offsets say how many messages a reader has left, not how many bytes. So the producer leaves milestones "when the
log ended at `end`, I had written `messages` and `size` bytes" and measures from the newest that the reader has passed.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

FOREIGN_MESSAGE_BYTES = 32 * 1024
"""Assumed size of a message that another producer, or an earlier life of this one, wrote."""


class _Milestone(NamedTuple):
    end: int
    messages: int
    size: int


class Backlog:
    """One partition's unread bytes, never underestimated as long as foreign messages are below their assumed size."""

    __slots__ = ("_milestones", "messages", "room", "size")

    def __init__(self) -> None:
        self.room = 0
        """Bytes that may be written until `unread` is asked again."""
        self.messages = 0
        """Messages written by this producer."""
        self.size = 0
        """Their bytes."""
        self._milestones = deque([_Milestone(0, 0, 0)])

    def take(self, size: int) -> bool:
        """Count one message of `size` bytes if there is room for it."""
        if self.room < size:
            return False
        self.wrote(size)
        return True

    def wrote(self, size: int) -> None:
        """Count one message handed to the client, room or not."""
        self.room -= size
        self.size += size
        self.messages += 1

    def unread(self, committed: int, end: int) -> int:
        """Bytes between the slowest reader and the end of the log; leaves a milestone at the end.

        Call it only when everything written has been acknowledged: it pairs the end with our counts.

        Args:
            committed: the slowest reader's next offset; 0 if it never committed.
            end: the log's next offset; never shrinks.
        """
        last = self._milestones[-1]
        if end > last.end:
            if len(self._milestones) > 1 and last.messages == self.messages:
                self._milestones.pop()  # foreign messages only: one will do, so that their writer cannot grow us
            self._milestones.append(_Milestone(end, self.messages, self.size))
        while len(self._milestones) > 1 and self._milestones[1].end <= committed:
            self._milestones.popleft()
        if committed >= end:
            return 0
        start = self._milestones[0]
        foreign = max(0, end - start.end - (self.messages - start.messages))
        return self.size - start.size + min(foreign, end - committed) * FOREIGN_MESSAGE_BYTES
