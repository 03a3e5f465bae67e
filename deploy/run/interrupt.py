"""Ctrl-C, SIGTERM and the end of the terminal as an event that loops look at, so that what runs can finish what it has
begun."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; a second one ends the process as usual. Main thread only.

    But for SIGHUP: the kernel and the shell both send one where a terminal is closed. One that is ignored already
    (`nohup`) stays so.
    """
    stop = threading.Event()
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    }

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        if number != signal.SIGHUP:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
