"""Threads for what takes long, bounded by kind, so that no kind of request holds up another.

Look-ups, which take microseconds, have the threads of the framework to themselves.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from store.base import metrics
from store.http.problems import ClientGone, ProblemError

T = TypeVar("T")
Stop = Callable[[], bool]
"""Whether nobody waits for the work any more."""


class WorkPool:
    """Some threads and a short queue before them. Thread-safe.

    Args:
        kind: of the work; a metric's label.
        workers: threads. waiting: most that may queue; beyond it a request is refused at once.
    """

    def __init__(self, kind: str, *, workers: int, waiting: int) -> None:
        self._kind = kind
        self._most = workers + waiting
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=kind)
        self._lock = threading.Lock()
        self._pending = 0

    async def run(self, request: Request, work: Callable[[Stop], T]) -> T:
        """Do it on a thread. When the client leaves first, what queues is dropped, and what runs is told by its `Stop`.

        Raises:
            ProblemError: busy. ClientGone: nobody waits any more. Whatever `work` raises.
        """
        with self._lock:
            if self._pending >= self._most:
                metrics.HTTP_BUSY.labels(self._kind).inc()
                raise ProblemError("busy", f"too many requests of this kind ({self._kind}): ask again in a moment")
            self._pending += 1
        gone = threading.Event()
        future: Future[T] = self._executor.submit(work, gone.is_set)
        future.add_done_callback(self._done)
        answer = asyncio.wrap_future(future)
        leaving: asyncio.Future[None] = asyncio.ensure_future(_left(request))
        try:
            either: set[asyncio.Future[Any]] = {answer, leaving}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientGone
            return answer.result()
        finally:
            gone.set()
            answer.cancel()
            leaving.cancel()

    def _done(self, _: Future[T]) -> None:
        with self._lock:
            self._pending -= 1


class Pools:
    """One per kind. searches: neighbours and exports. changes: of scenarios, which wait for the broker."""

    def __init__(self) -> None:
        self.searches = WorkPool("search", workers=max(2, (os.cpu_count() or 2) - 1), waiting=32)
        self.changes = WorkPool("change", workers=2, waiting=8)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
