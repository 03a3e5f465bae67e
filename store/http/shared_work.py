"""Work that is the same for all who ask at once, on a thread of its own, within a share of the processor."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

CREDIT_SECONDS = 2.0
"""Of work that may be done at once after a time of rest."""


class SharedWork:
    """Who asks while it is done gets what comes of it; who asks too often gets what came of it last. Thread-safe.

    Args:
        name: of the thread.
        share: of one core, over time.
        clock: monotonic seconds.
    """

    def __init__(
        self, name: str, work: Callable[[], bytes], *, share: float = 0.2, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work = work
        self._share = share
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._newest: Future[bytes] | None = None
        self._credit = CREDIT_SECONDS
        self._since = clock()

    async def get(self) -> bytes:
        """What came of it. Raises whatever it raises."""
        # shielded: one who waits no longer must not end it for the others
        return await asyncio.shield(asyncio.wrap_future(self._current()))

    def _current(self) -> Future[bytes]:
        with self._lock:
            now = self._clock()
            self._credit = min(CREDIT_SECONDS, self._credit + (now - self._since) * self._share)
            self._since = now
            if self._newest is None or (self._newest.done() and (self._credit > 0 or self._newest.exception())):
                self._newest = self._executor.submit(self._timed)
            return self._newest

    def _timed(self) -> bytes:
        began = self._clock()
        try:
            return self._work()
        finally:
            with self._lock:
                self._credit -= self._clock() - began
