"""One `anchorstream up` per data directory: an flock that the kernel drops with its process, however that dies."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TextIO

from store.base import open_files
from store.base.errors import DataDirLocked, StateError
from store.base.file_lock import is_in_place, is_locked, lock

LOCK_FILE = "run/up.lock"


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who holds a data directory. since: epoch seconds. Zeros when the file could not be read."""

    pid: int
    since: float


class DataDirLock:
    """Exclusive lock of a data directory, held until `release` or the end of the process.

    The file stays behind: what counts is the kernel's lock on it, so a file of a dead process is no obstacle.
    Children do not inherit the lock (its descriptor closes on exec).
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path = path
        self._file: TextIO | None = file

    @classmethod
    def acquire(cls, data_dir: Path) -> Self:
        """Lock `data_dir`, creating it if needed. Does not wait.

        Raises:
            DataDirLocked: another process holds it; the message names its pid.
            StateError: the directory cannot be created or written.
        """
        path = data_dir / LOCK_FILE
        if (dangling := dangling_link(data_dir)) is not None:
            raise dangling
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # `holder` takes a shared lock for an instant: one refusal does not mean that somebody runs here
            file = lock(path, wait_seconds=0.1)
        except OSError as exc:
            if (too_many := open_files.exhausted(exc)) is not None:
                raise too_many from exc
            raise StateError(
                f"cannot write to the data directory {data_dir}: {exc.strerror or exc}",
                action="make it writable, or set store.data_dir (--data-dir) to another place",
                code="data_dir_unwritable",
            ) from exc
        if file is None:
            raise _locked(data_dir, read_owner(path))
        file.truncate(0)
        json.dump({"pid": os.getpid(), "since": time.time()}, file)
        file.flush()
        return cls(path, file)

    def in_place(self) -> bool:
        """Whether the file that is locked is still the one at its path: else another may lock the directory too."""
        return self._file is not None and is_in_place(self._file, self.path)

    def release(self) -> None:
        """Give the directory free. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def holder(data_dir: Path) -> LockOwner | None:
    """Who holds `data_dir` now, None if nobody. Never blocks and takes nothing."""
    path = data_dir / LOCK_FILE
    return read_owner(path) if is_locked(path) else None


def dangling_link(data_dir: Path) -> StateError | None:
    """The error of a directory that is, or lies beneath, a link to nothing: a disk that is not mounted. Else None."""
    for path in (data_dir, *data_dir.parents):
        if path.is_symlink() and not path.exists():
            return StateError(
                f"{path} is a link to {path.readlink()}, which is not there",
                action="mount or make what it points to, or set store.data_dir to another place",
                code="data_dir_unwritable",
            )
    return None


def read_owner(path: Path) -> LockOwner:
    """What the lock file says; its writer may be between truncating and writing."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return LockOwner(int(raw["pid"]), float(raw["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return LockOwner(0, 0.0)


def _locked(data_dir: Path, owner: LockOwner) -> DataDirLocked:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
    who = f" (pid {owner.pid}, since {since})" if owner.pid else ""
    return DataDirLocked(
        f"another anchorstream{who} is running on {data_dir}",
        action="use it, stop it (Ctrl-C there), or start this one with another --data-dir",
    )
