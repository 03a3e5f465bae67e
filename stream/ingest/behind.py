"""How far behind ingest is, in seconds at its own pace: what it has been given and not judged yet. Pure.

Messages are counted, so no clock of a producer can make it seem behind. What was produced a moment ago is live all the
same, and passes for it: then its producer's clock is believed.
"""

from __future__ import annotations

MEMORY = 0.2
"""Weight of the newest batch in the pace."""
FIRST_PACE = 100_000.0
"""Messages a second, before anything was measured."""
TELLING_MESSAGES = 500
"""The time of a smaller batch says what a batch costs, not a message."""
LIVE_MS = 1000
CLOCKS_APART_MS = 60_000


class Behind:
    """Of one ingest. seconds: as of the last `look`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._pace = FIRST_PACE

    def took(self, messages: int, seconds: float) -> None:
        """Judging and sending a batch took so long."""
        if messages >= TELLING_MESSAGES and seconds > 0:
            self._pace += MEMORY * (messages / seconds - self._pace)

    def look(self, waiting: int) -> None:
        """So many messages wait in all partitions that are read."""
        self.seconds = waiting / self._pace

    def ms(self, newest_ms: int, wall_ms: int) -> float:
        """Of events that are sent now, the newest of which was produced at `newest_ms`."""
        return 0.0 if wall_ms - LIVE_MS <= newest_ms <= wall_ms + CLOCKS_APART_MS else 1000 * self.seconds
