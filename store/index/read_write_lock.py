"""A fair lock for one writer and many readers.

`threading.Lock` lets a closed loop of readers starve the writer for seconds; here everyone is served in order of
arrival, and readers that follow each other share. A writer waits for at most the readers already inside.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """First come, first served; consecutive readers share. Not re-entrant, in either role."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._next = 0  # ticket of the next arrival
        self._turn = 0  # ticket that may enter
        self._readers = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        """Hold the lock together with other readers."""
        with self._condition:
            ticket = self._take_ticket()
            while self._turn != ticket:
                self._condition.wait()
            self._readers += 1
            self._turn += 1
            self._condition.notify_all()
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                if not self._readers:
                    self._condition.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._condition:
            ticket = self._take_ticket()
            while self._turn != ticket or self._readers:
                self._condition.wait()
        try:
            yield
        finally:
            with self._condition:
                self._turn += 1
                self._condition.notify_all()

    def _take_ticket(self) -> int:
        ticket = self._next
        self._next += 1
        return ticket
