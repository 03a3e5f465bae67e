"""Whether the files that this process has open as its state are still where they were opened.

RocksDB, and whoever else has a file open, goes on writing into one that was deleted or replaced: nothing fails, and
nothing of it is there after the end. The kernel tells: what is open has no name any more, or another one (Linux;
elsewhere nothing is seen).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.base import logs
from store.base.errors import StateError

LOOK_SECONDS = 5.0
_OPEN = Path("/proc/self/fd")
_DELETED = " (deleted)"
_SET_ASIDE = ".damaged/"
_LOCKS = ("LOCK", ".lock")
"""How the names of files end that are open for as long as a state is."""
log = logs.get(__name__)


class StateWatch:
    """Looks at the locks that are held below a folder. For one thread.

    Args:
        folder: a lock that was seen there and is elsewhere, or nowhere, has gone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        self._seen: dict[tuple[int, int], str] = {}

    def gone(self) -> str | None:
        """The name that an open lock was opened by and does not have any more; None: all are in place."""
        now: dict[tuple[int, int], str] = {}
        for name, file in _open_files():
            held, before = name.removesuffix(_DELETED), self._seen.get(file)
            if _SET_ASIDE in name:
                continue  # by the role itself, which may not have let go of all of it yet
            if name.endswith(_DELETED) and _is_lock(held, self._folder):
                return held
            if before is not None and name != before:
                return before  # moved away, with what was open in it
            if _is_lock(name, self._folder):
                now[file] = name
        self._seen = now
        return None


@contextmanager
def watching(folder: Path, stop: threading.Event, *, look_seconds: float = LOOK_SECONDS) -> Iterator[None]:
    """Inside, `stop` is set as soon as state below `folder` has gone.

    Raises:
        StateError: it has; raised at the end, in place of what else came of it.
    """
    ended = threading.Event()
    lost: list[StateError] = []

    def look() -> None:
        watch = StateWatch(folder)
        while not ended.wait(look_seconds):
            if (name := watch.gone()) is not None:
                error = removed(name)
                log.error(logs.STATE_REMOVED, path=name, detail=error.detail, action=error.action)
                lost.append(error)
                stop.set()
                return

    thread = threading.Thread(target=look, name="state-watch", daemon=True)
    thread.start()
    try:
        yield
    except Exception as exc:
        if lost:
            raise lost[0] from exc
        raise
    finally:
        ended.set()
        thread.join()
    if lost:
        raise lost[0]


def removed(path: str | Path) -> StateError:
    """The error of state that was deleted, moved or replaced below who writes it."""
    return StateError(
        f"{path} was removed, moved or replaced while it was in use",
        action="what is written there is lost, so the process ends; started anew, it restores its state from Kafka. "
        "Remove state only while nothing runs",
        code="state_removed",
    )


def _is_lock(name: str, folder: str) -> bool:
    return name.startswith(f"{folder}/") and name.endswith(_LOCKS)


def _open_files() -> Iterator[tuple[str, tuple[int, int]]]:
    """Name, and device and inode, of every file that this process has open."""
    try:
        handles = os.listdir(_OPEN)
    except OSError:
        return
    for handle in handles:
        try:
            name = os.readlink(_OPEN / handle)
            if name.startswith("/"):
                found = os.fstat(int(handle))
                yield name, (found.st_dev, found.st_ino)
        except (OSError, ValueError):
            continue  # closed meanwhile
