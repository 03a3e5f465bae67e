"""Calls into librdkafka that may not come back."""

from __future__ import annotations

import threading
from collections.abc import Callable


def within(seconds: float, call: Callable[[], object], name: str) -> bool:
    """Whether `call` has ended by then; what it raises is raised. One that has not is left to a thread of its own, and
    to the end of the process: whatever it works on is of no use any more."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    return not thread.is_alive()
