"""Whether the wall clock was set back under this process.

librdkafka 2.16 waits until times of the wall clock. A wait that is under way when the clock goes back lasts longer by
as much, unless a message ends it: without traffic a role would hear nothing, not even the end of its session, for as
long as the clock was set back. A new process waits by the new clock. Forward, waits end early, which harms nothing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from store.base import logs
from store.base.errors import BrokerError

STEP_SECONDS = 10.0
"""Set back by less, waits are longer by less than a session lasts."""
LOOK_SECONDS = 1.0
GRACE_SECONDS = 10.0
"""For an end in order; a role that is in such a wait does not hear that it is to end."""
log = logs.get(__name__)


class ClockWatch:
    """Compares two clocks, of seconds: the wall's, and a monotonic one. For one thread."""

    def __init__(self, wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._clock = clock
        self._ahead: float | None = None

    def back_seconds(self) -> float:
        """By how much the wall's was set back since the last look; 0 for less than STEP_SECONDS."""
        before = self._clock()
        wall = self._wall()
        after = self._clock()
        if after - before > LOOK_SECONDS:
            return 0.0  # this process stood still between the two: they say nothing of each other
        ahead = wall - after
        last, self._ahead = self._ahead, ahead
        back = 0.0 if last is None else last - ahead
        return back if back >= STEP_SECONDS else 0.0


@contextmanager
def watching_clock(
    stop: threading.Event,
    *,
    watch: ClockWatch | None = None,
    look_seconds: float = LOOK_SECONDS,
    grace_seconds: float = GRACE_SECONDS,
    end: Callable[[], object] = lambda: os._exit(1),
) -> Iterator[None]:
    """Inside, `stop` is set once the clock was set back.

    Args:
        end: called where that does not end what is inside within `grace_seconds`.

    Raises:
        BrokerError: it was; raised at the end, in place of what else came of it.
    """
    looked = watch or ClockWatch()
    ended = threading.Event()
    found: list[BrokerError] = []
    looked.back_seconds()

    def look() -> None:
        while not ended.wait(look_seconds):
            if seconds := looked.back_seconds():
                error = went_back(seconds)
                log.warning(logs.CLOCK_WENT_BACK, seconds=round(seconds), detail=error.detail, action=error.action)
                found.append(error)
                stop.set()
                if not ended.wait(grace_seconds):
                    sys.stdout.flush()
                    sys.stderr.flush()
                    end()
                return

    thread = threading.Thread(target=look, name="clock-watch", daemon=True)
    thread.start()
    try:
        yield
    except Exception as exc:
        if found:
            raise found[0] from exc
        raise
    finally:
        ended.set()
        thread.join()
    if found:
        raise found[0]


def went_back(seconds: float) -> BrokerError:
    """The error of a wall clock that was set back."""
    return BrokerError(
        f"the wall clock was set back by {seconds:.0f} s: Kafka's clients in this process may wait as much longer",
        action="a role under `anchorstream up` or Kubernetes starts anew by itself; else start it again. Let the clock "
        "be slewed, not set",
        code="clock_went_back",
    )
