"""What a person who attends a launcher waits for and is told."""

from __future__ import annotations

import threading
import time

from deploy import output
from deploy.run.launcher import READY_SECONDS, Launcher
from deploy.run.supervisor import ChildEvent, EventKind
from store.base.errors import RoleError

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
