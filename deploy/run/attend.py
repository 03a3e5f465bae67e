"""What a person who attends a launcher waits for and is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress

from deploy import output
from deploy.run.launcher import READY_SECONDS, Launcher
from deploy.run.supervisor import ChildEvent, EventKind
from store.base.errors import BrokerError, RoleError
from stream.account.reader import AccountReader
from stream.lag.left import Left, left
from stream.lag.reader import LagReader, plan
from stream.topics import Topics

REFUSED_SECONDS = 10.0
"""Between two looks at what was refused."""
LEFT_SECONDS = 10.0
"""Between two looks at how far behind all is, and what is worth telling: a live system is a second behind."""
_STEP_SECONDS = 1.0


def wait_ready(launcher: Launcher, stop: threading.Event, *, timeout: float = READY_SECONDS) -> None:
    """As `Launcher.wait_ready`, but returns within about a second of `stop` being set."""
    deadline = time.monotonic() + timeout
    while not stop.is_set():
        left = deadline - time.monotonic()
        try:
            return launcher.wait_ready(min(_STEP_SECONDS, max(left, 0.0)))
        except RoleError as error:
            if error.code != "role_not_ready" or left <= 0:
                raise
    return None


def tell(event: ChildEvent) -> None:
    """A role's event on standard error, with its last log lines where it failed."""
    where = f" (pid {event.pid})" if event.kind is EventKind.STARTED else f": {event.detail}" if event.detail else ""
    output.note(f"{event.name} {event.kind}{where}")
    for line in event.log_lines:
        output.note(f"    {line}")
    if event.log_lines and event.log_path is not None:
        output.note(f"    … {event.log_path}")


def telling_left(launcher: Launcher) -> AbstractContextManager[None]:
    """While inside, a line on standard error now and then while a backlog is worked off, and one at its end."""
    return _beside(_tell_left, launcher)


def _tell_left(launcher: Launcher, stop: threading.Event) -> None:
    settings, topics = launcher.settings, Topics(launcher.settings.kafka)
    raw = {modality.topic for modality in settings.modalities.values()}
    behind = Behind()
    while not stop.is_set():
        connection = launcher.connection
        # registered scenarios are served by the same roles: those of the configuration tell
        with closing(LagReader(connection, plan(topics, raw, settings.scenarios))) as lag:
            while not stop.wait(LEFT_SECONDS) and launcher.connection is connection:
                with suppress(BrokerError):  # the launcher looks after the broker
                    if (line := behind.line(left(lag.read(max_age_seconds=0)))) is not None:
                        output.note(line)


class Behind:
    """What to tell of readings that are LEFT_SECONDS apart."""

    def __init__(self) -> None:
        self._seen = 0

    def line(self, now: Left) -> str | None:
        """None where there is nothing to tell: once is a burst, and live traffic is always a little behind."""
        if now.seconds is None or now.seconds > LEFT_SECONDS:
            self._seen += 1
            time_left = "" if now.seconds is None else f"; about {output.duration(now.seconds)} left"
            return f"behind: {now}{time_left}" if self._seen >= 2 and str(now) else None
        told, self._seen = self._seen >= 2, 0
        return "the backlog is done" if told else None


def telling_refused(launcher: Launcher) -> AbstractContextManager[None]:
    """While inside, a line on standard error whenever more messages were refused: nobody looks for what is green."""
    return _beside(_tell_refused, launcher)


def _tell_refused(launcher: Launcher, stop: threading.Event) -> None:
    settings = launcher.settings
    raw = {modality.topic for modality in settings.modalities.values()}
    told = 0
    while not stop.is_set():
        connection = launcher.connection
        with closing(AccountReader(connection, Topics(settings.kafka), raw, timeout_seconds=5.0)) as reader:
            while not stop.wait(REFUSED_SECONDS) and launcher.connection is connection:
                try:
                    refused = reader.read().refused.total()
                except BrokerError:  # the launcher looks after the broker
                    continue
                if refused > told:
                    told = refused
                    output.note(f"refused: {refused:,} (see `anchorstream account`)")


@contextmanager
def _beside(tell: Callable[[Launcher, threading.Event], None], launcher: Launcher) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=tell, args=(launcher, stop), name=tell.__name__, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
