"""A reading that may take long, made once for all who ask meanwhile, on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from store.base.errors import AnchorstreamError
from store.http.problems import ProblemError

FRESH_SECONDS = 0.5
"""How long a reading is the answer."""
FAILED_SECONDS = 5.0
"""How long a failure is the answer: a broker that is away is not asked at every call."""


class _Outcome(NamedTuple):
    report: dict[str, Any] | None
    failure: Exception | None


class SharedReading:
    """The newest reading. Thread-safe; at most one is under way.

    Args:
        read: blocks; raises AnchorstreamError when the broker does not answer.
        code: of the problem then.
        fresh_seconds: how long a reading is the answer.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        read: Callable[[], dict[str, Any]],
        *,
        code: str = "lag_unavailable",
        fresh_seconds: float = FRESH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._code = code
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._running: Future[_Outcome] | None = None
        self._last: _Outcome | None = None
        self._until = 0.0

    async def get(self, *, wait_seconds: float) -> dict[str, Any]:
        """The report, at most `fresh_seconds` old or of a reading that ends from now on.

        Raises:
            ProblemError: with `code`: the broker did not answer, or not within `wait_seconds`.
        """
        outcome = self._known()
        if isinstance(outcome, Future):
            try:
                # shielded: one who waits no longer must not end it for the others
                outcome = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(outcome)), wait_seconds)
            except TimeoutError:
                raise ProblemError(
                    self._code,
                    f"the broker has not told its offsets within {wait_seconds:g} s; it is still being asked",
                    action="check that it runs (`anchorstream doctor`)",
                    cause="broker_unreachable",
                ) from None
        if isinstance(outcome.failure, AnchorstreamError):
            exc = outcome.failure
            raise ProblemError(self._code, exc.detail, action=exc.action, cause=exc.code) from exc
        if outcome.failure is not None:
            raise outcome.failure
        assert outcome.report is not None, "it failed or it did not"
        return outcome.report

    def _known(self) -> _Outcome | Future[_Outcome]:
        with self._lock:
            if self._running is not None:
                return self._running
            if self._last is not None and self._clock() < self._until:
                return self._last
            self._running = Future()
            # a daemon: a broker that never answers must not hold up the end of the process
            threading.Thread(target=self._make, args=(self._running,), name="reading", daemon=True).start()
            return self._running

    def _make(self, running: Future[_Outcome]) -> None:
        try:
            outcome = _Outcome(self._read(), None)
        except Exception as exc:
            outcome = _Outcome(None, exc)
        with self._lock:
            self._last = outcome
            self._until = self._clock() + (self._fresh_seconds if outcome.failure is None else FAILED_SECONDS)
            self._running = None
        running.set_result(outcome)
