"""Threads for what takes long, bounded by kind, so that no kind of request holds up another.

Look-ups, which take microseconds, have the threads of the framework to themselves.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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
    """One per kind. searches: neighbours and exports. changes: of scenarios, which wait for the broker. overviews: of
    scenarios and freshness."""

    def __init__(self) -> None:
        self.searches = WorkPool("search", workers=max(2, (os.cpu_count() or 2) - 1), waiting=32)
        self.changes = WorkPool("change", workers=2, waiting=8)
        self.overviews = WorkPool("overview", workers=1, waiting=32)


class WaitingRoom:
    """Requests of a kind that wait for something else than a thread, at most so many. For the event loop's thread."""

    def __init__(self, kind: str, most: int) -> None:
        self._kind = kind
        self.most = most
        self._waiting = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Raises ProblemError: busy."""
        if self._waiting >= self.most:
            metrics.HTTP_BUSY.labels(self._kind).inc()
            raise ProblemError("busy", f"too many requests of this kind ({self._kind}) wait: ask again in a moment")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


class Waits:
    """One per kind. offsets: for `min_offset`. queries: for a worker's answer. readings: of the broker.

    connections: open at once. No kind takes more than a quarter of them, all together leave some.
    """

    def __init__(self, connections: int) -> None:
        self.offsets = WaitingRoom("offset", 0)
        self.queries = WaitingRoom("query", 0)
        self.readings = WaitingRoom("reading", 0)
        self.fit(connections)

    def fit(self, connections: int) -> None:
        """There may be fewer connections than was thought."""
        for room in (self.offsets, self.queries, self.readings):
            room.most = connections // 4


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
