"""When this process's loop last came round: what a liveness probe asks. One loop a process; beaten from any thread."""

from __future__ import annotations

import time

SILENT_SECONDS = 600.0
"""Longer than any batch, and than the 5 minutes after which its group takes the partitions from a consumer."""

_last: float | None = None


def beat() -> None:
    """The loop has come round, or a long step of it advances."""
    global _last
    _last = time.monotonic()


def silent_seconds() -> float:
    """Since the last beat; 0 before the first, when the role is still starting."""
    return 0.0 if _last is None else time.monotonic() - _last
