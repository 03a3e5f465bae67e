"""What client libraries log, without the repetitions: at a closed port one says so four times a second and more.

And what they do not log: that the broker holds them back.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from store.base import logs, metrics

EVERY_SECONDS = 60.0
THROTTLED_LEAST_SECONDS = 1.0
"""A quota that is just reached holds back for less, all the time."""
log = logs.get(__name__)
_NUMBERS = re.compile(r"\d+")
_AFTER = re.compile(r" \(after .*\)$")


class OncePerCause(logging.Filter):
    """Lets one line of a cause pass per minute, whichever client and broker it is of; it says how many it stands for.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, every_seconds: float = EVERY_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every = every_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be logged; one that stands for others is changed."""
        text = record.getMessage()
        what = cause(text)
        now = self._clock()
        with self._lock:
            if now - self._said.get(what, -self._every) < self._every:
                self._held[what] = self._held.get(what, 0) + 1
                return False
            self._said[what] = now
            held = self._held.pop(what, 0)
        if held:
            record.msg, record.args = f"{text} [and {held} more like it]", ()
        return True


def cause(text: str) -> str:
    """The facility and the end of the sentence: neither client, thread and broker nor any number."""
    facility, _, rest = text.partition(" ")
    said = _AFTER.sub("", rest.rpartition("]: ")[2]).split(": ")[-2:]
    return _NUMBERS.sub("#", f"{facility} {': '.join(said)}")


def once_per_cause(package: str) -> None:
    """Let every logger of a package that has one by now say a cause once a minute, all together. Idempotent."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and f"{name}.".startswith(f"{package}."):
            logger.addFilter(_packages.setdefault(package, OncePerCause()))


_packages: dict[str, OncePerCause] = {}


class Throttling:
    """A `throttle_cb` of librdkafka's, for all clients of a process: counts, and says it once a minute. Thread-safe.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, every_seconds: float = EVERY_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._said: float | None = None
        self._until = -math.inf

    def holds(self) -> bool:
        """Whether a client is held back now, as far as the broker has said."""
        return self._clock() < self._until

    def __call__(self, event: Any) -> None:
        """event: confluent_kafka.ThrottleEvent."""
        metrics.THROTTLED_SECONDS.inc(event.throttle_time)
        if event.throttle_time < THROTTLED_LEAST_SECONDS:
            return
        now = self._clock()
        with self._lock:
            self._until = max(self._until, now + event.throttle_time)
            if self._said is not None and now - self._said < self._every:
                return
            self._said = now
        log.warning(
            logs.CLIENT_THROTTLED,
            broker=event.broker_name,
            seconds=round(event.throttle_time, 1),
            detail="the broker holds this client back by a quota",
            action="raise the quota of the role's client.id or user (producer_byte_rate, consumer_byte_rate, "
            "request_percentage)",
        )


throttling = Throttling()
"""Of all clients of this process."""
