"""No cycle collection while thousands of records are alive: it would look at each of them several times."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_depth = 0
_enabled = False


@contextmanager
def gc_paused() -> Iterator[None]:
    """Several threads may be inside at once: the last one out turns it on again, if the first one in turned it off."""
    global _depth, _enabled
    with _lock:
        if not _depth:
            _enabled = gc.isenabled()
            gc.disable()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth and _enabled:
                gc.enable()
